"""One measure of both bundles, and whether the new one may be worse than is tolerated.

Shapes: C cases.
"""

from dataclasses import dataclass

import numpy as np

from eager_llm.evaluation.paired import paired_difference
from eager_llm.settings import PromotionSettings


@dataclass(frozen=True)
class Check:
    """One measure of both bundles.

    Attributes:
        name: of the measure.
        running, new: its values.
        worst: the change as a share of `running`, negative where the new one is worse, at the far
            end of its confidence interval (for times, at the near end). Shares of right answers,
            which may be next to none, change in points of 1.
        tolerance: how much of that may be lost.
        units: what was resampled, such as "402 users".
    """

    name: str
    running: float
    new: float
    worst: float
    tolerance: float
    units: str

    @property
    def passed(self) -> bool:
        """Whether no loss beyond the tolerance is likely."""
        return bool(self.worst >= -self.tolerance)

    @property
    def reason(self) -> str:
        """Why it did not pass."""
        return (
            f"{self.name}: {self.new:.4g} after {self.running:.4g}; "
            f"chance allows a loss of {-self.worst:.1%}, "
            f"the tolerance is {self.tolerance:.1%} ({self.units})"
        )

    def __str__(self) -> str:
        outcome = "passed" if self.passed else "FAILED"
        return (
            f"{outcome}: {self.name}: {self.running:.4g} -> {self.new:.4g}, "
            f"at worst {self.worst:+.1%}"
        )


def check_of(
    name: str,
    new: np.ndarray,
    running: np.ndarray,
    *,
    sizes: np.ndarray,
    units: np.ndarray,
    unit_name: str,
    tolerance: float,
    settings: PromotionSettings,
    seed: int,
    more_is_better: bool = True,
    points: bool = False,
) -> Check:
    """Compare two measures case by case; see `paired_difference`.

    Args:
        new, running: float [C], what each case adds to the measure.
        sizes: float [C], what each case adds to the divisor.
        units: [C], the unit of each case.
        unit_name: of several units, for people.
        more_is_better: False where a smaller value is better.
        points: whether the change is in points, not a share of the running bundle's value.
    """
    difference = paired_difference(
        new, running, sizes, units, settings.resamples, settings.confidence, seed
    )
    loss = difference.low if more_is_better else -difference.high
    worst = _relative(loss, 1.0 if points else difference.second)
    return Check(
        name,
        running=difference.second,
        new=difference.first,
        worst=float(worst),
        tolerance=tolerance,
        units=f"{difference.units} {unit_name}",
    )


def _relative(change: float, scale: float) -> float:
    """Return a change as a share of a value; of nothing, any loss is infinite."""
    if scale:
        return change / scale
    return 0.0 if change >= 0 else -np.inf
