"""The step `promote`: the new bundle beside the running one, and what follows."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from eager_llm.bundle.bundle import Bundle
from eager_llm.bundle.store import store_bundle, version_name
from eager_llm.core.compute import prepare_torch
from eager_llm.core.files import whole_file, write_json
from eager_llm.core.progress import say
from eager_llm.data.tables import read_metadata
from eager_llm.release.compare import Comparison, compare
from eager_llm.release.helm import Helm, Step, canary_steps
from eager_llm.release.run_folder import RunFolder
from eager_llm.release.verdict import (
    FIRST,
    PROMOTED,
    REFUSED,
    PromotionPage,
    Verdict,
    judge,
    render_promotion,
)
from eager_llm.settings import RolloutSettings, Settings
from eager_llm.steps.examples import read_examples
from eager_llm.steps.refresh_plan import Plan
from eager_llm.steps.timing import timed


@timed
def promote(
    bundle: Path,
    tables: Path,
    examples: Path,
    plan: Path,
    run: Path,
    settings: Settings,
    verdict: Path,
    report: Path,
) -> dict[str, float]:
    """Compare the new bundle with the running one, and roll a better one out.

    Either way the log is accepted: the next refresh adds to it. Where `rollout.release` names a
    Helm release, the bundle is stored under its version and starts as a canary; it is a candidate
    until `eager-llm rollout promote`. Otherwise it replaces the running bundle in the run's folder.

    Args:
        bundle: the new one.
        tables: folder of the validated tables.
        examples: of `publish`; the test split is read.
        plan: JSON of `update_index`.
        run: folder of the run, with the running bundle.
        verdict: JSON to write.
        report: page to write.

    Returns:
        Each check's values, and `promoted`: 1 or 0.
    """
    run_folder = RunFolder(run)
    comparison = _compare(run_folder.running, bundle, examples, settings)
    running_version = version_name(run_folder.running) if run_folder.running else ""
    decision = judge(comparison, running_version, version_name(bundle))
    rollout = _Rollout.of(decision, settings.rollout)
    write_json(verdict, _verdict_values(decision, comparison))
    page = PromotionPage(
        verdict=decision,
        metadata=read_metadata(tables),
        plan=asdict(Plan.load(plan)),
        confidence=settings.promotion.confidence,
        commands=rollout.commands(decision, run),
        **_measures(comparison),
    )
    with whole_file(report) as draft:
        draft.write_text(render_promotion(page), encoding="utf-8")
    if decision.outcome != REFUSED:
        rollout.start(bundle, run_folder)
    run_folder.accept(tables)
    say(f"bundle {decision.new}: {decision.outcome}")
    for reason in decision.reasons:
        say(f"  {reason}")
    figures = _check_figures(comparison)
    return {**figures, "promoted": float(decision.outcome != REFUSED)}


def _compare(
    running: Path | None, new: Path, examples: Path, settings: Settings
) -> Comparison | None:
    """Compare the two bundles; None where no bundle is running."""
    device = prepare_torch(settings.threads)
    if running is None:
        return None
    running_bundle = Bundle.load(running, device)
    new_bundle = Bundle.load(new, device)
    table = read_examples(examples)
    return compare(running_bundle, new_bundle, table, settings.promotion, settings.seed)


def _measures(comparison: Comparison | None) -> dict[str, Any]:
    """Return `checks`, `table` and `new_items` of a comparison, empty where there is none."""
    if comparison is None:
        return {"checks": [], "table": {}, "new_items": {}}
    return {
        "checks": comparison.checks,
        "table": comparison.table,
        "new_items": comparison.new_items,
    }


def _verdict_values(decision: Verdict, comparison: Comparison | None) -> dict[str, Any]:
    """Return the values of the verdict's file."""
    measures = _measures(comparison)
    rows = [{**asdict(check), "passed": check.passed} for check in measures["checks"]]
    return {**decision.to_dict(), **measures, "checks": rows}


def _check_figures(comparison: Comparison | None) -> dict[str, float]:
    """Return each check's value of both bundles."""
    figures: dict[str, float] = {}
    for check in _measures(comparison)["checks"]:
        figures[f"running {check.name}"] = check.running
        figures[f"new {check.name}"] = check.new
    return figures


@dataclass(frozen=True)
class _Rollout:
    """How a bundle that is not refused gets to run.

    Attributes:
        helm: the release, or None where there is none or nothing to compare with.
        steps: that start the canary.
    """

    settings: RolloutSettings
    helm: Helm | None
    steps: list[Step]

    @classmethod
    def of(cls, decision: Verdict, settings: RolloutSettings) -> Self:
        """Plan the canary of a promoted bundle on its release."""
        if decision.outcome != PROMOTED or not settings.release:
            return cls(settings, None, [])
        helm = Helm(settings)
        return cls(settings, helm, canary_steps(helm.values(), decision.new, settings.weight))

    def start(self, bundle: Path, run_folder: RunFolder) -> None:
        """Store the bundle, and start its canary or let it run at once."""
        if self.settings.store:
            store_bundle(bundle, self.settings.store)
        if self.helm is not None:
            self.helm.apply(self.steps)
        run_folder.add_candidate(bundle)
        if self.helm is None:
            run_folder.promote()

    def commands(self, decision: Verdict, run: Path) -> list[str]:
        """Return what is done on the cluster, and what a person can do next."""
        if self.steps:
            release, namespace = self.settings.release, self.settings.namespace
            options = f"--run {run.name} --release {release} --namespace {namespace}"
            return [
                "# the canary:",
                *(step.command_line(self.settings) for step in self.steps),
                "# then one of:",
                f"eager-llm rollout promote {options}",
                f"eager-llm rollout rollback {options}",
            ]
        if decision.outcome in (FIRST, PROMOTED) and decision.running:
            return ["# to take it back:", f"eager-llm rollout rollback --run {run.name}"]
        return []
