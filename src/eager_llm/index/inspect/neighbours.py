"""Do items that are alike share a prefix? The true nearest neighbours of a sample, and their tokens."""

from dataclasses import dataclass

import numpy as np
import torch

from eager_llm.index.inspect.nodes import Nodes
from eager_llm.index.shards import Shards

SAMPLED = 1000  # items whose neighbours are looked for
NEAREST = 10
BLOCK_ROWS = 2048  # so many rows against the sample stay in the cache


@dataclass(frozen=True)
class PrefixShare:
    """How many of the neighbours share so many tokens with their item.

    Attributes:
        length: tokens of the prefix.
        share: of the neighbours that share it, over the sampled items.
        margin: 1.96 standard errors of `share`, from the spread between items.
        chance: what items drawn at random instead of the neighbours would give, in expectation.
        most: what can be reached at all: a node holds only so many neighbours.
    """

    length: int
    share: float
    margin: float
    chance: float
    most: float


@dataclass(frozen=True)
class Compared:
    """What the embedding of a source says about its tree.

    Attributes:
        sampled: items whose neighbours were looked for.
        nearest: neighbours of each.
        prefixes: one for each prefix shorter than the path, which is an item's own.
        variance: mean squared distance of all items to their mean.
        distance: mean squared distance of the sampled items to their path's point.
        rows: int64 [sampled], the sampled items.
    """

    sampled: int
    nearest: int
    prefixes: list[PrefixShare]
    variance: float
    distance: float
    rows: np.ndarray


def compare(
    shards: Shards,
    order: np.ndarray,
    codes: np.ndarray,
    centroids: list[np.ndarray],
    levels: list[Nodes],
    seed: int,
) -> Compared:
    """Compare the tree of a source with the embedding it stands for.

    Args:
        order: int64 [items], the row of each item in the embedding.
        codes: int [items, height].
        centroids: float32 [k, dim] for each level.
        levels: the nodes of each level.
        seed: of the sample.
    """
    items = len(order)
    rows = np.sort(np.random.default_rng(seed).choice(items, min(SAMPLED, items), replace=False))
    points = shards.take(order[rows])
    found, variance = nearest_neighbours(shards, order, rows, min(NEAREST, items - 1))
    left_over = points.copy()
    for labels, codebook in zip(codes[rows].T, centroids, strict=True):
        left_over -= codebook[labels]
    return Compared(
        sampled=len(rows),
        nearest=found.shape[1],
        prefixes=[
            _prefix_share(n, nodes, rows, found) for n, nodes in enumerate(levels[:-1], start=1)
        ],
        variance=variance,
        distance=float(np.square(left_over, dtype=np.float64).sum(1).mean()),
        rows=rows,
    )


def nearest_neighbours(
    shards: Shards, order: np.ndarray, rows: np.ndarray, nearest: int
) -> tuple[np.ndarray, float]:
    """Return the exact nearest neighbours of some items, by Euclidean distance, in one pass over all.

    Args:
        order: int64 [items], the row of each item in the embedding.
        rows: int64 [sampled], the items whose neighbours are wanted, in rising order.

    Returns:
        Items int64 [sampled, nearest], the item itself left out, and the mean squared distance of all
        items to their mean.
    """
    points = torch.from_numpy(shards.take(order[rows]))
    # Distances come as differences of squared lengths: near the middle those are small, and so is the rounding.
    middle = points.mean(0)
    points -= middle
    best = torch.full((len(rows), nearest), torch.inf)
    items = torch.zeros(best.shape, dtype=torch.long)
    total, squares = torch.zeros(shards.dim, dtype=torch.double), 0.0
    for start in range(0, len(order), BLOCK_ROWS):
        block = torch.from_numpy(shards.take(order[start : start + BLOCK_ROWS])).sub_(middle)
        length = block.square().sum(1)
        total += block.sum(0)
        squares += float(length.sum(dtype=torch.double))
        scores = torch.addmm(length, points, block.T, alpha=-2)
        first, last = np.searchsorted(rows, (start, start + len(block)))
        scores[np.arange(first, last), rows[first:last] - start] = torch.inf
        close = scores.topk(min(nearest, len(block)), largest=False)
        both = torch.cat([best, close.values], dim=1)
        best, kept = both.topk(nearest, largest=False)
        items = torch.cat([items, close.indices + start], dim=1).gather(1, kept)
    variance = squares / len(order) - float((total / len(order)).square().sum())
    return items.numpy(), variance


def _prefix_share(length: int, nodes: Nodes, rows: np.ndarray, found: np.ndarray) -> PrefixShare:
    shares = (nodes.of_item[found] == nodes.of_item[rows, None]).mean(1)
    others = nodes.size[nodes.of_item[rows]] - 1
    return PrefixShare(
        length=length,
        share=float(shares.mean()),
        margin=float(1.96 * shares.std() / np.sqrt(len(shares))),
        chance=float(others.mean() / (len(nodes.of_item) - 1)),
        most=float(np.minimum(others / found.shape[1], 1).mean()),
    )
