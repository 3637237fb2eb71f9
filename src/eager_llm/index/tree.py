"""One source's tree: balanced k-means at the top, residual labels shared by all parents below.

Below the top level a point is described by what its parents leave over (its residual). The labels
of a level come from one codebook of residuals, so that the same label means a similar direction
under every parent; capacities keep each leaf to one item (EAGER-LLM, section 3.3: DKI).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from eager_llm.errors import UserError
from eager_llm.index.kmeans import assign_with_capacity, balanced_kmeans, capacity_of

Groups = Iterable[tuple[np.ndarray, int]]
AssignGroups = Callable[[np.ndarray, np.ndarray, list[tuple[np.ndarray, int]]], list[np.ndarray]]


@dataclass(frozen=True)
class SourceTree:
    """The tree of one source.

    Attributes:
        codes: int64 [items, height], the path of each item; no two are equal.
        centroids: a float32 [k, dim] codebook for each level.
    """

    codes: np.ndarray
    centroids: list[np.ndarray]


def tree_height(items: int, branching: int) -> int:
    """Return the least height with room for every item: ceil(log_k N), in whole numbers."""
    height, room = 1, branching
    while room < items:
        height, room = height + 1, room * branching
    return height


def check_embedding(embedding: np.ndarray, item_ids: list[str], source: str) -> None:
    """Refuse an embedding that holds NaN or infinite values, naming the first such item."""
    broken = ~np.isfinite(embedding).all(axis=1)
    if broken.any():
        row = int(broken.argmax())
        raise UserError(
            f"{source} embedding of item {item_ids[row]!r} (row {row}) is not finite; {int(broken.sum())} such rows"
        )


def build_tree(
    embedding: np.ndarray,
    branching: int,
    iterations: int,
    seed: int,
    assign_groups: AssignGroups | None = None,
) -> SourceTree:
    """Build the balanced tree of one source.

    Args:
        embedding: float32 [items, dim].
        assign_groups: runs `assign_parents` for lists of parents; replaced to run them elsewhere.
    """
    assign_groups = assign_groups or assign_parents
    generator = torch.Generator().manual_seed(seed)
    items = len(embedding)
    height = tree_height(items, branching)
    points = torch.tensor(embedding, dtype=torch.float32)
    codes = np.zeros((items, height), dtype=np.int64)
    centroids: list[np.ndarray] = []
    parent = np.zeros(items, dtype=np.int64)
    for level in range(height):
        # The capacity that leaves room for every point in the levels below.
        group_sizes = np.bincount(parent)
        capacity = capacity_of(int(group_sizes.max()), branching)
        codebook_capacity = max(capacity, capacity_of(items, branching))
        labels, codebook = balanced_kmeans(points, branching, codebook_capacity, iterations, generator)
        if level:
            codebook = _all_labels(codebook, branching)
            groups = _groups(parent, branching)
            placed = assign_groups(points.numpy(), codebook.numpy(), groups)
            for (rows, _), found in zip(groups, placed, strict=True):
                labels[torch.from_numpy(rows)] = torch.from_numpy(found)
        codes[:, level] = labels.numpy()
        centroids.append(codebook.numpy())
        points = points - codebook[labels]
        _, parent = np.unique(parent * branching + codes[:, level], return_inverse=True)
    return SourceTree(codes, centroids)


def assign_parents(points: np.ndarray, codebook: np.ndarray, groups: Groups) -> list[np.ndarray]:
    """Assign each parent's points to labels, within the parent's capacity.

    Args:
        points: float32 [items, dim], the residuals.
        codebook: float32 [k, dim].
        groups: for each parent, its rows and its capacity.
    """
    labels = torch.tensor(codebook)
    return [
        assign_with_capacity(torch.cdist(torch.from_numpy(points[rows]), labels).square(), capacity).numpy()
        for rows, capacity in groups
    ]


def _groups(parent: np.ndarray, branching: int) -> list[tuple[np.ndarray, int]]:
    order = np.argsort(parent, kind="stable")
    bounds = np.flatnonzero(np.diff(parent[order])) + 1
    return [(rows, capacity_of(len(rows), branching)) for rows in np.split(order, bounds)]


def _all_labels(codebook: torch.Tensor, branching: int) -> torch.Tensor:
    """Fill a codebook that had fewer points than labels, so that every parent has room."""
    missing = branching - len(codebook)
    return torch.cat([codebook, codebook.new_zeros(missing, codebook.shape[1])]) if missing > 0 else codebook
