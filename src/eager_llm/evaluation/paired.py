"""What chance leaves of a difference: the paired bootstrap.

Shapes: C cases, U units (a unit, such as a user, has one case or more), R resamples.
"""

from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 22  # numbers drawn at a time


@dataclass(frozen=True)
class Difference:
    """The difference of two means over the same units.

    Attributes:
        first, second: the means.
        low, high: one-sided bounds of `first - second`, each with the requested confidence.
        units: number of units that were resampled.
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
    """Compare two methods on the same cases by the paired percentile bootstrap.

    Efron & Tibshirani, An Introduction to the Bootstrap (1993). Units are drawn with replacement,
    not cases: the cases of one unit are not independent. Each mean is a ratio of sums, so that a
    unit counts by its size.

    Args:
        first, second: float [C], what each case adds to the sum.
        sizes: float [C], what each case adds to the divisor; 1 for a plain mean.
        units: [C], the unit of each case.
        resamples: R.
        confidence: of each bound by itself.
    """
    _, unit_numbers = np.unique(units, return_inverse=True)
    unit_sums = np.bincount(unit_numbers, first - second)
    unit_sizes = np.bincount(unit_numbers, sizes)
    differences = _resampled(unit_sums, unit_sizes, resamples, seed)
    low, high = np.quantile(differences, [1 - confidence, confidence])
    total = float(sizes.sum())
    return Difference(
        first=float(first.sum()) / total,
        second=float(second.sum()) / total,
        low=float(low),
        high=float(high),
        units=len(unit_sizes),
    )


def _resampled(sums: np.ndarray, sizes: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the ratio of sums in each resample, float [R]; `sums` and `sizes` are [U]."""
    rng = np.random.default_rng(seed)
    count = len(sizes)
    block = max(1, BLOCK // count)
    ratios: list[np.ndarray] = []
    for start in range(0, resamples, block):
        rows = rng.integers(0, count, (min(block, resamples - start), count))
        ratios.append(sums[rows].sum(1) / sizes[rows].sum(1))
    return np.concatenate(ratios)
