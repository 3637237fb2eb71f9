"""Popularity, co-occurrence and the item prior alone: what a model must beat to be worth its cost.

Ties are broken at random (seeded), never by item number or file order. Items are rows of the item
index; H is the number of histories.
"""

import numpy as np

from eager_llm.item_prior.cooccurrence import cooccurrence_counts
from eager_llm.item_prior.table import ItemPriorTable

WINDOW = 3
HISTORY_DECAY = 0.5
# Too little to matter beside any score of a prior.
FALLBACK_SCALE = 1e-9


class Popularity:
    """Rank items by how often they occur in the training split.

    Args:
        histories: item rows of each user's training split.
        items: number of items.

    Attributes:
        order: int64 [items], the item rows, the most popular one first.
    """

    def __init__(self, histories: list[list[int]], items: int, seed: int) -> None:
        rows = np.concatenate([np.asarray(history, dtype=np.int64) for history in histories])
        counts = np.bincount(rows, minlength=items).astype(float)
        tie_breaks = np.random.default_rng(seed).random(items)
        self.order = np.lexsort((tie_breaks, -counts))

    def rank(self, histories: list[list[int]], k: int) -> np.ndarray:
        """Return the k first items for each history, int64 [H, k]."""
        return np.tile(self.order[:k], (len(histories), 1))


def popularity_fallback(order: np.ndarray) -> np.ndarray:
    """Return scores that let popularity decide where a prior does not, float [items].

    Args:
        order: int64 [items], the item rows, the most popular one first.
    """
    ranks = np.empty(len(order))
    ranks[order] = np.arange(len(order))
    return -FALLBACK_SCALE * (ranks + 1) / len(order)


class Cooccurrence:
    """Rank items by what followed the history's items in the training split.

    Directed counts of items at most `WINDOW` apart, weighted by 1 / gap; the score of a history
    item halves with each step into the past. Popularity decides where no count does.

    Args:
        histories: item rows of each user's training split, oldest first.
        items: number of items.
    """

    def __init__(self, histories: list[list[int]], items: int, seed: int) -> None:
        self.counts = cooccurrence_counts(histories, items, WINDOW)
        self._fallback = popularity_fallback(Popularity(histories, items, seed).order)

    def rank(self, histories: list[list[int]], k: int) -> np.ndarray:
        """Return the k first items for each history, int64 [H, k]."""
        table = ItemPriorTable(
            self.counts, decays=(HISTORY_DECAY,), repeats=1.0, floor=0.0, weight=0.0
        )
        return rank_by_prior(table, self._fallback, histories, k)


def rank_by_prior(
    prior: ItemPriorTable,
    fallback: np.ndarray,
    histories: list[list[int]],
    k: int,
    batch: int = 512,
) -> np.ndarray:
    """Return the k items with the highest prior scores for each history, int64 [H, k].

    Args:
        fallback: float [items], decides where the prior has no score; see `popularity_fallback`.
        histories: item rows, oldest first.
        batch: histories whose scores are in memory at a time.
    """
    rankings: list[np.ndarray] = []
    for start in range(0, len(histories), batch):
        prior_scores = prior.scores(histories[start : start + batch])
        scores = prior_scores.toarray() + fallback
        order = np.argsort(-scores, axis=1, kind="stable")
        rankings.append(order[:, :k])
    return np.concatenate(rankings)
