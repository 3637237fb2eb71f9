"""The decision on a new bundle, and the page that says why."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eager_llm.core.html_page import render_page
from eager_llm.evaluation.metrics import CUTOFFS
from eager_llm.release.compare import Check, Comparison

FIRST, PROMOTED, REFUSED = "first", "promoted", "refused"


@dataclass(frozen=True)
class Verdict:
    """What was decided.

    Attributes:
        outcome: `first` where nothing was running, `promoted` or `refused`.
        reasons: why it was refused; empty where it was not.
        running, new: versions of the bundles; the first is empty where nothing was running.
    """

    outcome: str
    reasons: list[str]
    running: str
    new: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return dict(vars(self))


def judge(comparison: Comparison | None, running: str, new: str) -> Verdict:
    """Decide: a bundle is promoted where no check has failed, or where nothing is running."""
    if comparison is None:
        return Verdict(FIRST, [], "", new)
    reasons = [check.reason for check in comparison.checks if not check.passed]
    return Verdict(REFUSED if reasons else PROMOTED, reasons, running, new)


@dataclass(frozen=True)
class PromotionPage:
    """What the report shows.

    Attributes:
        metadata: of the night's data.
        plan: what the night did and the drift it saw; see `steps.night.Plan`.
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
    columns = [f"{kind}@{k}" for kind in ("recall", "ndcg") for k in CUTOFFS]
    return render_page(Path(__file__).with_name("verdict.html"), page=page, columns=columns)
