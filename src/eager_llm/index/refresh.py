"""New embeddings of the items that an index has: only those move whose path no longer fits.

Shapes: N items, L levels of a source, K labels of a level, D dimensions of the embedding.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.index.build import Embeddings, open_for_index
from eager_llm.index.free_leaves import FreeLeaves
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.paths import level_letters
from eager_llm.index.space_fit import SpaceFit, best_fit


@dataclass(frozen=True)
class IndexRefresh:
    """What a refresh did.

    Attributes:
        index: the next version.
        moved: a row an item and source that moved: `item_id`, `source`, `level` (the first at which
            the path no longer fitted), `error_then`, `error_now` (squared distance to the path's
            point at that level, when it got its path and with the new embedding), `error_moved`,
            `tokens_before`, `tokens_after`.
        stayed_unfit: paths that no longer fit but had no better free leaf, for each source.
    """

    index: ItemIndex
    moved: pd.DataFrame
    stayed_unfit: dict[str, int]


@dataclass(frozen=True)
class _Moves:
    """Items of one source that have a better leaf.

    Attributes:
        rows: their rows in the index, int64 [M].
        codes: of the leaves, int32 [M, L].
        errors: there, float32 [M, L].
    """

    rows: np.ndarray
    codes: np.ndarray
    errors: np.ndarray


def refresh_index(
    index: ItemIndex,
    item_ids: list[str],
    embeddings: Embeddings,
    tolerance: float = 0.5,
    moves: bool = True,
) -> IndexRefresh:
    """Fit the index to new embeddings of its items, and move only those that no longer fit.

    An encoder that was trained anew turns and scales its whole space; that moves hardly any item:
    the tree is turned along (orthogonal Procrustes, Schönemann 1966, on the items that agree). Then
    a path fits as long as its item is, at every level, not farther from the path's point than when
    it got it, by more than `tolerance` times the mean squared distance of that level. Of the others
    those move that are nearer to the best free leaf, by as much; a space that became noisier for
    all moves nobody.

    Args:
        item_ids: exactly the items of the index, in the order of the embeddings' rows.
        tolerance: 0 moves an item at the slightest drift.
        moves: whether items move; else the tree is turned along and all stay.

    Raises:
        UserError: the items differ, or the embeddings do not fit.
    """
    _check_items(index, item_ids)
    assert index.errors is not None
    sources = open_for_index(index, item_ids, embeddings, list(index.levels_of))
    order = pd.Index(item_ids).get_indexer(pd.Index(index.item_ids))
    codes = index.codes.copy()
    errors = index.errors.copy()
    centroids = list(index.centroids)
    tables = []
    stayed_unfit = {}
    for source, levels in index.levels_of.items():
        points = sources[source].take(order)
        fit = _fit_source(index, source, points, tolerance)
        better = _better_leaves(points, index.codes[:, levels], fit, tolerance)
        tables.append(_moved_table(index, source, fit, better))
        stayed_unfit[source] = fit.unfit_items - len(better.rows)
        centroids[levels] = fit.codebooks
        # An item that stays is measured by when it got its path: slow drift adds up.
        errors[:, levels] = fit.old_errors
        if moves:
            codes[better.rows, levels] = better.codes
            errors[better.rows, levels] = better.errors
    moved = pd.concat(tables, ignore_index=True)
    moved_items = int(moved["item_id"].nunique()) if moves else 0
    successor = index.successor(
        moved=moved_items > 0,
        codes=codes,
        errors=errors,
        centroids=centroids,
        change={"action": "refresh", "moved": moved_items, "tolerance": tolerance},
    )
    moved["tokens_before"] = [index.tokens(item) for item in moved["item_id"]]
    moved["tokens_after"] = [successor.tokens(item) for item in moved["item_id"]]
    return IndexRefresh(successor, moved, stayed_unfit)


def _check_items(index: ItemIndex, item_ids: list[str]) -> None:
    """Raise UserError unless the items are those of the index, and its errors are stored."""
    if index.errors is None:
        raise UserError("this index does not say how well its paths fitted; build it anew")
    missing = set(index.item_ids) - set(item_ids)
    if missing:
        raise UserError(
            f"no new embedding for item {min(missing)!r} ({len(missing)} such items); "
            "remove them first"
        )
    unknown = [item for item in item_ids if item not in index.rows]
    if unknown:
        raise UserError(
            f"item {unknown[0]!r} is not in the index ({len(unknown)} such items); "
            "assign them afterwards"
        )


def _fit_source(
    index: ItemIndex,
    source: str,
    points: np.ndarray,
    tolerance: float,
) -> SpaceFit:
    """Return how the tree of a source fits new embeddings [N, D] of its items."""
    levels = index.levels_of[source]
    assert index.errors is not None
    return best_fit(
        points=points,
        codes=index.codes[:, levels],
        codebooks=index.centroids[levels],
        errors=index.errors[:, levels],
        tolerance=tolerance,
    )


def _better_leaves(
    points: np.ndarray,
    codes: np.ndarray,
    fit: SpaceFit,
    tolerance: float,
) -> _Moves:
    """Return the items that no longer fit and have a better free leaf, with that leaf.

    The leaves of all that move are free to any of them. An item that would not gain stays, with the
    leaf it has; as that takes a leaf away, the others are assigned again.

    Args:
        points: the new embeddings, float32 [N, D].
        codes: the paths, int [N, L].
        tolerance: by how much an item must gain, in mean errors of the last level.
    """
    margin = tolerance * fit.old_errors[:, -1].mean()
    limit = fit.new_errors[:, -1] - margin
    rows = np.flatnonzero(fit.unfit.any(axis=1))
    while True:
        others = np.delete(codes, rows, axis=0)
        leaves = FreeLeaves(others, fit.codebooks)
        new_codes, new_errors = leaves.assign(points[rows])
        gains = new_errors[:, -1] < limit[rows]
        if gains.all():
            return _Moves(rows, new_codes, new_errors)
        rows = rows[gains]


def _moved_table(
    index: ItemIndex,
    source: str,
    fit: SpaceFit,
    moves: _Moves,
) -> pd.DataFrame:
    """Return the rows of `IndexRefresh.moved` of a source, but for the tokens."""
    rows = moves.rows
    item_ids = np.asarray(index.item_ids, dtype=object)
    first_level = index.levels_of[source].start
    # The first level at which the path no longer fits.
    level = fit.unfit[rows].argmax(axis=1)
    return pd.DataFrame({
        "item_id": item_ids[rows],
        "source": source,
        "level": [level_letters(first_level + number) for number in level],
        "error_then": fit.old_errors[rows, level],
        "error_now": fit.new_errors[rows, level],
        "error_moved": moves.errors[np.arange(len(rows)), level],
    })  # fmt: skip
