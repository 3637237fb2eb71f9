"""The nearest items by the index alone: how near their paths' points lie, source by source.

Shapes: N items, M candidates, D dimensions of a source's embedding.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from eager_llm.core.errors import UserError
from eager_llm.index.item_index import ItemIndex


@dataclass(frozen=True)
class NearestItem:
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


class NearestItemSearch:
    """Finds nearest items by the points of their paths, the sums of their tokens' centroids.

    No embedding is needed, and no point is stored: a squared distance is a sum of table look-ups,
    as in product quantisation with asymmetric distances (Jégou et al., 2011), exact for these
    points.

    Raises:
        UserError: the index has no centroids.
    """

    def __init__(self, index: ItemIndex) -> None:
        if not index.centroids:
            raise UserError("the item index has no centroids: what is alike cannot be told from it")
        self.index = index

    def nearest(
        self,
        row: int,
        k: int,
        source: str | None = None,
        passes: np.ndarray | None = None,
    ) -> list[NearestItem]:
        """Return the k items nearest to an item, itself left out, nearest first.

        Args:
            row: of the item in the index.
            source: one source of the index; None: all.
            passes: which items are candidates, bool [N]; None: all.

        Raises:
            UserError: the index has no such source.
        """
        if passes is None:
            is_candidate = np.ones(len(self.index.codes), dtype=bool)
        else:
            is_candidate = passes.copy()
        is_candidate[row] = False
        candidates = np.flatnonzero(is_candidate)
        return self.among(row, candidates, k, source)

    def among(
        self,
        row: int,
        rows: np.ndarray,
        k: int,
        source: str | None = None,
    ) -> list[NearestItem]:
        """Return the k of some candidates that are nearest to an item, nearest first.

        Args:
            row: of the item in the index.
            rows: the candidates, int [M].
            source: one source of the index; None: all.

        Raises:
            UserError: the index has no such source.
        """
        if source and source not in self.index.levels_of:
            raise UserError(f"source {source!r}: the index has {', '.join(self.index.levels_of)}")
        sources = [source] if source else list(self.index.levels_of)
        distances = [self._distances(name, row, rows) for name in sources]
        total = np.mean(distances, axis=0)
        # Stable: items equally near come in the order of the index.
        order = np.argsort(total, kind="stable")[:k]
        nearest = []
        for position in order:
            candidate = int(rows[position])
            nearest.append(
                NearestItem(
                    row=candidate,
                    distance=float(total[position]),
                    shared=self.shared(row, candidate),
                )
            )
        return nearest

    def shared(
        self,
        row: int,
        other: int,
    ) -> dict[str, int]:
        """Return how many tokens two paths share from the first on, for each source."""
        same = self.index.codes[row] == self.index.codes[other]
        lengths = {}
        for source, levels in self.index.levels_of.items():
            prefix = np.logical_and.accumulate(same[levels])
            lengths[source] = int(prefix.sum())
        return lengths

    def _distances(
        self,
        source: str,
        row: int,
        rows: np.ndarray,
    ) -> np.ndarray:
        """Return the squared distances of candidates [M] to an item, in the source's unit."""
        codes = self.index.codes
        vectors = []
        for level in self._levels(source):
            codebook = self.index.centroids[level]
            vectors.append(codebook[codes[row, level]])
        point = np.sum(vectors, axis=0, dtype=np.float32)
        products = []
        for level in self._levels(source):
            codebook = self.index.centroids[level]
            products.append((codebook @ point)[codes[rows, level]])
        product = np.sum(products, axis=0)
        lengths, unit = self._lengths[source]
        squared = lengths[rows] + lengths[row] - 2 * product
        return np.maximum(squared, 0) / unit

    def _levels(self, source: str) -> range:
        return range(self.index.levels)[self.index.levels_of[source]]

    @cached_property
    def _lengths(self) -> dict[str, tuple[np.ndarray, float]]:
        """For each source the squared length of every point, float32 [N], and the unit of distance.

        The unit is the mean squared distance of two items drawn at random.
        """
        result = {}
        codes = self.index.codes
        centroids = self.index.centroids
        for source in self.index.levels_of:
            levels = self._levels(source)
            lengths = np.zeros(len(codes), dtype=np.float32)
            for level in levels:
                for other in levels:
                    products = centroids[level] @ centroids[other].T
                    lengths += products[codes[:, level], codes[:, other]]
            means = []
            for level in levels:
                vectors = centroids[level][codes[:, level]]
                means.append(vectors.mean(0))
            middle = np.sum(means, axis=0)
            variance = lengths.mean(dtype=np.float64) - middle @ middle
            unit = 2 * float(variance)
            result[source] = (lengths, max(unit, 1e-12))
        return result
