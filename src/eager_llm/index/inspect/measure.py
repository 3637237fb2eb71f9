"""What an item index is like, in figures: balance, distortion, neighbours, and what its branches hold."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.index.build import Embeddings, open_for_index
from eager_llm.index.inspect.neighbours import Compared, compare
from eager_llm.index.inspect.nodes import Balance, Nodes, balance, tree_nodes
from eager_llm.index.inspect.treemap import Treemap, draw_treemap
from eager_llm.index.item_index import ItemIndex, letters
from eager_llm.index.shards import Shards

EXAMPLES = 8  # titles of a branch
TYPICAL = 3  # titles of a branch of the picture
DRAWN = 3  # branches of a source drawn by the seed, beside the largest
MOST_BRANCHES = 4096  # of a picture that are told apart
DRIFT = (
    1.5  # embeddings so much farther from the paths than when they were made are other embeddings
)


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
        errors: mean squared distance of the items to their path's point after each level, if known.
        compared: with the embedding, if it was given.
        treemap: its picture.
        top: the branches of the picture, in the order of its boxes, with their typical items; empty
            where there are too many to tell apart.
        branches: the largest first-level branch and some drawn ones.
    """

    name: str
    levels: list[str]
    leaves: int
    balance: list[Balance]
    errors: list[float] | None
    compared: Compared | None
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
        titled: the items have titles.
        sources: one for each source, in the order of their tokens.
        asked: the branches that were asked for.
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
    asked: list[Branch]
    notes: list[str] = field(default_factory=list)


def inspect_index(
    index: ItemIndex,
    titles: Mapping[str, str] | None = None,
    embeddings: Embeddings | None = None,
    seed: int = 0,
    item_ids: list[str] | None = None,
    branches: Sequence[str] = (),
) -> InspectData:
    """Measure an index.

    Args:
        titles: of the items; an item without one is called by its id.
        embeddings: of any of the index's sources, as it was built on them.
        seed: of the drawn branches and of the items whose neighbours are looked for.
        item_ids: the items in the order of the embeddings' rows, at least those of the index; None
            takes the order of the index.
        branches: branches to show, each of tokens such as `<a_17>` or `<a_17><b_3>`; all items that have them.

    Raises:
        UserError: there are no items, a branch or an embedding does not fit the index, or `item_ids`
            lack an item.
    """
    if not index.item_ids:
        raise UserError("the index has no items to look at")
    teller = _Teller(index, titles)
    asked = [teller.branch("".join(branch), rows) for branch, rows in _asked(index, branches)]
    order = _order(index, item_ids)
    shards = _open(index, embeddings or {}, index.item_ids if item_ids is None else item_ids)
    sources = [_source(teller, name, shards.get(name), order, seed) for name in index.levels_of]
    return InspectData(
        items=len(index.item_ids),
        branching=index.branching,
        version=index.version,
        parent=index.parent,
        change=index.change,
        checksum=index.checksum,
        titled=titles is not None,
        sources=sources,
        asked=asked,
        notes=_notes(index, sources),
    )


class _Teller:
    """Says what items and branches are called."""

    def __init__(self, index: ItemIndex, titles: Mapping[str, str] | None) -> None:
        self.index, self.titles = index, titles or {}

    def title(self, row: int) -> str:
        item = self.index.item_ids[row]
        return self.titles.get(item) or item

    def branch(self, tokens: str, rows: np.ndarray) -> Branch:
        """Return a branch with examples spread over it: evenly, in the order of the paths."""
        in_order = rows[np.lexsort(self.index.codes[rows].T[::-1])]
        drawn = in_order[np.unique(np.linspace(0, len(rows) - 1, EXAMPLES).round().astype(int))]
        return Branch(tokens, len(rows), self.examples(drawn))

    def examples(self, rows: np.ndarray) -> list[tuple[str, str]]:
        return [
            (_tokens(enumerate(self.index.codes[row])), self.title(row)) for row in rows.tolist()
        ]


def _source(
    teller: _Teller, name: str, shards: Shards | None, order: np.ndarray, seed: int
) -> SourceData:
    index, levels = teller.index, teller.index.levels_of[name]
    codes, centroids = index.codes[:, levels], index.centroids[levels]
    nodes = tree_nodes(codes, index.branching)
    above = [np.array([len(codes)]), *(level.size for level in nodes[:-1])]
    top, rng = nodes[0], np.random.default_rng(seed)
    largest = int(top.size.argmax())
    others = np.delete(np.arange(len(top.size)), largest)
    drawn = [largest, *sorted(rng.choice(others, min(DRAWN, len(others)), replace=False).tolist())]
    named = [_tokens([(levels.start, label)]) for label in top.label]
    return SourceData(
        name=name,
        levels=[letters(level) for level in range(levels.start, levels.stop)],
        leaves=index.branching ** len(nodes),
        balance=[
            balance(level, sizes, index.branching)
            for level, sizes in zip(nodes, above, strict=True)
        ],
        errors=None
        if index.errors is None
        else index.errors[:, levels].mean(0, dtype=np.float64).tolist(),
        compared=None if shards is None else compare(shards, order, codes, centroids, nodes, seed),
        treemap=draw_treemap(nodes, centroids),
        top=_typical(
            teller, named, top, None if index.errors is None else index.errors[:, levels.start]
        ),
        branches=[
            teller.branch(named[node], np.flatnonzero(top.of_item == node)) for node in drawn
        ],
    )


def _typical(
    teller: _Teller, named: list[str], top: Nodes, errors: np.ndarray | None
) -> list[Branch]:
    """Return the first-level branches with the items nearest to their centroid, or any where that is not known."""
    if len(named) > MOST_BRANCHES:
        return []
    by_node = (
        np.argsort(top.of_item, kind="stable")
        if errors is None
        else np.lexsort((errors, top.of_item))
    )
    starts = np.cumsum(top.size) - top.size
    return [
        Branch(tokens, size, teller.examples(by_node[start : start + min(size, TYPICAL)]))
        for tokens, start, size in zip(named, starts.tolist(), top.size.tolist(), strict=True)
    ]


def _asked(index: ItemIndex, branches: Sequence[str]) -> list[tuple[list[str], np.ndarray]]:
    """Return the tokens of each branch asked for, and the rows of its items."""
    known = {
        token: divmod(number, index.branching) for number, token in enumerate(index.vocabulary)
    }
    found = []
    for branch in branches:
        tokens = [f"<{token}>" for token in re.findall(r"[^<>\s]+", branch)]
        unknown = [token for token in tokens if token not in known]
        if unknown or not tokens:
            raise UserError(
                f"branch {branch!r}: {unknown[0] if unknown else 'nothing'} is no token of this index; write it as "
                f"<a_17> or <a_17><b_3>, levels a to {letters(index.levels - 1)}, labels 0 to {index.branching - 1}"
            )
        under = np.ones(len(index.item_ids), dtype=bool)
        for level, label in (known[token] for token in tokens):
            under &= index.codes[:, level] == label
        if not under.any():
            raise UserError(f"branch {branch!r}: no item has {' and '.join(tokens)}")
        found.append((tokens, np.flatnonzero(under)))
    return found


def _order(index: ItemIndex, item_ids: list[str] | None) -> np.ndarray:
    """Return the row of each item of the index in the embeddings, int64 [items]."""
    if item_ids is None:
        return np.arange(len(index.item_ids))
    given = pd.Index(item_ids)
    if given.has_duplicates:
        raise UserError(f"item {given[given.duplicated()][0]!r} is given twice")
    order = given.get_indexer(pd.Index(index.item_ids))
    if (order < 0).any():
        missing = np.flatnonzero(order < 0)
        raise UserError(
            f"the items lack {index.item_ids[missing[0]]!r}, which the index has ({len(missing)} such items); "
            "give all items of the index"
        )
    return order


def _open(index: ItemIndex, embeddings: Embeddings, item_ids: list[str]) -> dict[str, Shards]:
    unknown = [name for name in embeddings if name not in index.levels_of]
    if unknown:
        raise UserError(
            f"the index has no source {unknown[0]!r}; it has {', '.join(index.levels_of)}"
        )
    if embeddings and not index.centroids:
        raise UserError("this index has no centroids to compare embeddings with; build it anew")
    return open_for_index(index, item_ids, embeddings, list(embeddings))


def _notes(index: ItemIndex, sources: list[SourceData]) -> list[str]:
    notes = []
    for source in sources:
        if source.compared is None or index.errors is None:
            continue
        then = float(
            index.errors[source.compared.rows, index.levels_of[source.name].stop - 1].mean()
        )
        now = source.compared.distance
        if now > DRIFT * then + 1e-3 * source.compared.variance:
            notes.append(
                f"These {source.name} embeddings are not those that the paths were made for: the mean squared "
                f"distance from an item to its path's point is {now:.4g}, and was {then:.4g}. Check that the rows are "
                "in the order of the items; after training an encoder anew, refresh the index."
            )
    return notes


def _tokens(labels: Any) -> str:
    return "".join(f"<{letters(level)}_{label}>" for level, label in labels)
