"""What the page of an inspected index shows, as data."""

from dataclasses import dataclass, field
from typing import Any

from eager_llm.index.inspect.embedding_comparison import EmbeddingComparison
from eager_llm.index.inspect.nodes import Balance
from eager_llm.index.inspect.treemap import Treemap


@dataclass(frozen=True)
class Branch:
    """The items under a node.

    Attributes:
        tokens: of the node, such as `<a_17>`.
        items: how many there are.
        examples: the tokens and the title of some of them.
    """

    tokens: str
    items: int
    examples: list[tuple[str, str]]


@dataclass(frozen=True)
class SourceData:
    """One source's tree.

    Attributes:
        name: of the source.
        levels: the letter of each level.
        leaves: places for an item.
        balance: of each level.
        errors: mean squared distance of the items to their path's point after each level, if the
            index has it.
        comparison: with the embedding, if there is one.
        treemap: its picture.
        top: the branches of the picture, in the order of its boxes, with their typical items; empty
            where there are too many to tell apart.
        branches: the largest first-level branch and some random ones.
    """

    name: str
    levels: list[str]
    leaves: int
    balance: list[Balance]
    errors: list[float] | None
    comparison: EmbeddingComparison | None
    treemap: Treemap
    top: list[Branch]
    branches: list[Branch]


@dataclass(frozen=True)
class InspectData:
    """What the page shows.

    Attributes:
        items: number of items.
        branching: labels of a level.
        version, parent, change, checksum: see `ItemIndex`.
        titled: whether the items have titles.
        sources: one for each source, in the order of their tokens.
        requested: the branches that the caller named.
        notes: what a reader should know before trusting the figures.
    """

    items: int
    branching: int
    version: int
    parent: str
    change: dict[str, Any]
    checksum: str
    titled: bool
    sources: list[SourceData]
    requested: list[Branch]
    notes: list[str] = field(default_factory=list)
