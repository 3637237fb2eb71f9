"""Items alike by the index alone: how near their paths' points lie, source by source."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from eager_llm.core.errors import UserError
from eager_llm.index.item_index import ItemIndex


@dataclass(frozen=True)
class Alike:
    """An item near another.

    Attributes:
        row: in the index.
        distance: mean over the sources of the squared distance of the two points, in units of the
            source's mean squared distance of two items drawn at random.
        shared: for each source, how many tokens the two paths share from the first on.
    """

    row: int
    distance: float
    shared: dict[str, int]


class NearestItems:
    """Nearest items by the points of their paths, the sums of their tokens' centroids.

    No embedding is needed, and no point is kept: a squared distance is a sum of table look-ups, as in
    product quantisation with asymmetric distances (Jégou et al., 2011), exact for these points.
    """

    def __init__(self, index: ItemIndex) -> None:
        if not index.centroids:
            raise UserError("the item index has no centroids: what is alike cannot be told from it")
        self.index = index

    def nearest(
        self, row: int, k: int, source: str | None = None, passes: np.ndarray | None = None
    ) -> list[Alike]:
        """Return the k items nearest to one, the item itself left out, nearest first.

        Args:
            source: one source of the index; None: all.
            passes: bool [items], which may come; None: all.

        Raises:
            UserError: the index has no such source.
        """
        may = np.ones(len(self.index.codes), dtype=bool) if passes is None else passes.copy()
        may[row] = False
        rows = np.flatnonzero(may)
        return self.among(row, rows, k, source)

    def among(self, row: int, rows: np.ndarray, k: int, source: str | None = None) -> list[Alike]:
        """Return the k of some items that are nearest to one, nearest first; see `nearest`."""
        sources = [source] if source else list(self.index.levels_of)
        if source and source not in self.index.levels_of:
            raise UserError(f"source {source!r}: the index has {', '.join(self.index.levels_of)}")
        total = np.mean([self._distances(name, row, rows) for name in sources], axis=0)
        # Stable: items equally near come in the order of the index.
        best = np.argsort(total, kind="stable")[:k]
        return [Alike(int(rows[n]), float(total[n]), self.shared(row, int(rows[n]))) for n in best]

    def shared(self, one: int, other: int) -> dict[str, int]:
        """Return how many tokens two paths share from the first on, for each source."""
        same = self.index.codes[one] == self.index.codes[other]
        return {
            name: int(np.logical_and.accumulate(same[levels]).sum())
            for name, levels in self.index.levels_of.items()
        }

    def _distances(self, source: str, row: int, rows: np.ndarray) -> np.ndarray:
        levels = range(self.index.levels)[self.index.levels_of[source]]
        codes, centroids = self.index.codes, self.index.centroids
        point = np.sum(
            [centroids[level][codes[row, level]] for level in levels], axis=0, dtype=np.float32
        )
        products = np.sum(
            [(centroids[level] @ point)[codes[rows, level]] for level in levels], axis=0
        )
        lengths, usual = self._lengths[source]
        return np.maximum(lengths[rows] + lengths[row] - 2 * products, 0) / usual

    @cached_property
    def _lengths(self) -> dict[str, tuple[np.ndarray, float]]:
        """For each source, the squared length of every point, float32 [items], and the usual distance of two."""
        found = {}
        codes, centroids = self.index.codes, self.index.centroids
        for source, part in self.index.levels_of.items():
            levels = range(self.index.levels)[part]
            lengths = np.zeros(len(codes), dtype=np.float32)
            for one in levels:
                for other in levels:
                    table = centroids[one] @ centroids[other].T
                    lengths += table[codes[:, one], codes[:, other]]
            middle = np.sum([centroids[level][codes[:, level]].mean(0) for level in levels], axis=0)
            usual = 2 * float(lengths.mean(dtype=np.float64) - middle @ middle)
            found[source] = (lengths, max(usual, 1e-12))
        return found
