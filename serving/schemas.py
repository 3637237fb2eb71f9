"""What the service is asked and what it answers. Unknown fields are refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ItemId = Annotated[str, Field(min_length=1, max_length=256)]


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
    ignored_items: list[str] = Field(default_factory=list, description="items of the history that the bundle lacks")
