"""Popularity and item co-occurrence: what a model must beat to be worth its cost.

Ties are broken at random (seeded), never by item number or file order.
"""

import numpy as np
from scipy.sparse import csr_matrix

from eager_llm.catalogue.counts import co_occurrence_counts

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


class CoOccurrence:
    """Rank items by what followed the history's items in the training part.

    Directed counts of items at most `WINDOW` apart, weighted by 1 / gap; the evidence of a history
    item halves with each step into the past. What no count decides, popularity does.
    """

    def __init__(self, histories: list[list[int]], items: int, seed: int) -> None:
        self.counts = co_occurrence_counts(histories, items, WINDOW)
        place = np.empty(items)
        place[Popularity(histories, items, seed).order] = np.arange(items)
        self._fallback = -1e-9 * (place + 1) / items

    def rank(self, histories: list[list[int]], k: int, batch: int = 512) -> np.ndarray:
        """Return the k first items for each history, int64 [histories, k]."""
        found = []
        for start in range(0, len(histories), batch):
            part = histories[start : start + batch]
            rows = [n for n, history in enumerate(part) for _ in history]
            columns = [item for history in part for item in history]
            decay = [HISTORY_DECAY**gap for history in part for gap in range(len(history) - 1, -1, -1)]
            interest = csr_matrix((decay, (rows, columns)), shape=(len(part), self.counts.shape[0]))
            scores = (interest @ self.counts).toarray() + self._fallback
            found.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
        return np.concatenate(found)
