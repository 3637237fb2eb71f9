"""The bodies of answers about the service, its bundles, and their items and users."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from serving.schemas.answers import IndexToken


class ItemSummary(BaseModel):
    """An item of the catalogue, in short."""

    item_id: str
    title: str


class ItemList(BaseModel):
    """Items of the catalogue."""

    items: list[ItemSummary]


class ItemMetadata(BaseModel):
    """An item of the catalogue in full, and its path through the index."""

    item_id: str
    title: str
    attributes: dict[str, Any] = Field(description="every column of the catalogue")
    path: list[IndexToken]


class UserList(BaseModel):
    """Some users whose history is online."""

    users: list[str]


class ColumnMetadata(BaseModel):
    """A column that requests can filter by."""

    name: str
    kind: Literal["text", "number", "flag"]
    values: list[str] = Field(
        default_factory=list, description="the most frequent values of a text"
    )
    least: int | float | None = None
    most: int | float | None = None


class BundleMetadata(BaseModel):
    """One bundle."""

    version: str
    schema_version: int
    items: int
    index_version: int
    sources: dict[str, int] = Field(description="levels by source of the index")
    parameters: int = Field(
        description="of the model that decodes: tied weights count once, and an adapter that is"
        " merged into the weights adds none"
    )
    beams: int
    max_history: int
    device: str
    data: dict[str, Any] = Field(description="the log that the bundle was made from")
    metrics: dict[str, Any] = Field(description="as measured when the bundle was packed")
    columns: list[ColumnMetadata]


class Info(BaseModel):
    """The service and its bundles."""

    first: BundleMetadata
    second: BundleMetadata | None
    users: bool = Field(description="whether users can be looked up")
    describe: bool = Field(description="whether /search and /describe are offered")
    deadline_ms: int
