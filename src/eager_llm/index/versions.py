"""Life after the first build: new items, new embeddings, items that go; each change a new version.

Paths that exist never move, except in `refresh`, and there only those that no longer fit.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from eager_llm.core.errors import UserError
from eager_llm.index.build import Embeddings, open_for_index
from eager_llm.index.item_index import ItemIndex, letters, path_keys
from eager_llm.index.ray_worker import descend
from eager_llm.index.shards import Shards

ASSIGNED = 8192  # items placed at a time; what they take is not free for the next
TURNS = 4  # fits of the new space to the old, each on the items that the one before fitted best


class FreeLeaves:
    """The leaves of one source's tree that no item has.

    Args:
        codes: int [items, height], the paths in use.
        codebooks: float32 [k, dim] for each level.
    """

    def __init__(self, codes: np.ndarray, codebooks: list[np.ndarray]) -> None:
        self.branching, self.height = len(codebooks[0]), len(codebooks)
        self._codebooks = [
            torch.from_numpy(np.ascontiguousarray(codebook)) for codebook in codebooks
        ]
        self._taken = np.sort(path_keys(codes, self.branching))

    def __len__(self) -> int:
        return self.branching**self.height - len(self._taken)

    def assign(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give each point the free leaf nearest to it, level by level, and take the leaves.

        Returns:
            Codes int32 [points, height] and errors float32 [points, height].

        Raises:
            ValueError: there are fewer free leaves than points.
        """
        codes, errors = [], []
        for start in range(0, len(points), ASSIGNED):
            part = torch.tensor(points[start : start + ASSIGNED])
            found = descend(part, self._codebooks, self._room)
            codes.append(found[0])
            errors.append(found[1])
            keys = np.sort(path_keys(found[0], self.branching))
            self._taken = np.insert(self._taken, np.searchsorted(self._taken, keys), keys)
        empty = np.empty((0, self.height))
        return np.concatenate([empty.astype(np.int32), *codes]), np.concatenate(
            [empty.astype(np.float32), *errors]
        )

    def _room(self, level: int, parents: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        below = self.branching ** (self.height - 1 - level)
        first = path_keys(parents, self.branching)[:, None] * self.branching + np.arange(
            self.branching + 1
        )
        return below - np.diff(np.searchsorted(self._taken, first * below), axis=1)


def assign_items(index: ItemIndex, item_ids: list[str], embeddings: Embeddings) -> ItemIndex:
    """Return the next version with new items on free leaves; no existing path changes.

    Raises:
        UserError: an item is there already, the embeddings do not fit, or the tree is full.
    """
    known = [item for item in item_ids if item in index.rows]
    if known:
        raise UserError(
            f"item {known[0]!r} is in the index already ({len(known)} such items); give new ones only"
        )
    sources = _checked(index, item_ids, embeddings)
    codes, errors = [], []
    for source, levels in index.levels_of.items():
        free = FreeLeaves(index.codes[:, levels], index.centroids[levels])
        if len(free) < len(item_ids):
            raise UserError(
                f"the {source} tree has {len(free)} free leaves for {len(item_ids)} new items; "
                "remove items, or build the index anew (a larger index.branching leaves more room)"
            )
        found = free.assign(sources[source].take(np.arange(len(item_ids))))
        codes.append(found[0])
        errors.append(found[1])
    return index.successor(
        item_ids=[*index.item_ids, *item_ids],
        codes=np.concatenate([index.codes, np.concatenate(codes, axis=1)]),
        errors=_stack(index.errors, np.concatenate(errors, axis=1)),
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
    keep = np.ones(len(index.item_ids), dtype=bool)
    keep[[index.rows[item] for item in item_ids]] = False
    if not keep.any():
        raise UserError("removing these items would leave an empty index")
    return index.successor(
        item_ids=[item for item, kept in zip(index.item_ids, keep, strict=True) if kept],
        codes=index.codes[keep],
        errors=None if index.errors is None else index.errors[keep],
        change={"action": "remove", "removed": int((~keep).sum())},
    )


@dataclass(frozen=True)
class Refresh:
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


def grow(
    index: ItemIndex, item_ids: list[str], embeddings: Embeddings, tolerance: float = 0.5
) -> tuple[ItemIndex, float]:
    """Return the next version for a catalogue that has changed, and the share of paths that no longer fit.

    Items that are gone leave, the tree is turned along to the new embeddings as in `refresh`, but moves nobody,
    and new items get the free leaves nearest to them. The share is of the items that stay: how many `refresh`
    would move.

    Args:
        item_ids: the whole catalogue, in the order of the embeddings' rows.

    Raises:
        UserError: no item of the index is left, the embeddings do not fit, or the tree is full.
    """
    wanted = set(item_ids)
    gone = [item for item in index.item_ids if item not in wanted]
    if gone:
        index = remove_items(index, gone)
    sources = {
        source: np.asarray(Shards.find(embeddings[source], source).take(np.arange(len(item_ids))))
        for source in index.levels_of
    }
    there = np.array([item in index.rows for item in item_ids])
    old, new = (
        [item for item in item_ids if (item in index.rows) is known] for known in (True, False)
    )
    turned = refresh(
        index,
        old,
        {source: points[there] for source, points in sources.items()},
        tolerance,
        moves=False,
    )
    unfit = turned.moved["item_id"].nunique() / len(old)
    if not new:
        return turned.index, unfit
    return assign_items(
        turned.index, new, {source: points[~there] for source, points in sources.items()}
    ), unfit


def refresh(
    index: ItemIndex,
    item_ids: list[str],
    embeddings: Embeddings,
    tolerance: float = 0.5,
    moves: bool = True,
) -> Refresh:
    """Fit the index to new embeddings of its items, and move only those that no longer fit.

    An encoder that was trained anew turns and scales its whole space; that moves hardly any item: the
    tree is turned along (orthogonal Procrustes, Schönemann 1966, on the items that agree). Then a path
    fits as long as its item is, at every level, not farther from the path's point than when it got it,
    by more than `tolerance` times the mean squared distance of that level. Of the others those move that
    are nearer to the best free leaf, by as much; a space that became noisier for all moves nobody.

    Args:
        item_ids: exactly the items of the index, in the order of the embeddings' rows.
        tolerance: 0 moves an item at the slightest drift.
        moves: whether who would move does; else the tree is turned along and all stay.

    Raises:
        UserError: the items differ, or the embeddings do not fit.
    """
    if index.errors is None:
        raise UserError("this index does not say how well its paths fitted; build it anew")
    missing, unknown = (
        set(index.item_ids) - set(item_ids),
        [item for item in item_ids if item not in index.rows],
    )
    if missing:
        raise UserError(
            f"no new embedding for item {min(missing)!r} ({len(missing)} such items); remove them first"
        )
    if unknown:
        raise UserError(
            f"item {unknown[0]!r} is not in the index ({len(unknown)} such items); assign them afterwards"
        )
    sources = _checked(index, item_ids, embeddings)
    order = pd.Index(item_ids).get_indexer(pd.Index(index.item_ids))
    codes, errors, centroids = index.codes.copy(), index.errors.copy(), list(index.centroids)
    frames, stayed = [], {}
    for source, levels in index.levels_of.items():
        points = sources[source].take(order)
        fit = _best_fit(
            points, codes[:, levels], index.centroids[levels], errors[:, levels], tolerance
        )
        centroids[levels] = fit.codebooks
        unfit = np.flatnonzero(fit.unfit.any(axis=1))
        most = fit.now[:, -1] - tolerance * fit.then[:, -1].mean()
        rows, found, found_errors = _better_leaves(
            points, codes[:, levels], fit.codebooks, unfit, most
        )
        stayed[source] = len(unfit) - len(rows)
        level = fit.unfit[rows].argmax(axis=1)
        frames.append(
            pd.DataFrame({
                "item_id": np.asarray(index.item_ids, dtype=object)[rows],
                "source": source,
                "level": [letters(levels.start + number) for number in level],
                "error_then": fit.then[rows, level],
                "error_now": fit.now[rows, level],
                "error_moved": found_errors[np.arange(len(rows)), level],
            })
        )  # fmt: skip
        # Who stays is measured by when it got its path: slow drift adds up until it counts.
        errors[:, levels] = fit.then
        if moves:
            codes[rows, levels], errors[rows, levels] = found, found_errors
    moved = pd.concat(frames, ignore_index=True)
    count = int(moved["item_id"].nunique())
    change = {"action": "refresh", "moved": count if moves else 0, "tolerance": tolerance}
    fresh = index.successor(
        moved=moves and count > 0, codes=codes, errors=errors, centroids=centroids, change=change
    )
    moved["tokens_before"] = [index.tokens(item) for item in moved["item_id"]]
    moved["tokens_after"] = [fresh.tokens(item) for item in moved["item_id"]]
    return Refresh(fresh, moved, stayed)


def _better_leaves(
    points: np.ndarray,
    codes: np.ndarray,
    codebooks: list[np.ndarray],
    rows: np.ndarray,
    most: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which of the rows find a leaf of an error below `most`, and their new codes and errors.

    The leaves of all that move are free to any of them. Who would not gain stays, with the leaf it
    has; as that takes a leaf away, the others choose again.
    """
    while True:
        others = np.delete(codes, rows, axis=0)
        found, found_errors = FreeLeaves(others, codebooks).assign(points[rows])
        gains = found_errors[:, -1] < most[rows]
        if gains.all():
            return rows, found, found_errors
        rows = rows[gains]


@dataclass(frozen=True)
class _Fit:
    """Codebooks in the space of new embeddings, and how the paths fit there.

    Attributes:
        then: float [items, levels], errors when the paths were given, in the new space's scale.
        now: float [items, levels], errors with the new embeddings.
        unfit: bool [items, levels].
    """

    codebooks: list[np.ndarray]
    then: np.ndarray
    now: np.ndarray
    unfit: np.ndarray


def _best_fit(
    points: np.ndarray,
    codes: np.ndarray,
    codebooks: list[np.ndarray],
    errors: np.ndarray,
    tolerance: float,
) -> _Fit:
    """Leave the tree as it is or turn it to the points, whichever leaves fewer paths unfit."""

    def fit(candidate: list[np.ndarray], scale: float) -> _Fit:
        then, now = errors * scale**2, _errors(points, codes, candidate)
        return _Fit(candidate, then, now, now > then + tolerance * then.mean(0))

    fits = [fit(codebooks, 1.0)]
    rows = np.arange(len(points))
    for _ in range(TURNS):
        fits.append(fit(*_turned(points[rows], codes[rows], codebooks)))
        # The half that fits best says how the space turned; items that changed would only pull.
        rows = np.argsort(fits[-1].now[:, -1] - fits[-1].then[:, -1], kind="stable")[
            : -(-len(points) // 2)
        ]
    return min(fits, key=lambda found: int(found.unfit.any(axis=1).sum()))


def _turned(
    points: np.ndarray, codes: np.ndarray, codebooks: list[np.ndarray]
) -> tuple[list[np.ndarray], float]:
    """Return the codebooks turned, scaled and shifted to the points, and the scale."""
    path = np.zeros_like(points)
    for level, codebook in enumerate(codebooks):
        path += codebook[codes[:, level]]
    middle, target = path.mean(0), points.mean(0)
    left, singular, right = np.linalg.svd((path - middle).T @ (points - target))
    spread = float(np.square(path - middle).sum())
    turn, scale = left @ right, float(singular.sum()) / spread if spread else 1.0
    turned = [(scale * codebook @ turn).astype(np.float32) for codebook in codebooks]
    turned[0] = (turned[0] + target - scale * middle @ turn).astype(np.float32)
    return turned, scale


def _errors(points: np.ndarray, codes: np.ndarray, codebooks: list[np.ndarray]) -> np.ndarray:
    """Return the squared distance to the path's point after each level, float32 [points, levels]."""
    left_over = points.copy()
    errors = np.empty(codes.shape, dtype=np.float32)
    for level, codebook in enumerate(codebooks):
        left_over -= codebook[codes[:, level]]
        errors[:, level] = np.square(left_over).sum(1)
    return errors


def _checked(index: ItemIndex, item_ids: list[str], embeddings: Embeddings) -> dict[str, Shards]:
    if len(set(item_ids)) != len(item_ids):
        twice = pd.Series(item_ids)[pd.Series(item_ids).duplicated()].iloc[0]
        raise UserError(f"item {twice!r} is given twice")
    return open_for_index(index, item_ids, embeddings, list(index.levels_of))


def _stack(before: np.ndarray | None, added: np.ndarray) -> np.ndarray | None:
    return None if before is None else np.concatenate([before, added])
