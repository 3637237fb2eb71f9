"""Do similar items share a prefix? The true nearest neighbours of a sample, and their tokens.

Shapes: N items of the index, S sampled items, M nearest neighbours of each, L levels, D dimensions.
"""

from dataclasses import dataclass

import numpy as np
import torch

from eager_llm.index.inspect.nodes import Nodes
from eager_llm.index.shards import Shards

# Items whose neighbours are looked for, and how many neighbours of each.
SAMPLE_ITEMS = 1000
NEIGHBOURS = 10
# So many rows against the sample stay in the cache.
BLOCK_ROWS = 2048
# Standard errors on each side of a 95 % interval.
Z_95 = 1.96


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
class EmbeddingComparison:
    """What the embedding of a source says about its tree.

    Attributes:
        sampled: items whose neighbours were looked for, S.
        nearest: neighbours of each, M.
        prefixes: one for each prefix shorter than the path, which is an item's own.
        variance: mean squared distance of all items to their mean.
        distance: mean squared distance of the sampled items to their path's point.
        rows: the sampled items, int64 [S].
    """

    sampled: int
    nearest: int
    prefixes: list[PrefixShare]
    variance: float
    distance: float
    rows: np.ndarray


def compare_embedding(
    shards: Shards,
    order: np.ndarray,
    codes: np.ndarray,
    centroids: list[np.ndarray],
    levels: list[Nodes],
    seed: int,
) -> EmbeddingComparison:
    """Compare the tree of a source with the embedding that it stands for.

    Args:
        shards: the embedding.
        order: the row of each item in the embedding, int64 [N].
        codes: int [N, L].
        centroids: of each level, float32 [K, D].
        levels: the nodes of each level.
        seed: of the sample.
    """
    items = len(order)
    rng = np.random.default_rng(seed)
    sample = rng.choice(items, min(SAMPLE_ITEMS, items), replace=False)
    rows = np.sort(sample)
    points = shards.take(order[rows])
    neighbours, variance = nearest_neighbours(shards, order, rows, min(NEIGHBOURS, items - 1))
    residuals = points.copy()
    for labels, codebook in zip(codes[rows].T, centroids, strict=True):
        residuals -= codebook[labels]
    squared = np.square(residuals, dtype=np.float64).sum(1)
    prefixes = []
    for length, nodes in enumerate(levels[:-1], start=1):
        prefixes.append(_prefix_share(length, nodes, rows, neighbours))
    return EmbeddingComparison(
        sampled=len(rows),
        nearest=neighbours.shape[1],
        prefixes=prefixes,
        variance=variance,
        distance=float(squared.mean()),
        rows=rows,
    )


def nearest_neighbours(
    shards: Shards,
    order: np.ndarray,
    rows: np.ndarray,
    count: int,
) -> tuple[np.ndarray, float]:
    """Return the nearest neighbours of some items by Euclidean distance, exact, in one pass.

    Args:
        shards: the embedding.
        order: the row of each item in the embedding, int64 [N].
        rows: the items whose neighbours are looked for, in rising order, int64 [S].
        count: neighbours of each, M.

    Returns:
        Items int64 [S, M], the item itself left out, and the mean squared distance of all items to
        their mean.
    """
    points = torch.from_numpy(shards.take(order[rows]))
    # Distances come as differences of squared lengths: near the middle those are small, and so is
    # the rounding.
    middle = points.mean(0)
    points -= middle
    best_scores = torch.full((len(rows), count), torch.inf)
    best_items = torch.zeros(best_scores.shape, dtype=torch.long)
    total = torch.zeros(shards.dim, dtype=torch.double)
    squares = 0.0
    for start in range(0, len(order), BLOCK_ROWS):
        block_rows = order[start : start + BLOCK_ROWS]
        block = torch.from_numpy(shards.take(block_rows)).sub_(middle)
        length = block.square().sum(1)
        total += block.sum(0)
        squares += float(length.sum(dtype=torch.double))
        scores = torch.addmm(length, points, block.T, alpha=-2)
        # The sampled items of the block are no neighbours of themselves.
        first, last = np.searchsorted(rows, (start, start + len(block)))
        scores[np.arange(first, last), rows[first:last] - start] = torch.inf
        block_best = scores.topk(min(count, len(block)), largest=False)
        candidate_scores = torch.cat([best_scores, block_best.values], dim=1)
        candidate_items = torch.cat([best_items, block_best.indices + start], dim=1)
        best_scores, columns = candidate_scores.topk(count, largest=False)
        best_items = candidate_items.gather(1, columns)
    mean = total / len(order)
    variance = squares / len(order) - float(mean.square().sum())
    return best_items.numpy(), variance


def _prefix_share(
    length: int,
    nodes: Nodes,
    rows: np.ndarray,
    neighbours: np.ndarray,
) -> PrefixShare:
    """Return how many neighbours [S, M] of the rows [S] are under the same node of a level."""
    node_of_row = nodes.of_item[rows]
    is_shared = nodes.of_item[neighbours] == node_of_row[:, None]
    shares = is_shared.mean(1)
    others = nodes.size[node_of_row] - 1
    reachable = np.minimum(others / neighbours.shape[1], 1)
    return PrefixShare(
        length=length,
        share=float(shares.mean()),
        margin=float(Z_95 * shares.std() / np.sqrt(len(shares))),
        chance=float(others.mean() / (len(nodes.of_item) - 1)),
        most=float(reachable.mean()),
    )
