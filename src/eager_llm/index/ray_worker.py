"""The parts of a build: what one worker does with a range of rows, on its own device."""

import warnings
from collections.abc import Callable

import numpy as np
import torch

from eager_llm.index.capacity import capacity_of, place
from eager_llm.index.kmeans import blocks, lloyd, matmul_precision, nearest, score, sums_of
from eager_llm.index.shards import Shards

BATCH_SCORES = 1 << 21  # scores of a batch of groups: few enough for the cache

Room = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


class Worker:
    """Does parts of the build; the same in this process and as a Ray actor.

    Everything that goes in or comes out is NumPy, and nothing is kept but copies of rows on a GPU,
    so that a lost worker's part can be done again anywhere.

    Args:
        sources: the embedding of each source.
        precision: float32 or bf16, see `matmul_precision`.
    """

    def __init__(self, sources: dict[str, Shards], precision: str) -> None:
        self.sources, self.precision = sources, precision
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._on_gpu: dict[tuple[str, int, int], torch.Tensor] = {}

    def broken(self, source: str, start: int, stop: int) -> tuple[int, str, int] | None:
        """Return the first row that no index can be built on, what it is, and how many there are."""
        length = self._points(source, start, stop).float().norm(dim=1)
        wrong = ~length.isfinite() | (length == 0)
        if not wrong.any():
            return None
        row = start + int(wrong.byte().argmax())
        values = self.sources[source].read(row, row + 1)
        kind = "NaN" if np.isnan(values).any() else "zero" if not values.any() else "infinite"
        return row, kind, int(wrong.sum())

    def lloyd(
        self, source: str, start: int, stop: int, codebook: np.ndarray, prices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums float32 [labels, dim] and counts [labels] of the rows nearest to each label."""
        with matmul_precision(self.precision):
            sums = lloyd(
                self._points(source, start, stop), self._tensor(codebook), self._tensor(prices)
            )
        return sums.total.cpu().numpy(), sums.count.cpu().numpy()

    def nearest(
        self, source: str, start: int, stop: int, codebook: np.ndarray, prices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return for each row its label, int32, and how much worse the next best is, float32."""
        with matmul_precision(self.precision):
            labels, regret = nearest(
                self._points(source, start, stop), self._tensor(codebook), self._tensor(prices)
            )
        return labels.int().cpu().numpy(), regret.cpu().numpy()

    def sums(
        self, source: str, start: int, stop: int, labels: np.ndarray, clusters: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums float32 [clusters, dim] and counts [clusters] of the rows of each label."""
        sums = sums_of(self._points(source, start, stop), self._tensor(labels).long(), clusters)
        return sums.total.cpu().numpy(), sums.count.cpu().numpy()

    def descend(
        self,
        source: str,
        rows: np.ndarray,
        top: np.ndarray,
        codebooks: list[np.ndarray],
        balanced: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Place whole branches of the top level in the levels below.

        Args:
            rows: the branches' rows, branch after branch.
            top: the branch of each row.

        Returns:
            Codes int32 [rows, levels] and squared distances float32 [rows, levels], see `descend`.
        """
        points = torch.from_numpy(self.sources[source].take(rows)).to(self.device)
        branching, height = len(codebooks[0]), len(codebooks)

        def room(level: int, parents: np.ndarray, sizes: np.ndarray) -> np.ndarray:
            if balanced:
                return capacity_of(sizes, branching)[:, None]
            return np.full((len(sizes), 1), branching ** (height - 1 - level))

        with matmul_precision(self.precision):
            return descend(
                points, [self._tensor(c) for c in codebooks], room, self._tensor(top).long()
            )

    def _points(self, source: str, start: int, stop: int) -> torch.Tensor:
        key = (source, start, stop)
        if key not in self._on_gpu:
            with warnings.catch_warnings():
                # Ray's arrays are read-only, which torch warns of; nothing writes here.
                warnings.simplefilter("ignore", UserWarning)
                points = torch.from_numpy(self.sources[source].read(start, stop))
            if self.device == "cpu":
                return points
            points = points.to(self.device)
            if torch.cuda.mem_get_info()[0] < 8 * points.nbytes:  # leave room for the work itself
                return points
            self._on_gpu[key] = points
        return self._on_gpu[key]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self.device)


def descend(
    points: torch.Tensor, codebooks: list[torch.Tensor], room: Room, top: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Place points level by level, each within its parent, on what the levels above left over.

    Args:
        points: float32 [points, dim]; used up.
        codebooks: float [k, dim] for each level.
        room: (level, codes of the parents [groups, level], their sizes [groups]) -> int [groups, 1 or k],
            how many points each child can take.
        top: int64 [points], labels of the first level where they are known.

    Returns:
        Codes int32 [points, levels]; squared distance to the path's point after each level, float32
        [points, levels].

    Raises:
        ValueError: there is not room for all points.
    """
    codes = torch.empty(len(points), len(codebooks), dtype=torch.int32)
    errors = torch.empty(len(points), len(codebooks))
    parent = torch.zeros(len(points), dtype=torch.long, device=points.device)
    for level, codebook in enumerate(codebooks):
        if level == 0 and top is not None:
            labels = top
        else:
            sizes = torch.bincount(parent)
            member = torch.empty(len(sizes), dtype=torch.long)
            member[parent.cpu()] = torch.arange(
                len(points)
            )  # any one member tells its parent's codes
            rooms = room(level, codes[member, :level].numpy(), sizes.cpu().numpy())
            labels = _place_groups(
                points, parent, codebook, torch.as_tensor(rooms, device=points.device)
            )
        codes[:, level] = labels.cpu()
        for start, block in blocks(points):
            block -= codebook[labels[start : start + len(block)]]
            errors[start : start + len(block), level] = block.norm(dim=1).square().cpu()
        parent = torch.unique(parent * len(codebook) + labels, return_inverse=True)[1]
    return codes.numpy(), errors.numpy()


def _place_groups(
    points: torch.Tensor, group: torch.Tensor, codebook: torch.Tensor, rooms: torch.Tensor
) -> torch.Tensor:
    """Assign the points of every group to labels within the group's room, many groups at a time."""
    order = group.argsort(stable=True)
    ends = torch.bincount(group).cumsum(0)
    offset = codebook.square().sum(1)
    batch_rows = max(1, BATCH_SCORES // len(codebook)) * (32 if points.is_cuda else 1)
    labels = torch.empty_like(group)
    first = done = 0
    while first < len(ends):
        last = max(first + 1, int(torch.searchsorted(ends, done + batch_rows, right=True)))
        rows = order[done : int(ends[last - 1])]
        labels[rows] = place(
            score(points[rows], codebook, offset), rooms[first:last], group[rows] - first
        )
        first, done = last, int(ends[last - 1])
    return labels
