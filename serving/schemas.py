"""What the service is asked and what it answers. Unknown fields are refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eager_llm.decoding.filters import Between, Condition, OneOf

ItemId = Annotated[str, Field(min_length=1, max_length=256)]


class ColumnFilter(BaseModel):
    """A condition on a catalogue column; of several, all must hold."""

    model_config = ConfigDict(extra="forbid")

    column: Annotated[str, Field(min_length=1, max_length=256)]
    any_of: Annotated[list[bool | float | str], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="the cell is one of these; of categories, one of the cell's labels is"
    )
    least: float | None = Field(None, description="the number is at least this")
    most: float | None = Field(None, description="the number is at most this")
    deny: bool = Field(False, description="leave out what meets the condition, instead of only keeping it")

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


class RecommendRequest(BaseModel):
    """Ask for a known user, or for a history of item ids."""

    model_config = ConfigDict(extra="forbid")

    user_id: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="a user whose history is in the online store"
    )
    items: Annotated[list[ItemId], Field(max_length=1000)] | None = Field(
        None, description="item ids that were chosen, oldest first"
    )
    k: int = Field(10, ge=1, le=100, strict=True, description="how many items to recommend")

    filters: Annotated[list[ColumnFilter], Field(max_length=100)] = Field(
        default_factory=list, description="conditions that every recommended item meets"
    )
    exclude_history: bool = Field(False, strict=True, description="recommend nothing that the history holds")

    @model_validator(mode="after")
    def _one_of(self) -> "RecommendRequest":
        if (self.user_id is None) == (self.items is None):
            raise ValueError("give either user_id or items")
        return self


class RecommendedItem(BaseModel):
    """One recommendation."""

    item_id: str
    title: str
    score: float | None = Field(description="log-probability of the item; null where the fallback ranking answered")


class RecommendResponse(BaseModel):
    """The answer, best item first."""

    items: list[RecommendedItem]
    source: Literal["model", "fallback"] = Field(description="what answered")
    reason: Literal["unknown_user", "empty_history", "no_known_items", "features_unavailable"] | None = Field(
        default=None, description="why the fallback ranking answered"
    )
    shortfall: str | None = Field(default=None, description="why fewer than k items came")
    ignored_items: list[str] = Field(default_factory=list, description="items of the history that the bundle lacks")
