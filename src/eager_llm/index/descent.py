"""The way of points down a tree: level by level, each within its parent and within the room there.

Shapes: N points, D dimensions, L levels, K labels of a level, G groups (the parents of a level).
"""

from collections.abc import Callable

import numpy as np
import torch

from eager_llm.index.capacity import assign_columns
from eager_llm.index.kmeans import blocks, score

# Scores of a batch of groups on a processor: few enough for the cache; a GPU has 32 times as many.
BATCH_SCORES = 1 << 21
GPU_BATCHES = 32

# (level, codes of the parents [G, level], points of each [G]) -> room of each child, [G, 1 or K]
ChildRoom = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


def descend(
    points: torch.Tensor,
    codebooks: list[torch.Tensor],
    room: ChildRoom,
    top_labels: torch.Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Give each point a path; below the top level its residual decides.

    Args:
        points: float32 [N, D]; overwritten with what the path leaves over.
        codebooks: centroids of each level, float [K, D].
        room: how many points each child of a parent can hold, int [G, 1 or K].
        top_labels: labels of the first level where they are decided, int64 [N].

    Returns:
        Codes, int32 [N, L], and the squared distance to the path's point after each level,
        float32 [N, L].

    Raises:
        ValueError: there is not room for all points.
    """
    shape = (len(points), len(codebooks))
    codes = torch.empty(shape, dtype=torch.int32)
    errors = torch.empty(shape)
    parent = torch.zeros(len(points), dtype=torch.long, device=points.device)
    for level, codebook in enumerate(codebooks):
        if level == 0 and top_labels is not None:
            labels = top_labels
        else:
            room_of_groups = _room_of_groups(level, parent, codes, room)
            labels = _assign_groups(points, parent, codebook, room_of_groups)
        codes[:, level] = labels.cpu()
        errors[:, level] = _subtract_centroids(points, codebook, labels)
        child = parent * len(codebook) + labels
        parent = torch.unique(child, return_inverse=True)[1]
    return codes.numpy(), errors.numpy()


def _room_of_groups(
    level: int,
    parent: torch.Tensor,
    codes: torch.Tensor,
    room: ChildRoom,
) -> torch.Tensor:
    """Return the room of the children of each parent, int [G, 1 or K]."""
    sizes = torch.bincount(parent)
    # Any one member of a group has its parent's codes.
    member = torch.empty(len(sizes), dtype=torch.long)
    member[parent.cpu()] = torch.arange(len(parent))
    parent_codes = codes[member, :level].numpy()
    rooms = room(level, parent_codes, sizes.cpu().numpy())
    return torch.as_tensor(rooms, device=parent.device)


def _subtract_centroids(
    points: torch.Tensor,
    codebook: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """Replace points [N, D] by their residuals; return the squared lengths of those, float [N]."""
    errors = torch.empty(len(points))
    for start, block in blocks(points):
        stop = start + len(block)
        block -= codebook[labels[start:stop]]
        errors[start:stop] = block.norm(dim=1).square().cpu()
    return errors


def _assign_groups(
    points: torch.Tensor,
    group: torch.Tensor,
    codebook: torch.Tensor,
    rooms: torch.Tensor,
) -> torch.Tensor:
    """Return a label for each point, int64 [N], within the room of its group.

    Many groups are done at a time.

    Args:
        points: float32 [N, D].
        group: the group of each point, int64 [N].
        codebook: float [K, D].
        rooms: int [G, 1 or K].
    """
    by_group = group.argsort(stable=True)
    ends = torch.bincount(group).cumsum(0)
    lengths = codebook.square().sum(1)
    batch_rows = max(1, BATCH_SCORES // len(codebook))
    if points.is_cuda:
        batch_rows *= GPU_BATCHES
    labels = torch.empty_like(group)
    first = 0
    start = 0
    while first < len(ends):
        # As many whole groups as a batch has rows for, but at least one.
        last = int(torch.searchsorted(ends, start + batch_rows, right=True))
        last = max(first + 1, last)
        stop = int(ends[last - 1])
        rows = by_group[start:stop]
        cost = score(points[rows], codebook, lengths)
        batch_group = group[rows] - first
        labels[rows] = assign_columns(cost, rooms[first:last], batch_group)
        first = last
        start = stop
    return labels
