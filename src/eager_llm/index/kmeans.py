"""k-means in bulk on any device: scores by matrix products, block by block, and Lloyd's iterations."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from eager_llm.index.capacity import balance_prices

PRICE_ROUNDS = 3  # of balance_prices in an iteration; they go on from the iteration before
PRICED = 64  # points of the sample that prices are made on, for each cluster
EARLY = 32  # points of the sample that the first iterations see, for each cluster
MOST_SCORES = 1 << 26  # that are held at once
SEEDED = 8  # points of the sample that a start is drawn from, for each cluster
START_ITERATIONS = 3  # after which the best of several starts is chosen


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Multiply float32 matrices in float32, or in bf16 where the processor is faster with it.

    Sums are float32 in both; bf16 rounds the factors to 8 bits.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if name == "bf16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def blocks(points: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the points in blocks whose scores stay in the cache, each with its offset."""
    size = 1 << 17 if points.is_cuda else 1 << 12
    for start in range(0, len(points), size):
        yield start, points[start : start + size].float()


def score(block: torch.Tensor, codebook: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Return squared distances less the squared length of each point: [points, labels].

    Args:
        offset: float [labels], squared length of each centroid, and its price where it has one.
    """
    if block.is_cuda and torch.get_float32_matmul_precision() == "medium":
        # Processors round the factors to bf16 by themselves; CUDA wants them so.
        product = torch.mm(block.bfloat16(), codebook.T.bfloat16(), out_dtype=torch.float32)
        return product.mul_(-2).add_(offset)
    return torch.addmm(offset, block, codebook.T, alpha=-2)


@dataclass
class Sums:
    """What a part of the points says about the next centroids.

    Attributes:
        total: float [labels, dim], sum of the points of each label.
        count: int64 [labels], points of each label.
    """

    total: torch.Tensor
    count: torch.Tensor

    def means(self, before: torch.Tensor) -> torch.Tensor:
        """Return the mean of each label; a label without points stays where it was."""
        mean = (self.total / self.count.clamp(min=1)[:, None]).to(before.dtype)
        return torch.where(self.count[:, None] > 0, mean, before)


def sums_of(points: torch.Tensor, labels: torch.Tensor, clusters: int) -> Sums:
    """Add the points of each label up."""
    total = torch.zeros(clusters, points.shape[1], device=points.device)
    for start, block in blocks(points):
        _add(total, labels[start : start + len(block)], block)
    return Sums(total, torch.bincount(labels, minlength=clusters))


def lloyd(points: torch.Tensor, codebook: torch.Tensor, prices: torch.Tensor) -> Sums:
    """Label each point by the least score and add the points of each label up."""
    total = torch.zeros_like(codebook)
    count = torch.zeros(len(codebook), dtype=torch.long, device=points.device)
    offset = codebook.square().sum(1) + prices
    for _, block in blocks(points):
        labels = score(block, codebook, offset).min(1).indices  # argmin is not vectorised
        _add(total, labels, block)
        count += torch.bincount(labels, minlength=len(codebook))
    return Sums(total, count)


def price_and_move(
    points: torch.Tensor, codebook: torch.Tensor, prices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next centroids and prices, both by the same scores, of all points at once."""
    scores = score(points, codebook, codebook.square().sum(1))
    prices = balance_prices(scores, prices, PRICE_ROUNDS)
    labels = scores.add_(prices).min(1).indices
    return sums_of(points, labels, len(codebook)).means(codebook), prices


def nearest(
    points: torch.Tensor, codebook: torch.Tensor, prices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the label of least score, int64 [points], and how much worse the next best is, float [points]."""
    labels = torch.empty(len(points), dtype=torch.long, device=points.device)
    regret = torch.zeros(len(points), device=points.device)
    offset = codebook.square().sum(1) + prices
    for start, block in blocks(points):
        best = score(block, codebook, offset).topk(min(2, len(codebook)), dim=1, largest=False)
        labels[start : start + len(block)] = best.indices[:, 0]
        regret[start : start + len(block)] = best.values[:, -1] - best.values[:, 0]
    return labels, regret


def some_of(sample: torch.Tensor, clusters: int, each: int) -> torch.Tensor:
    """Return so many points of the sample for each cluster, but no more than their scores have memory for."""
    return sample[: max(clusters, min(each * clusters, MOST_SCORES // clusters))]


def prices_for(sample: torch.Tensor, codebook: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Return prices under which the sample spreads evenly over the codebook."""
    part = some_of(sample, len(codebook), PRICED)
    return balance_prices(score(part, codebook, codebook.square().sum(1)), start, PRICE_ROUNDS)


def start_codebook(
    sample: torch.Tensor, clusters: int, restarts: int, generator: torch.Generator
) -> torch.Tensor:
    """Return the best of several starts on a sample: k-means++, then a few plain iterations each.

    Args:
        sample: float [points, dim], in random order, at least `clusters` of them.

    Returns:
        Centroids float [clusters, dim].
    """
    seeds, part = sample[: SEEDED * clusters], sample[: EARLY * clusters]
    free = torch.zeros(clusters, device=sample.device)
    best: tuple[float, torch.Tensor] | None = None
    for _ in range(restarts):
        codebook = _plus_plus(seeds, clusters, generator)
        for _ in range(START_ITERATIONS):
            codebook = lloyd(part, codebook, free).means(codebook)
        total = sum(
            float(score(block, codebook, codebook.square().sum(1)).amin(1).double().sum())
            for _, block in blocks(part)
        )
        if best is None or total < best[0]:
            best = total, codebook
    assert best is not None
    return best[1]


def with_all_labels(codebook: torch.Tensor, clusters: int) -> torch.Tensor:
    """Fill a codebook that had fewer points than labels up with zeros, so that every parent has room."""
    return torch.cat([codebook, codebook.new_zeros(clusters - len(codebook), codebook.shape[1])])


def _add(total: torch.Tensor, labels: torch.Tensor, block: torch.Tensor) -> None:
    if block.is_cuda:
        # index_add_ on CUDA adds in any order; a product with the one-hot labels does not.
        total += torch.nn.functional.one_hot(labels, len(total)).to(block.dtype).T @ block
    else:
        total.index_add_(0, labels, block)


def _plus_plus(points: torch.Tensor, clusters: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++ (Arthur & Vassilvitskii, SODA 2007)."""
    length = points.square().sum(1)
    pick = int(torch.randint(len(points), (1,), generator=generator))
    picks, far = [pick], torch.full_like(length, torch.inf)
    for _ in range(clusters - 1):
        distance = length + length[pick] - 2 * (points @ points[pick])
        # Copies of a chosen point are 0 apart, but for rounding.
        far = torch.minimum(far, torch.where(distance > 1e-6 * length, distance, 0))
        weight = far.double().cpu()
        if weight.sum() <= 0:  # all points left are copies of chosen ones
            weight = torch.ones_like(weight)
        pick = int(torch.multinomial(weight, 1, generator=generator))
        picks.append(pick)
    return points[torch.tensor(picks, device=points.device)].clone()
