"""Popularity, item co-occurrence and the neighbours alone: what a model must beat to be worth its cost.

Ties are broken at random (seeded), never by item number or file order.
"""

import numpy as np

from eager_llm.item_prior.cooccurrence import cooccurrence_counts
from eager_llm.item_prior.table import ItemPriorTable

WINDOW = 3
HISTORY_DECAY = 0.5


class Popularity:
    """Rank items by how often they were chosen in the training part."""

    def __init__(self, histories: list[list[int]], items: int, seed: int) -> None:
        chosen = np.concatenate([np.asarray(h, dtype=np.int64) for h in histories])
        counts = np.bincount(chosen, minlength=items).astype(float)
        self.order = np.lexsort((np.random.default_rng(seed).random(items), -counts))

    def rank(self, histories: list[list[int]], k: int) -> np.ndarray:
        """Return the k first items for each history, int64 [histories, k]."""
        return np.tile(self.order[:k], (len(histories), 1))


def popularity_fallback(order: np.ndarray) -> np.ndarray:
    """Return what lets popularity decide where evidence does not, float [items]."""
    place = np.empty(len(order))
    place[order] = np.arange(len(order))
    return -1e-9 * (place + 1) / len(order)


class Cooccurrence:
    """Rank items by what followed the history's items in the training part.

    Directed counts of items at most `WINDOW` apart, weighted by 1 / gap; the evidence of a history
    item halves with each step into the past. What no count decides, popularity does.
    """

    def __init__(self, histories: list[list[int]], items: int, seed: int) -> None:
        self.counts = cooccurrence_counts(histories, items, WINDOW)
        self._fallback = popularity_fallback(Popularity(histories, items, seed).order)

    def rank(self, histories: list[list[int]], k: int) -> np.ndarray:
        """Return the k first items for each history, int64 [histories, k]."""
        return rank_by_evidence(
            ItemPriorTable(self.counts, (HISTORY_DECAY,), 1.0, 0.0, 0.0),
            self._fallback,
            histories,
            k,
        )


def rank_by_evidence(
    neighbours: ItemPriorTable,
    fallback: np.ndarray,
    histories: list[list[int]],
    k: int,
    batch: int = 512,
) -> np.ndarray:
    """Return the k items with the most evidence for each history, int64 [histories, k].

    Args:
        fallback: float [items], too small to matter but where there is no evidence; no two alike.
    """
    found = []
    for start in range(0, len(histories), batch):
        scores = neighbours.evidence(histories[start : start + batch]).toarray() + fallback
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return np.concatenate(found)
