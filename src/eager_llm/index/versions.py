"""Life after the first build: new items and items that go; each change is a new version.

Paths that exist never move, except in `refresh_index`, and there only those that no longer fit.
"""

import numpy as np

from eager_llm.core.errors import UserError
from eager_llm.index.build import Embeddings, open_for_index
from eager_llm.index.free_leaves import FreeLeaves
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.refresh import refresh_index
from eager_llm.index.shards import Shards


def assign_items(
    index: ItemIndex,
    item_ids: list[str],
    embeddings: Embeddings,
) -> ItemIndex:
    """Return the next version with new items on free leaves; no existing path changes.

    Args:
        item_ids: the new items, in the order of the embeddings' rows.

    Raises:
        UserError: an item is in the index already, the embeddings do not fit, or the tree is full.
    """
    duplicates = [item for item in item_ids if item in index.rows]
    if duplicates:
        raise UserError(
            f"item {duplicates[0]!r} is in the index already ({len(duplicates)} such items); "
            "give new ones only"
        )
    sources = open_for_index(index, item_ids, embeddings, list(index.levels_of))
    new_codes = []
    new_errors = []
    for source, levels in index.levels_of.items():
        source_codes = index.codes[:, levels]
        leaves = FreeLeaves(source_codes, index.centroids[levels])
        if len(leaves) < len(item_ids):
            raise UserError(
                f"the {source} tree has {len(leaves)} free leaves for {len(item_ids)} new items; "
                "remove items, or build the index anew (a larger index.branching leaves more room)"
            )
        points = _all_rows(sources[source])
        codes, errors = leaves.assign(points)
        new_codes.append(codes)
        new_errors.append(errors)
    return index.successor(
        item_ids=[*index.item_ids, *item_ids],
        codes=_append_rows(index.codes, new_codes),
        errors=None if index.errors is None else _append_rows(index.errors, new_errors),
        change={"action": "assign", "added": len(item_ids)},
    )


def remove_items(index: ItemIndex, item_ids: list[str]) -> ItemIndex:
    """Return the next version without some items, whose leaves are free again.

    Raises:
        UserError: an item is not in the index, or none would be left.
    """
    unknown = [item for item in item_ids if item not in index.rows]
    if unknown:
        raise UserError(f"item {unknown[0]!r} is not in the index ({len(unknown)} such items)")
    removed = set(item_ids)
    remaining = [item for item in index.item_ids if item not in removed]
    if not remaining:
        raise UserError("removing these items would leave an empty index")
    rows = [index.rows[item] for item in remaining]
    return index.successor(
        item_ids=remaining,
        codes=index.codes[rows],
        errors=None if index.errors is None else index.errors[rows],
        change={"action": "remove", "removed": len(removed)},
    )


def grow_index(
    index: ItemIndex,
    item_ids: list[str],
    embeddings: Embeddings,
    tolerance: float = 0.5,
) -> tuple[ItemIndex, float]:
    """Return the next version for a catalogue that has changed, and the share of unfit paths.

    Items that are gone leave. The tree is turned along to the new embeddings as in `refresh_index`,
    but moves nobody, and new items get the free leaves nearest to them. The share is of the items
    that stay: how many a refresh would move.

    Args:
        item_ids: the whole catalogue, in the order of the embeddings' rows.
        tolerance: see `refresh_index`.

    Raises:
        UserError: no item of the index is left, the embeddings do not fit, or the tree is full.
    """
    catalogue = set(item_ids)
    gone = [item for item in index.item_ids if item not in catalogue]
    if gone:
        index = remove_items(index, gone)
    old_items = []
    new_items = []
    old_rows = []
    new_rows = []
    for row, item in enumerate(item_ids):
        if item in index.rows:
            old_items.append(item)
            old_rows.append(row)
        else:
            new_items.append(item)
            new_rows.append(row)
    old_points = {}
    new_points = {}
    for source in index.levels_of:
        shards = Shards.open(embeddings[source], source)
        old_points[source] = shards.take(np.array(old_rows, dtype=np.int64))
        new_points[source] = shards.take(np.array(new_rows, dtype=np.int64))
    turned = refresh_index(index, old_items, old_points, tolerance, moves=False)
    unfit_items = turned.moved["item_id"].nunique()
    grown = turned.index
    if new_items:
        grown = assign_items(grown, new_items, new_points)
    return grown, unfit_items / len(old_items)


def _append_rows(array: np.ndarray, columns: list[np.ndarray]) -> np.ndarray:
    """Return an array [rows, L] with new rows below it, given source by source."""
    new_rows = np.concatenate(columns, axis=1)
    return np.concatenate([array, new_rows])


def _all_rows(shards: Shards) -> np.ndarray:
    """Return an embedding as one array, float32 [rows, dim]."""
    return shards.take(np.arange(shards.rows))
