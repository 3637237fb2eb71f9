"""Recall and NDCG by item."""

import math

CUTOFFS = (1, 5, 10)


def ranking_metrics(ranked: list[list[str]], targets: list[str]) -> dict[str, float]:
    """Return `recall@k` and `ndcg@k`, averaged over the targets.

    With one target each, recall@k is 1 where the target stands in the first k places, and
    NDCG@k is 1 / log2(1 + its place).

    Args:
        ranked: items for each target, best first, no item twice.
        targets: the item that was really chosen.
    """
    places = [row.index(target) + 1 if target in row else math.inf for row, target in zip(ranked, targets, strict=True)]
    result = {}
    for k in CUTOFFS:
        result[f"recall@{k}"] = sum(place <= k for place in places) / len(places)
        result[f"ndcg@{k}"] = sum(1 / math.log2(1 + place) for place in places if place <= k) / len(places)
    return result
