"""The bodies of answers to requests for items, texts and events."""

from typing import Literal

from pydantic import BaseModel, Field

# Why the fallback answered; also the causes that the metrics count by.
FallbackReason = Literal[
    "unknown_user",
    "empty_history",
    "no_known_items",
    "features_unavailable",
    "features_slow",
    "deadline",
    "decoder_failed",
]


class IndexToken(BaseModel):
    """A token of an item's path through the index."""

    token: str
    source: str = Field(description="the source of the index, such as behaviour")
    level: int = Field(description="the level in its source, from 1")


class PathToken(IndexToken):
    """A token of an item's path, with its factor in the item's score."""

    probability: float = Field(
        description="the token's factor: the model's probability of the token after the tokens"
        " before it, as the bundle normalises, times the token's factor of the weighted item prior"
        " where the bundle has one; the logarithms of a path's factors add up to the item's score"
    )


class HistoryNeighbour(BaseModel):
    """The item of the history that is nearest to a recommended one in a source of the index."""

    item_id: str
    title: str
    source: str
    shared_levels: int = Field(
        description="how many first tokens of that source the two paths share"
    )
    distance: float = Field(description="1: as far as two items drawn at random")


class Explanation(BaseModel):
    """Why the model recommends an item."""

    path: list[PathToken]
    neighbours: list[HistoryNeighbour]


class RankedItem(BaseModel):
    """One item of an answer."""

    item_id: str
    title: str
    score: float | None = Field(
        description="the model's log-probability of the item, plus the weighted logarithm of the"
        " item prior where the bundle has one; null where the fallback answered"
    )
    why: Explanation | None = Field(
        default=None, description="where the request has explain and the model answered"
    )


class ItemsAnswer(BaseModel):
    """The answer, best item first."""

    items: list[RankedItem]
    source: Literal["model", "fallback"] = Field(description="what answered")
    reason: FallbackReason | None = Field(default=None, description="why the fallback answered")
    shortfall: str | None = Field(default=None, description="why fewer than k items came")
    ignored_items: list[str] = Field(
        default_factory=list, description="items of the history that the bundle lacks"
    )
    history: list[str] = Field(
        default_factory=list, description="the items that the model read, oldest first"
    )
    bundle_version: str


class DescribeAnswer(BaseModel):
    """The text of an item."""

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
        description="how many first tokens the two paths share, by source"
    )


class SimilarAnswer(BaseModel):
    """The nearest items, nearest first."""

    items: list[SimilarItem]
    shortfall: str | None = Field(default=None, description="why fewer than k items came")


class EventAnswer(BaseModel):
    """What became of an event."""

    status: Literal["added", "known", "late"] = Field(
        description="added: the next recommendation sees it; known: the same event came before;"
        " late: it is older than all that is kept of the user online, and counts from the next"
        " publication of the log"
    )
    history: list[str] = Field(description="the user's items online now, oldest first")
    unknown_item: str | None = Field(
        default=None,
        description="the event's item, where the bundle does not know it: it is kept, and counts"
        " once a bundle that knows it is served",
    )
