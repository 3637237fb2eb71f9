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


def assign_items(index: ItemIndex, item_ids: list[str], embeddings: Embeddings) -> ItemIndex:
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
        leaves = FreeLeaves(index.codes[:, levels], index.centroids[levels])
        if len(leaves) < len(item_ids):
            raise UserError(
                f"the {source} tree has {len(leaves)} free leaves for {len(item_ids)} new items; "
                "remove items, or build the index anew (a larger index.branching leaves more room)"
            )
        points = _all_rows(sources[source])
        codes, errors = leaves.assign(points)
        new_codes.append(codes)
        new_errors.append(errors)
    all_errors = None
    if index.errors is not None:
        all_errors = np.concatenate([index.errors, np.concatenate(new_errors, axis=1)])
    return index.successor(
        item_ids=[*index.item_ids, *item_ids],
        codes=np.concatenate([index.codes, np.concatenate(new_codes, axis=1)]),
        errors=all_errors,
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
    removed = {index.rows[item] for item in item_ids}
    remaining = [row for row in range(len(index.item_ids)) if row not in removed]
    if not remaining:
        raise UserError("removing these items would leave an empty index")
    return index.successor(
        item_ids=[index.item_ids[row] for row in remaining],
        codes=index.codes[remaining],
        errors=None if index.errors is None else index.errors[remaining],
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
    points = {}
    for source in index.levels_of:
        shards = Shards.open(embeddings[source], source)
        points[source] = shards.take(np.arange(len(item_ids)))
    is_old = np.array([item in index.rows for item in item_ids])
    old_items = [item for item in item_ids if item in index.rows]
    new_items = [item for item in item_ids if item not in index.rows]
    old_points = {source: rows[is_old] for source, rows in points.items()}
    new_points = {source: rows[~is_old] for source, rows in points.items()}
    turned = refresh_index(index, old_items, old_points, tolerance, moves=False)
    unfit_share = turned.moved["item_id"].nunique() / len(old_items)
    grown = turned.index
    if new_items:
        grown = assign_items(grown, new_items, new_points)
    return grown, unfit_share


def _all_rows(shards: Shards) -> np.ndarray:
    """Return an embedding as one array, float32 [rows, dim]."""
    return shards.take(np.arange(shards.rows))
