"""The bodies of requests. Unknown fields are refused."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from eager_llm.core.short_text import shortened
from eager_llm.data.tables import LONGEST_ID
from eager_llm.decoding.filters import Between, Condition, Filter, OneOf

ItemId = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
UserId = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
ItemCount = Annotated[int, Field(ge=1, le=100, strict=True)]
BundleName = Literal["first", "second"]
# The first mistake of a list ends its reading: a request may not make work of its mistakes.
CellValues = Annotated[
    list[bool | int | float | str], Field(fail_fast=True, min_length=1, max_length=1000)
]
# Of all filters of a request together.
MAX_FILTER_VALUES = 5000
# Numbers would have to be guessed at: seconds, or milliseconds.
_ISO_8601 = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.{1,30}", re.IGNORECASE | re.ASCII)


def _written_moment(value: Any) -> Any:
    """Return a timestamp that is written as ISO 8601. Raises ValueError for another one."""
    if not isinstance(value, str) or not _ISO_8601.fullmatch(value):
        raise ValueError(
            f"{shortened(repr(value))}: write it as 2026-01-31T12:00:00Z, with a time zone"
        )
    return value


class StrictModel(BaseModel):
    """A body that refuses unknown fields, and infinity and NaN as numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ColumnFilter(StrictModel):
    """A condition on a catalogue column; of several, all must hold."""

    column: Annotated[str, Field(min_length=1, max_length=256)]
    any_of: CellValues | None = Field(
        default=None,
        description="the cell is one of these; of categories, one of the cell's labels is",
    )
    least: int | float | None = Field(default=None, description="the number is at least this")
    most: int | float | None = Field(default=None, description="the number is at most this")
    deny: bool = Field(
        False,
        strict=True,
        description="leave out what meets the condition, instead of only keeping it",
    )

    @model_validator(mode="after")
    def _has_one_form(self) -> "ColumnFilter":
        is_range = self.least is not None or self.most is not None
        if is_range == (self.any_of is not None):
            raise ValueError("give either any_of, or least, most or both")
        return self

    def condition(self) -> Condition:
        """Return the condition as the library takes it."""
        if self.any_of is not None:
            return OneOf(self.column, tuple(self.any_of), self.deny)
        return Between(self.column, self.least, self.most, self.deny)


class ItemsRequest(StrictModel):
    """The fields of every request for items."""

    k: ItemCount = Field(10, description="how many items to return")
    filters: Annotated[list[ColumnFilter], Field(fail_fast=True, max_length=100)] = Field(
        default_factory=list,
        description="conditions that every item of the answer meets; of all together at most"
        f" {MAX_FILTER_VALUES} values",
    )
    bundle: BundleName = Field(
        "first", description="which bundle answers, where the service has two"
    )

    @field_validator("filters")
    @classmethod
    def _has_bounded_values(cls, filters: list[ColumnFilter]) -> list[ColumnFilter]:
        count = sum(len(column_filter.any_of or []) for column_filter in filters)
        if count > MAX_FILTER_VALUES:
            raise ValueError(
                f"all filters together have {count} values; at most {MAX_FILTER_VALUES} are taken"
            )
        return filters

    def conditions(self) -> Filter:
        """Return the filters as the library takes them."""
        return frozenset(column_filter.condition() for column_filter in self.filters)


class HistoryRequest(ItemsRequest):
    """A request for items that may name a user or a history."""

    user_id: UserId | None = Field(
        default=None, description="a user whose history is in the online store"
    )
    items: Annotated[list[ItemId], Field(fail_fast=True, max_length=1000)] | None = Field(
        default=None, description="the history as item ids, oldest first"
    )
    exclude_history: bool = Field(False, strict=True, description="return no item of the history")
    explain: bool = Field(False, strict=True, description="explain each item of the answer")


class RecommendRequest(HistoryRequest):
    """Recommend items for a user, or for a history of item ids."""

    @model_validator(mode="after")
    def _has_user_or_items(self) -> "RecommendRequest":
        if (self.user_id is None) == (self.items is None):
            raise ValueError("give either user_id or items")
        return self


class SearchRequest(HistoryRequest):
    """Look for items by words, for anybody or for someone with a history."""

    words: Annotated[str, Field(min_length=1, max_length=1000, pattern=r"\S")] = Field(
        description="the query; the model reads its first tokens, as many as it was tuned with"
    )

    @model_validator(mode="after")
    def _has_not_both(self) -> "SearchRequest":
        if self.user_id is not None and self.items is not None:
            raise ValueError("give user_id or items, or neither")
        return self


class DescribeRequest(StrictModel):
    """Let the model describe an item."""

    item_id: ItemId
    max_tokens: Annotated[int, Field(ge=1, le=128, strict=True)] = Field(
        32, description="length of the text, at most"
    )
    bundle: BundleName = Field(
        "first", description="which bundle answers, where the service has two"
    )


class SimilarRequest(ItemsRequest):
    """Ask for the items nearest to another in the item index."""

    item_id: ItemId
    source: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="a source of the index, such as behaviour or semantic; none: all"
    )


class EventRequest(StrictModel):
    """An event of a user: the item and the time."""

    user_id: UserId
    item_id: ItemId
    timestamp: Annotated[AwareDatetime, BeforeValidator(_written_moment)] = Field(
        description="when, in ISO 8601 with a time zone; kept by the second"
    )
