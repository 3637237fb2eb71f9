"""The codebook of a level, fitted on a sample of the points.

Shapes: N points of the sample, K labels of a level, D dimensions of the embedding.
"""

import numpy as np
import torch

from eager_llm.index.kmeans import (
    EARLY_POINTS,
    fit_prices,
    lloyd_sums,
    price_and_move,
    start_codebook,
    subsample,
)
from eager_llm.settings import IndexSettings

# Seeds of the levels of one tree are so far from those of another.
SEED_STRIDE = 64


class CodebookFitter:
    """Fits the codebooks of one tree.

    Args:
        height: levels of the tree.
        seed: of the start of every level.
    """

    def __init__(
        self,
        settings: IndexSettings,
        height: int,
        seed: int,
    ) -> None:
        self.settings = settings
        self.height = height
        self.seed = seed
        self.balanced = settings.builder == "balanced"

    def fit(
        self,
        sample: torch.Tensor,
        level: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a codebook, float [C, D], and the prices that balance it, float [C].

        C is the number of labels, or of points where there are fewer.

        Args:
            sample: what the levels above leave over of some points, in random order, float [N, D].
        """
        settings = self.settings
        clusters = min(settings.branching, len(sample))
        generator = torch.Generator().manual_seed(self.seed * SEED_STRIDE + level)
        restarts = settings.restarts if level == 0 else 1
        visible = self.level_view(sample, level)
        codebook = start_codebook(visible, clusters, restarts, generator)
        prices = codebook.new_zeros(clusters)
        # Far from the end few points show as well where the centroids should go.
        early_iterations = settings.iterations * 3 // 4
        early_sample = subsample(sample, clusters, EARLY_POINTS)
        for _ in range(early_iterations):
            if self.balanced:
                codebook, prices = price_and_move(early_sample, codebook, prices)
            else:
                codebook = lloyd_sums(early_sample, codebook, prices).means(codebook)
            codebook = self.level_view(codebook, level)
        for _ in range(settings.iterations - early_iterations):
            prices = self.balance(sample, codebook, prices)
            codebook = lloyd_sums(sample, codebook, prices).means(codebook)
            codebook = self.level_view(codebook, level)
        prices = self.balance(sample, codebook, prices)
        return codebook, prices

    def level_view(
        self,
        points: torch.Tensor,
        level: int,
    ) -> torch.Tensor:
        """Return what a level sees of points or centroids [*, D]: all, or a slice of them.

        With product quantisation each level has its own slice of the dimensions; the others are
        zero.
        """
        if self.settings.builder != "product":
            return points
        dim = points.shape[1]
        bounds = np.linspace(0, dim, self.height + 1, dtype=int)
        mask = torch.zeros(dim, device=points.device)
        mask[bounds[level] : bounds[level + 1]] = 1
        return points * mask

    def balance(
        self,
        sample: torch.Tensor,
        codebook: torch.Tensor,
        start: torch.Tensor,
    ) -> torch.Tensor:
        """Return the next prices [K]; a tree that is not balanced goes on without any.

        Args:
            sample: float [N, D].
            codebook: float [K, D].
            start: prices to go on from, float [K].
        """
        if not self.balanced:
            return start
        return fit_prices(sample, codebook, start)
