"""What chance leaves of a difference: the paired bootstrap."""

from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 22  # numbers drawn at a time


@dataclass(frozen=True)
class Difference:
    """The difference of two means over the same units.

    Attributes:
        first, second: the means.
        low, high: one-sided bounds of `first - second`, each with the confidence that was asked for.
        units: how many were drawn from.
    """

    first: float
    second: float
    low: float
    high: float
    units: int

    @property
    def value(self) -> float:
        """How much more the first is."""
        return self.first - self.second


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    sizes: np.ndarray,
    units: np.ndarray,
    resamples: int,
    confidence: float,
    seed: int,
) -> Difference:
    """Compare two ways on the same cases by the percentile bootstrap (Efron & Tibshirani 1993), paired.

    What is drawn, with replacement, is units: the cases of one unit, such as a user, are not independent. Each
    mean is a ratio of sums, so that a unit counts by its size.

    Args:
        first, second: float [cases], what each case adds to the sum.
        sizes: float [cases], what each case adds to the divisor; 1 for a plain mean.
        units: [cases], the unit of each case.
        confidence: of each bound by itself.
    """
    _, place = np.unique(units, return_inverse=True)
    gained, size = np.bincount(place, first - second), np.bincount(place, sizes)
    rng, count = np.random.default_rng(seed), len(size)
    found = []
    for start in range(0, resamples, max(1, BLOCK // count)):
        rows = rng.integers(0, count, (min(max(1, BLOCK // count), resamples - start), count))
        found.append(gained[rows].sum(1) / size[rows].sum(1))
    low, high = np.quantile(np.concatenate(found), [1 - confidence, confidence])
    total = float(sizes.sum())
    return Difference(
        float(first.sum()) / total, float(second.sum()) / total, float(low), float(high), count
    )
