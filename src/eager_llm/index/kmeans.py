"""Balanced k-means: no cluster over its capacity, assignment in bulk."""

import math

import torch


def balanced_kmeans(
    points: torch.Tensor, clusters: int, capacity: int, iterations: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster points so that no cluster holds more than `capacity`.

    Lloyd's iterations with a capacitated assignment; the best iteration by distortion is kept.

    Args:
        points: float [n, d], n <= clusters * capacity.
        generator: draws the start (k-means++).

    Returns:
        Labels int64 [n] and centroids float [clusters, d].
    """
    clusters = min(clusters, len(points))
    centroids = _plus_plus(points, clusters, generator)
    best: tuple[float, torch.Tensor, torch.Tensor] | None = None
    for _ in range(iterations):
        distance = _squared_distance(points, centroids)
        labels = assign_with_capacity(distance, capacity)
        centroids = _means(points, labels, centroids)
        distortion = float((points - centroids[labels]).square().sum())
        if best is None or distortion < best[0] * (1 - 1e-6):
            best = (distortion, labels, centroids)
        else:
            break
    assert best is not None
    return best[1], best[2]


def assign_with_capacity(cost: torch.Tensor, capacity: int) -> torch.Tensor:
    """Assign each row to a column, cheap ones first, no column more than `capacity` times.

    Deferred acceptance (Gale & Shapley, 1962) in bulk: all unplaced rows ask for the cheapest
    column that has not refused them, each column keeps its `capacity` cheapest and refuses the
    rest. The result is stable and does not depend on the order of the rows, but for equal costs.

    Args:
        cost: float [rows, columns], rows <= columns * capacity.

    Returns:
        Column of each row, int64 [rows].
    """
    rows, columns = cost.shape
    if rows > columns * capacity:
        raise ValueError(f"{rows} rows do not fit {columns} columns of capacity {capacity}")
    preference = cost.argsort(dim=1, stable=True)
    asked = torch.zeros(rows, dtype=torch.long, device=cost.device)
    index = torch.arange(rows, device=cost.device)
    while True:
        wish = preference[index, asked]
        price = cost[index, wish]
        # Rank every row within its column by price: sort by price, then stably by column.
        order = price.argsort(stable=True)
        order = order[wish[order].argsort(stable=True)]
        start = torch.searchsorted(wish[order], torch.arange(columns, device=cost.device))
        refused = order[index - start[wish[order]] >= capacity]
        if len(refused) == 0:
            return wish
        asked[refused] += 1


def capacity_of(points: int, clusters: int) -> int:
    """Return the size that no cluster may exceed: the points shared out evenly, rounded up."""
    return math.ceil(points / clusters)


def _squared_distance(points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    return torch.cdist(points, centroids, compute_mode="use_mm_for_euclid_dist").square()


def _means(points: torch.Tensor, labels: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the mean of each cluster; a cluster without points stays where it was."""
    total = torch.zeros_like(before).index_add_(0, labels, points)
    size = torch.bincount(labels, minlength=len(before))[:, None]
    return torch.where(size > 0, total / size.clamp(min=1), before)


def _plus_plus(points: torch.Tensor, clusters: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++ (Arthur & Vassilvitskii, 2007)."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen = [first]
    nearest = (points - points[first]).square().sum(1)
    for _ in range(clusters - 1):
        weight = nearest.double().cpu()
        if weight.sum() <= 0:  # all points left are copies of chosen ones
            weight = torch.ones_like(weight)
        pick = int(torch.multinomial(weight, 1, generator=generator))
        chosen.append(pick)
        nearest = torch.minimum(nearest, (points - points[pick]).square().sum(1))
    return points[torch.tensor(chosen, device=points.device)].clone()
