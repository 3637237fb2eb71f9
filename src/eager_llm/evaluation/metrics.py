"""Recall and NDCG by item."""

import numpy as np

CUTOFFS = (1, 5, 10)


def ranking_metrics(ranked: list[list[str]], targets: list[str]) -> dict[str, float]:
    """Return `recall@k` and `ndcg@k`, averaged over the targets.

    With one target each, recall@k is 1 where the target stands in the first k places, and
    NDCG@k is 1 / log2(1 + its place).

    Args:
        ranked: items for each target, best first, no item twice.
        targets: the item that was really chosen.
    """
    places = target_places(ranked, targets)
    names = [(kind, k) for k in CUTOFFS for kind in ("recall", "ndcg")]
    return {f"{kind}@{k}": float(gains(places, f"{kind}@{k}").mean()) for kind, k in names}


def target_places(ranked: list[list[str]], targets: list[str]) -> np.ndarray:
    """Return the place of each target among its items, from 1; infinite where it is not there."""
    pairs = zip(ranked, targets, strict=True)
    return np.array(
        [row.index(target) + 1 if target in row else np.inf for row, target in pairs], dtype=float
    )


def gains(places: np.ndarray, metric: str) -> np.ndarray:
    """Return what each target adds to a metric, such as `ndcg@10`, before the mean is taken."""
    kind, k = metric.split("@")
    hit = places <= int(k)
    return np.where(hit, 1.0 if kind == "recall" else 1 / np.log2(1 + places), 0.0)
