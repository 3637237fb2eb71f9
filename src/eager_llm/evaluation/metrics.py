"""Recall and NDCG by item."""

import numpy as np

CUTOFFS = (1, 5, 10)
# In the order of the tables' columns.
METRICS = ("recall@1", "recall@5", "recall@10", "ndcg@1", "ndcg@5", "ndcg@10")


def ranking_metrics(rankings: list[list[str]], targets: list[str]) -> dict[str, float]:
    """Return `recall@k` and `ndcg@k` for each cutoff, averaged over the targets.

    With one target each, recall@k is 1 where the target's rank is k at most, and NDCG@k is
    1 / log2(1 + rank) there (Järvelin & Kekäläinen 2002).

    Args:
        rankings: items for each target, best first, no item twice.
        targets: the item that was really chosen.
    """
    ranks = target_ranks(rankings, targets)
    metrics: dict[str, float] = {}
    for k in CUTOFFS:
        for metric in (f"recall@{k}", f"ndcg@{k}"):
            metrics[metric] = float(gains(ranks, metric).mean())
    return metrics


def target_ranks(rankings: list[list[str]], targets: list[str]) -> np.ndarray:
    """Return the rank of each target among its items, float [targets].

    Ranks count from 1; a target that is not among its items has the rank infinity.
    """
    ranks = np.full(len(targets), np.inf)
    for number, (ranking, target) in enumerate(zip(rankings, targets, strict=True)):
        if target in ranking:
            ranks[number] = ranking.index(target) + 1
    return ranks


def gains(ranks: np.ndarray, metric: str) -> np.ndarray:
    """Return what each target adds to a metric before the mean is taken, float [targets].

    Args:
        ranks: float [targets]; see `target_ranks`.
        metric: `recall@k` or `ndcg@k`.
    """
    kind, cutoff = metric.split("@")
    hits = ranks <= int(cutoff)
    if kind == "recall":
        return np.where(hits, 1.0, 0.0)
    return np.where(hits, 1 / np.log2(1 + ranks), 0.0)
