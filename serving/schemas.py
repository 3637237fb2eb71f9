"""What the service is asked and what it answers. Unknown fields are refused."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from eager_llm.decoding.filters import Between, Condition, OneOf

ItemId = Annotated[str, Field(min_length=1, max_length=256)]
UserId = Annotated[str, Field(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=1, le=100, strict=True)]
Place = Literal["first", "second"]


class Asked(BaseModel):
    """A request: unknown fields and numbers that are none are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ColumnFilter(Asked):
    """A condition on a catalogue column; of several, all must hold."""

    column: Annotated[str, Field(min_length=1, max_length=256)]
    any_of: Annotated[list[bool | float | str], Field(min_length=1, max_length=1000)] | None = (
        Field(
            default=None,
            description="the cell is one of these; of categories, one of the cell's labels is",
        )
    )
    least: float | None = Field(default=None, description="the number is at least this")
    most: float | None = Field(default=None, description="the number is at most this")
    deny: bool = Field(
        False,
        strict=True,
        description="leave out what meets the condition, instead of only keeping it",
    )

    @model_validator(mode="after")
    def _one_form(self) -> "ColumnFilter":
        if (self.any_of is None) == (self.least is None and self.most is None):
            raise ValueError("give either any_of, or least, most or both")
        return self

    def condition(self) -> Condition:
        """Return the condition as the library takes it."""
        if self.any_of is not None:
            return OneOf(self.column, tuple(self.any_of), self.deny)
        return Between(self.column, self.least, self.most, self.deny)


class ItemsRequest(Asked):
    """What every request for items may say."""

    k: Count = Field(10, description="how many items are wanted")
    filters: Annotated[list[ColumnFilter], Field(max_length=100)] = Field(
        default_factory=list, description="conditions that every item of the answer meets"
    )
    bundle: Place = Field("first", description="which bundle answers, where the service has two")


class HistoryRequest(ItemsRequest):
    """A request for items that may speak of a user."""

    user_id: UserId | None = Field(
        default=None, description="a user whose history is in the online store"
    )
    items: Annotated[list[ItemId], Field(max_length=1000)] | None = Field(
        default=None, description="item ids that were chosen, oldest first"
    )
    exclude_history: bool = Field(
        False, strict=True, description="answer with nothing that the history holds"
    )
    explain: bool = Field(False, strict=True, description="say of each item why it came")


class RecommendRequest(HistoryRequest):
    """Ask for a known user, or for a history of item ids."""

    @model_validator(mode="after")
    def _one_of(self) -> "RecommendRequest":
        if (self.user_id is None) == (self.items is None):
            raise ValueError("give either user_id or items")
        return self


class SearchRequest(HistoryRequest):
    """Look for items by words, for anybody or for someone with a history."""

    words: Annotated[str, Field(min_length=1, max_length=1000, pattern=r"\S")] = Field(
        description="what is looked for; the model reads the first tokens, as many as it was tuned with"
    )

    @model_validator(mode="after")
    def _at_most_one(self) -> "SearchRequest":
        if self.user_id is not None and self.items is not None:
            raise ValueError("give user_id or items, or neither")
        return self


class DescribeRequest(Asked):
    """Let the model say what an item is."""

    item_id: ItemId
    max_tokens: Annotated[int, Field(ge=1, le=128, strict=True)] = Field(
        32, description="length of the text, at most"
    )
    bundle: Place = Field("first", description="which bundle answers, where the service has two")


class SimilarRequest(ItemsRequest):
    """Ask for items near another in the item index."""

    item_id: ItemId
    source: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="a source of the index, such as behaviour or semantic; none: all"
    )


class EventRequest(Asked):
    """What a user just did."""

    user_id: UserId
    item_id: ItemId
    timestamp: AwareDatetime = Field(
        description="when, in ISO 8601 with a time zone; kept by the second"
    )


class PathToken(BaseModel):
    """A token of an item's path through the index."""

    token: str
    source: str = Field(description="the source of the index, such as behaviour")
    level: int = Field(description="in its source, from 1")
    probability: float = Field(
        description="of the token after those before it, as the bundle normalises, times its share of the weighted prior where there is one"
    )


class HistoryNeighbour(BaseModel):
    """The item of the history that is nearest to a recommended one in a source of the index."""

    item_id: str
    title: str
    source: str
    shared_levels: int = Field(
        description="tokens of that source that the two paths share from the first on"
    )
    distance: float = Field(description="1: as far as two items drawn at random")


class Why(BaseModel):
    """Why an item came."""

    path: list[PathToken]
    neighbours: list[HistoryNeighbour]


class RankedItem(BaseModel):
    """One item of an answer."""

    item_id: str
    title: str
    score: float | None = Field(
        description="log-probability of the item, and its weighted prior where the bundle has one; null where the fallback answered"
    )
    why: Why | None = Field(
        default=None, description="where it was asked for and the model answered"
    )


# Why the fallback answered; also the causes that the metrics count by.
Reason = Literal[
    "unknown_user",
    "empty_history",
    "no_known_items",
    "features_unavailable",
    "features_slow",
    "deadline",
    "decoder_failed",
]


class ItemsAnswer(BaseModel):
    """The answer, best item first."""

    items: list[RankedItem]
    source: Literal["model", "fallback"] = Field(description="what answered")
    reason: Reason | None = Field(default=None, description="why the fallback answered")
    shortfall: str | None = Field(default=None, description="why fewer than k items came")
    ignored_items: list[str] = Field(
        default_factory=list, description="items of the history that the bundle lacks"
    )
    history: list[str] = Field(
        default_factory=list, description="the items that were read, oldest first"
    )
    bundle_version: str


class DescribeAnswer(BaseModel):
    """What an item is."""

    item_id: str
    text: str
    source: Literal["model", "catalogue"] = Field(
        description="what answered; the catalogue where the model could not"
    )
    reason: Literal["deadline", "decoder_failed"] | None = Field(
        default=None, description="why the catalogue answered"
    )


class SimilarItem(BaseModel):
    """An item near another."""

    item_id: str
    title: str
    distance: float = Field(description="1: as far as two items drawn at random")
    shared_levels: dict[str, int] = Field(
        description="tokens that the two paths share from the first on, by source"
    )


class SimilarAnswer(BaseModel):
    """The nearest items, nearest first."""

    items: list[SimilarItem]
    shortfall: str | None = Field(default=None, description="why fewer than k items came")


class ItemSummary(BaseModel):
    """An item of the catalogue, in short."""

    item_id: str
    title: str


class ItemList(BaseModel):
    """Items of the catalogue."""

    items: list[ItemSummary]


class IndexToken(BaseModel):
    """A token of an item in the index."""

    token: str
    source: str
    level: int


class ItemFacts(BaseModel):
    """What the bundle knows of an item."""

    item_id: str
    title: str
    attributes: dict[str, Any] = Field(description="every column of the catalogue")
    path: list[IndexToken]


class EventAnswer(BaseModel):
    """What became of an event."""

    status: Literal["added", "known", "late"] = Field(
        description="added: the next recommendation sees it; known: the same event came before; late: it is older "
        "than all that is kept of the user online, and counts from the next publication of the log"
    )
    history: list[str] = Field(description="the user's items online now, oldest first")


class UserList(BaseModel):
    """Some users whose history is online."""

    users: list[str]


class ColumnFacts(BaseModel):
    """A column that can be filtered by."""

    name: str
    kind: Literal["text", "number", "flag"]
    values: list[str] = Field(
        default_factory=list, description="the most frequent values of a text"
    )
    least: float | None = None
    most: float | None = None


class BundleFacts(BaseModel):
    """One bundle."""

    version: str
    schema_version: int
    items: int
    index_version: int
    sources: dict[str, int] = Field(description="levels by source of the index")
    parameters: int
    beams: int
    max_history: int
    device: str
    data: dict[str, Any] = Field(description="the log that the bundle was made from")
    metrics: dict[str, Any] = Field(description="as measured when the bundle was packed")
    columns: list[ColumnFacts]


class Info(BaseModel):
    """What answers here."""

    first: BundleFacts
    second: BundleFacts | None
    users: bool = Field(description="whether users can be looked up")
    describe: bool = Field(description="whether /search and /describe are offered")
    deadline_ms: int
