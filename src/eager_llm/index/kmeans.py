"""k-means in bulk on any device: scores by matrix products, block by block, and Lloyd's iterations.

Shapes: N points, K labels (clusters), D dimensions of the embedding. The score of a point for a
label is its squared distance to the label's centroid plus the label's price. The point's own
squared length is left out: it is the same for all labels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from eager_llm.index.capacity import balance_prices

# Rounds of balance_prices in an iteration; they go on from the iteration before.
PRICE_ROUNDS = 3
# Points of the sample for each cluster: that prices are made on,
PRICE_POINTS = 64
# that the first iterations work on,
EARLY_POINTS = 32
# and that k-means++ draws a start from.
SEED_POINTS = 8
# Iterations after which the best of several starts is selected.
START_ITERATIONS = 3
# Scores that are in memory at once.
MAX_SCORES = 1 << 26


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Multiply float32 matrices in float32, or in bf16 where the processor is faster with it.

    Sums are float32 in both; bf16 rounds the factors to 8 bits.

    Args:
        name: "float32" or "bf16".
    """
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if name == "bf16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)


def blocks(points: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the points [N, D] in blocks whose scores stay in the cache, each with its offset."""
    size = 1 << 17 if points.is_cuda else 1 << 12
    for start in range(0, len(points), size):
        yield start, points[start : start + size].float()


def score(
    block: torch.Tensor,
    codebook: torch.Tensor,
    offset: torch.Tensor,
) -> torch.Tensor:
    """Return the score of each point for each label, float [N, K].

    Args:
        block: float32 [N, D].
        codebook: centroids, float32 [K, D].
        offset: squared length of each centroid, plus its price where it has one, float [K].
    """
    if block.is_cuda and torch.get_float32_matmul_precision() == "medium":
        # Processors round the factors to bf16 by themselves; CUDA takes them rounded.
        product = torch.mm(
            block.bfloat16(),
            codebook.T.bfloat16(),
            out_dtype=torch.float32,
        )
        return product.mul_(-2).add_(offset)
    return torch.addmm(offset, block, codebook.T, alpha=-2)


@dataclass
class ClusterSums:
    """What a range of the points contributes to the next centroids.

    Attributes:
        total: sum of the points of each label, float [K, D].
        count: number of points of each label, int64 [K].
    """

    total: torch.Tensor
    count: torch.Tensor

    def means(self, previous: torch.Tensor) -> torch.Tensor:
        """Return the mean of each label, [K, D].

        Args:
            previous: the centroids so far, [K, D]; a label without points keeps its own.
        """
        divisor = self.count.clamp(min=1)[:, None]
        mean = (self.total / divisor).to(previous.dtype)
        has_points = self.count[:, None] > 0
        return torch.where(has_points, mean, previous)


def sums_of(
    points: torch.Tensor,
    labels: torch.Tensor,
    clusters: int,
) -> ClusterSums:
    """Add up the points [N, D] of each label; `labels` is int64 [N]."""
    total = torch.zeros(clusters, points.shape[1], device=points.device)
    for start, block in blocks(points):
        stop = start + len(block)
        _add(total, labels[start:stop], block)
    count = torch.bincount(labels, minlength=clusters)
    return ClusterSums(total, count)


def lloyd_sums(
    points: torch.Tensor,
    codebook: torch.Tensor,
    prices: torch.Tensor,
) -> ClusterSums:
    """Label each point [N, D] by its least score, and add up the points of each label."""
    total = torch.zeros_like(codebook)
    count = torch.zeros(len(codebook), dtype=torch.long, device=points.device)
    offset = codebook.square().sum(1) + prices
    for _, block in blocks(points):
        # min, since argmin is not vectorised.
        labels = score(block, codebook, offset).min(1).indices
        _add(total, labels, block)
        count += torch.bincount(labels, minlength=len(codebook))
    return ClusterSums(total, count)


def price_and_move(
    points: torch.Tensor,
    codebook: torch.Tensor,
    prices: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next centroids [K, D] and prices [K], both from the same scores of all points."""
    lengths = codebook.square().sum(1)
    scores = score(points, codebook, lengths)
    prices = balance_prices(scores, prices, PRICE_ROUNDS)
    labels = scores.add_(prices).min(1).indices
    sums = sums_of(points, labels, len(codebook))
    return sums.means(codebook), prices


def nearest_labels(
    points: torch.Tensor,
    codebook: torch.Tensor,
    prices: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the label of least score, int64 [N], and how much worse the second is, float [N]."""
    labels = torch.empty(len(points), dtype=torch.long, device=points.device)
    regret = torch.zeros(len(points), device=points.device)
    offset = codebook.square().sum(1) + prices
    candidates = min(2, len(codebook))
    for start, block in blocks(points):
        stop = start + len(block)
        best = score(block, codebook, offset).topk(candidates, dim=1, largest=False)
        labels[start:stop] = best.indices[:, 0]
        least = best.values[:, 0]
        second = best.values[:, -1]
        regret[start:stop] = second - least
    return labels, regret


def subsample(
    sample: torch.Tensor,
    clusters: int,
    points_per_cluster: int,
) -> torch.Tensor:
    """Return the first points of a sample [N, D], as many a cluster as asked for.

    There are never more than their scores have memory for.
    """
    affordable = MAX_SCORES // clusters
    count = min(points_per_cluster * clusters, affordable)
    return sample[: max(clusters, count)]


def fit_prices(
    sample: torch.Tensor,
    codebook: torch.Tensor,
    start: torch.Tensor,
) -> torch.Tensor:
    """Return prices [K] under which the sample [N, D] spreads evenly over the codebook [K, D].

    Args:
        start: prices to go on from, [K].
    """
    points = subsample(sample, len(codebook), PRICE_POINTS)
    lengths = codebook.square().sum(1)
    scores = score(points, codebook, lengths)
    return balance_prices(scores, start, PRICE_ROUNDS)


def start_codebook(
    sample: torch.Tensor,
    clusters: int,
    restarts: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return the best of several starts, float [K, D]: k-means++, then a few free iterations each.

    Args:
        sample: points in random order, at least one a cluster, float [N, D].
        clusters: number of centroids, K.
        restarts: number of starts.
        generator: draws the centroids of each start.
    """
    seeds = sample[: SEED_POINTS * clusters]
    points = sample[: EARLY_POINTS * clusters]
    no_prices = torch.zeros(clusters, device=sample.device)
    best_codebook = seeds[:0]
    best_total = torch.inf
    for restart in range(restarts):
        codebook = _plus_plus(seeds, clusters, generator)
        for _ in range(START_ITERATIONS):
            codebook = lloyd_sums(points, codebook, no_prices).means(codebook)
        total = _total_score(points, codebook)
        if restart == 0 or total < best_total:
            best_total = total
            best_codebook = codebook
    return best_codebook


def pad_codebook(codebook: torch.Tensor, clusters: int) -> torch.Tensor:
    """Return a codebook [clusters, D] that is filled up with zeros, so that every parent has room.

    A codebook has fewer centroids than labels where there were fewer points.
    """
    missing = clusters - len(codebook)
    padding = codebook.new_zeros(missing, codebook.shape[1])
    return torch.cat([codebook, padding])


def _total_score(points: torch.Tensor, codebook: torch.Tensor) -> float:
    """Return the sum of the points' least scores, in double precision."""
    total = 0.0
    lengths = codebook.square().sum(1)
    for _, block in blocks(points):
        least = score(block, codebook, lengths).amin(1)
        total += float(least.double().sum())
    return total


def _add(
    total: torch.Tensor,
    labels: torch.Tensor,
    block: torch.Tensor,
) -> None:
    """Add each point of a block [N, D] to the sum of its label, in place."""
    if block.is_cuda:
        # index_add_ on CUDA adds in any order; a product with the one-hot labels does not.
        one_hot = torch.nn.functional.one_hot(labels, len(total))
        total += one_hot.to(block.dtype).T @ block
    else:
        total.index_add_(0, labels, block)


def _plus_plus(
    points: torch.Tensor,
    clusters: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw centroids [clusters, D] by k-means++ (Arthur & Vassilvitskii, SODA 2007)."""
    length = points.square().sum(1)
    row = int(torch.randint(len(points), (1,), generator=generator))
    rows = [row]
    nearest = torch.full_like(length, torch.inf)
    for _ in range(clusters - 1):
        product = points @ points[row]
        distance = length + length[row] - 2 * product
        # Copies of a centroid are 0 apart, but for rounding.
        is_apart = distance > 1e-6 * length
        distance = torch.where(is_apart, distance, 0)
        nearest = torch.minimum(nearest, distance)
        weight = nearest.double().cpu()
        if weight.sum() <= 0:  # all other points are copies of centroids
            weight = torch.ones_like(weight)
        row = int(torch.multinomial(weight, 1, generator=generator))
        rows.append(row)
    return points[torch.tensor(rows, device=points.device)].clone()
