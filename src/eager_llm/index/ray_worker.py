"""The worker of a build: what is done with a range of rows, on the worker's own device.

Shapes: N rows of a range, K labels, D dimensions of the embedding, L levels.
"""

import warnings

import numpy as np
import torch

from eager_llm.index.capacity import capacity_of
from eager_llm.index.descent import ChildRoom, descend
from eager_llm.index.kmeans import (
    ClusterSums,
    lloyd_sums,
    matmul_precision,
    nearest_labels,
    sums_of,
)
from eager_llm.index.shards import Shards

# Rows stay on a GPU that has so many times their size free: the work itself needs memory, too.
FREE_MEMORY_FACTOR = 8


class Worker:
    """Works on ranges of rows; the same in this process and as a Ray actor.

    Everything that goes in or comes out is NumPy, and nothing is stored but copies of rows on a
    GPU, so that any other worker can repeat a lost worker's tasks.

    Args:
        sources: the embedding of each source.
        precision: float32 or bf16, see `matmul_precision`.
    """

    def __init__(
        self,
        sources: dict[str, Shards],
        precision: str,
    ) -> None:
        self.sources = sources
        self.precision = precision
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._gpu_rows: dict[tuple[str, int, int], torch.Tensor] = {}

    def faulty_rows(
        self,
        source: str,
        start: int,
        stop: int,
    ) -> tuple[int, str, int] | None:
        """Return the first row that no index can be built on, its fault, and how many there are.

        The fault is NaN, infinite or zero; None is returned where all rows are sound.
        """
        length = self._points(source, start, stop).float().norm(dim=1)
        is_faulty = ~length.isfinite() | (length == 0)
        if not is_faulty.any():
            return None
        row = start + int(is_faulty.byte().argmax())
        values = self.sources[source].read(row, row + 1)
        if np.isnan(values).any():
            fault = "NaN"
        elif not values.any():
            fault = "zero"
        else:
            fault = "infinite"
        return row, fault, int(is_faulty.sum())

    def lloyd(
        self,
        source: str,
        start: int,
        stop: int,
        codebook: np.ndarray,
        prices: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums, float32 [K, D], and counts, [K], of the rows nearest to each label.

        Args:
            codebook: float32 [K, D].
            prices: float32 [K].
        """
        points = self._points(source, start, stop)
        with matmul_precision(self.precision):
            sums = lloyd_sums(points, self._tensor(codebook), self._tensor(prices))
        return _sums_as_numpy(sums)

    def nearest(
        self,
        source: str,
        start: int,
        stop: int,
        codebook: np.ndarray,
        prices: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the label of each row, int32 [N], and how much worse the second is, float32 [N].

        Args:
            codebook: float32 [K, D].
            prices: float32 [K].
        """
        points = self._points(source, start, stop)
        with matmul_precision(self.precision):
            labels, regret = nearest_labels(points, self._tensor(codebook), self._tensor(prices))
        return labels.int().cpu().numpy(), regret.cpu().numpy()

    def sums(
        self,
        source: str,
        start: int,
        stop: int,
        labels: np.ndarray,
        clusters: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums, float32 [K, D], and counts, [K], of the rows of each label.

        Args:
            labels: int [N].
            clusters: number of labels, K.
        """
        points = self._points(source, start, stop)
        sums = sums_of(points, self._tensor(labels).long(), clusters)
        return _sums_as_numpy(sums)

    def descend(
        self,
        source: str,
        rows: np.ndarray,
        top_labels: np.ndarray,
        codebooks: list[np.ndarray],
        balanced: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give the rows of whole branches of the top level their labels in the levels below.

        Args:
            rows: the branches' rows, branch after branch, int [N].
            top_labels: the branch of each row, int [N].
            codebooks: of each level, float32 [K, D].
            balanced: whether a child holds its even share of the parent's rows.

        Returns:
            Codes int32 [N, L] and squared distances float32 [N, L]; see `descent.descend`.
        """
        branching = len(codebooks[0])
        room = leaves_below(branching, len(codebooks))
        if balanced:
            room = even_shares(branching)
        embedding = self.sources[source].take(rows)
        points = torch.from_numpy(embedding).to(self.device)
        tensors = [self._tensor(codebook) for codebook in codebooks]
        top = self._tensor(top_labels).long()
        with matmul_precision(self.precision):
            return descend(points, tensors, room, top)

    def _points(
        self,
        source: str,
        start: int,
        stop: int,
    ) -> torch.Tensor:
        """Return the rows of a range, [N, D]; on a GPU with memory for them they stay there."""
        key = (source, start, stop)
        if key in self._gpu_rows:
            return self._gpu_rows[key]
        with warnings.catch_warnings():
            # Ray's arrays are read-only, which torch warns of; nothing writes to them.
            warnings.simplefilter("ignore", UserWarning)
            points = torch.from_numpy(self.sources[source].read(start, stop))
        if self.device == "cpu":
            return points
        points = points.to(self.device)
        free_bytes = torch.cuda.mem_get_info()[0]
        if free_bytes >= FREE_MEMORY_FACTOR * points.nbytes:
            self._gpu_rows[key] = points
        return points

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self.device)


def even_shares(branching: int) -> ChildRoom:
    """Return the room of a balanced tree: a child holds its even share of the parent's points."""

    def _room(
        level: int,
        parents: np.ndarray,
        sizes: np.ndarray,
    ) -> np.ndarray:
        return capacity_of(sizes, branching)[:, None]

    return _room


def leaves_below(branching: int, height: int) -> ChildRoom:
    """Return the room of any other tree: a child holds as many points as it has leaves below."""

    def _room(
        level: int,
        parents: np.ndarray,
        sizes: np.ndarray,
    ) -> np.ndarray:
        leaves = branching ** (height - 1 - level)
        return np.full((len(sizes), 1), leaves)

    return _room


def _sums_as_numpy(sums: ClusterSums) -> tuple[np.ndarray, np.ndarray]:
    return sums.total.cpu().numpy(), sums.count.cpu().numpy()
