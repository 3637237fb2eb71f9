"""What an item index is like, in figures: balance, distortion, neighbours, and its branches."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.index.build import Embeddings, open_for_index
from eager_llm.index.inspect.branches import BranchReader
from eager_llm.index.inspect.data import InspectData, SourceData
from eager_llm.index.inspect.embedding_comparison import compare_embedding
from eager_llm.index.inspect.nodes import Balance, Nodes, balance_of, tree_nodes
from eager_llm.index.inspect.treemap import draw_treemap
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.paths import level_letters
from eager_llm.index.shards import Shards

# Embeddings so many times farther from the paths than they were are other embeddings,
DRIFT = 1.5
# where it is not rounding, as a share of the variance.
DRIFT_ROUNDING = 1e-3


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
        seed: of the random branches and of the items whose neighbours are looked for.
        item_ids: the items in the order of the embeddings' rows, at least those of the index; None
            takes the order of the index.
        branches: branches to show, each of tokens such as `<a_17>` or `<a_17><b_3>`; all items that
            have them.

    Raises:
        UserError: there are no items, a branch or an embedding does not fit the index, or
            `item_ids` lack an item.
    """
    if not index.item_ids:
        raise UserError("the index has no items to look at")
    reader = BranchReader(index, titles)
    requested = reader.requested(branches)
    order = _embedding_rows(index, item_ids)
    embedded_items = index.item_ids if item_ids is None else item_ids
    shards = _open_embeddings(index, embeddings or {}, embedded_items)
    sources = [
        _source_data(
            reader=reader,
            name=name,
            shards=shards.get(name),
            order=order,
            seed=seed,
        )
        for name in index.levels_of
    ]
    return InspectData(
        items=len(index.item_ids),
        branching=index.branching,
        version=index.version,
        parent=index.parent,
        change=index.change,
        checksum=index.checksum,
        titled=titles is not None,
        sources=sources,
        requested=requested,
        notes=_drift_notes(index, sources),
    )


def _source_data(
    reader: BranchReader,
    name: str,
    shards: Shards | None,
    order: np.ndarray,
    seed: int,
) -> SourceData:
    """Measure the tree of one source; see `inspect_index` and `_embedding_rows`."""
    index = reader.index
    levels = index.levels_of[name]
    codes = index.codes[:, levels]
    centroids = index.centroids[levels]
    nodes = tree_nodes(codes, index.branching)
    errors = None
    if index.errors is not None:
        errors = index.errors[:, levels].mean(0, dtype=np.float64).tolist()
    comparison = None
    if shards is not None:
        comparison = compare_embedding(shards, order, codes, centroids, nodes, seed)
    return SourceData(
        name=name,
        levels=[level_letters(level) for level in range(levels.start, levels.stop)],
        leaves=index.branching ** len(nodes),
        balance=_balances(nodes, index.branching),
        errors=errors,
        comparison=comparison,
        treemap=draw_treemap(nodes, centroids),
        top=reader.typical(name, nodes[0]),
        branches=reader.largest_and_random(name, nodes[0], seed),
    )


def _balances(nodes: list[Nodes], branching: int) -> list[Balance]:
    """Return the balance of each level."""
    items = len(nodes[0].of_item)
    parent_sizes = np.array([items])
    balances = []
    for level in nodes:
        balances.append(balance_of(level, parent_sizes, branching))
        parent_sizes = level.size
    return balances


def _embedding_rows(index: ItemIndex, item_ids: list[str] | None) -> np.ndarray:
    """Return the row of each item of the index in the embeddings, int64 [items].

    Raises:
        UserError: an item is given twice, or is missing.
    """
    if item_ids is None:
        return np.arange(len(index.item_ids))
    ids = pd.Index(item_ids)
    if ids.has_duplicates:
        duplicate = ids[ids.duplicated()][0]
        raise UserError(f"item {duplicate!r} is given twice")
    rows = ids.get_indexer(pd.Index(index.item_ids))
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        raise UserError(
            f"the items lack {index.item_ids[missing[0]]!r}, which the index has "
            f"({len(missing)} such items); give all items of the index"
        )
    return rows


def _open_embeddings(
    index: ItemIndex,
    embeddings: Embeddings,
    item_ids: list[str],
) -> dict[str, Shards]:
    """Open embeddings of sources of the index, a row an item.

    Raises:
        UserError: the index has no such source or no centroids, or an embedding does not fit it.
    """
    unknown = [name for name in embeddings if name not in index.levels_of]
    if unknown:
        raise UserError(
            f"the index has no source {unknown[0]!r}; it has {', '.join(index.levels_of)}"
        )
    if embeddings and not index.centroids:
        raise UserError("this index has no centroids to compare embeddings with; build it anew")
    return open_for_index(index, item_ids, embeddings, list(embeddings))


def _drift_notes(index: ItemIndex, sources: list[SourceData]) -> list[str]:
    """Return a note for each embedding that is not the one that the paths were made for."""
    notes = []
    for source in sources:
        if source.comparison is None or index.errors is None:
            continue
        last_level = index.levels_of[source.name].stop - 1
        old_distance = float(index.errors[source.comparison.rows, last_level].mean())
        distance = source.comparison.distance
        rounding = DRIFT_ROUNDING * source.comparison.variance
        if distance > DRIFT * old_distance + rounding:
            notes.append(
                f"These {source.name} embeddings are not those that the paths were made for: the "
                f"mean squared distance from an item to its path's point is {distance:.4g}, and "
                f"was {old_distance:.4g}. Check that the rows are in the order of the items; after "
                "training an encoder anew, refresh the index."
            )
    return notes
