"""The verdict on a new bundle, and the page that explains it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eager_llm.core.html_page import render_page
from eager_llm.evaluation.metrics import METRICS
from eager_llm.release.checks import Check
from eager_llm.release.compare import Comparison

FIRST = "first"
PROMOTED = "promoted"
REFUSED = "refused"


@dataclass(frozen=True)
class Verdict:
    """What was decided.

    Attributes:
        outcome: `first` where no bundle was running, otherwise `promoted` or `refused`.
        reasons: why it was refused; empty where it was not.
        running, new: versions of the bundles; `running` is empty where no bundle was running.
    """

    outcome: str
    reasons: list[str]
    running: str
    new: str

    def to_dict(self) -> dict[str, Any]:
        """Return the values for a JSON file."""
        return dict(vars(self))


def judge(comparison: Comparison | None, running: str, new: str) -> Verdict:
    """Promote a bundle where no check has failed.

    Args:
        comparison: None where no bundle is running.
        running, new: versions of the bundles.
    """
    if comparison is None:
        return Verdict(FIRST, [], "", new)
    reasons = [check.reason for check in comparison.checks if not check.passed]
    outcome = REFUSED if reasons else PROMOTED
    return Verdict(outcome, reasons, running, new)


@dataclass(frozen=True)
class PromotionPage:
    """What the page shows.

    Attributes:
        metadata: of the log.
        plan: what the refresh did and the drift it measured; see `steps.refresh_plan.Plan`.
        checks, table, new_items: of the comparison; empty where no bundle was running.
        confidence: of the checks' intervals.
        commands: what rolls the bundle out, and what can follow.
    """

    verdict: Verdict
    metadata: dict[str, Any]
    plan: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    table: dict[str, dict[str, float]] = field(default_factory=dict)
    new_items: dict[str, float] = field(default_factory=dict)
    confidence: float = 0.95
    commands: list[str] = field(default_factory=list)


def render_promotion(page: PromotionPage) -> str:
    """Return the page as HTML, readable offline."""
    return render_page(Path(__file__).with_name("verdict.html"), page=page, metrics=METRICS)
