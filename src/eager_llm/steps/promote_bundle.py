"""The last step of a night: the new bundle beside the running one, and what follows."""

from dataclasses import asdict
from pathlib import Path

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
from eager_llm.steps.data import read_examples
from eager_llm.steps.refresh import Plan
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
    """Compare the new bundle with the running one, roll a better one out, and say why where it is refused.

    Either way the log is accepted: the next night adds to it. Where `rollout.release` names a Helm release, the
    bundle is stored under its version and starts as a canary; it is a candidate until `eager-llm rollout promote`.
    Else it takes the running bundle's place in the run's folder.

    Returns:
        Each check's values, and `promoted`: 1 or 0.
    """
    device = prepare_torch(settings.threads)
    place = RunFolder(run)
    compared: Comparison | None = None
    if place.running is not None:
        running, new = (Bundle.load(folder, device) for folder in (place.running, bundle))
        compared = compare(running, new, read_examples(examples), settings.promotion, settings.seed)
    decided = judge(
        compared, version_name(place.running) if place.running else "", version_name(bundle)
    )
    helm, steps = _plan(decided, settings.rollout)
    write_json(verdict, {**decided.to_dict(), "checks": _rows(compared), **_tables(compared)})
    page = PromotionPage(
        verdict=decided,
        metadata=read_metadata(tables),
        plan=asdict(Plan.load(plan)),
        checks=compared.checks if compared else [],
        table=compared.table if compared else {},
        new_items=compared.new_items if compared else {},
        confidence=settings.promotion.confidence,
        commands=_commands(decided, steps, run, settings.rollout),
    )
    with whole_file(report) as draft:
        draft.write_text(render_promotion(page), encoding="utf-8")
    _follow(decided, bundle, place, settings.rollout, helm, steps)
    place.accept(tables)
    say(f"bundle {decided.new}: {decided.outcome}")
    for reason in decided.reasons:
        say(f"  {reason}")
    figures = {
        f"{kind} {c.name}": value
        for c in (compared.checks if compared else [])
        for kind, value in (("running", c.running), ("new", c.new))
    }
    return {**figures, "promoted": float(decided.outcome != REFUSED)}


def _plan(decided: Verdict, rollout: RolloutSettings) -> tuple[Helm | None, list[Step]]:
    """Return what is to be done on the cluster, where there is a release and something to compare with."""
    if decided.outcome != PROMOTED or not rollout.release:
        return None, []
    helm = Helm(rollout)
    return helm, canary_steps(helm.values(), decided.new, rollout.weight)


def _follow(
    decided: Verdict,
    bundle: Path,
    place: RunFolder,
    rollout: RolloutSettings,
    helm: Helm | None,
    steps: list[Step],
) -> None:
    """Do what the verdict says."""
    if decided.outcome == REFUSED:
        return
    if rollout.store:
        store_bundle(bundle, rollout.store)
    if helm is not None:
        helm.apply(steps)
    place.add_candidate(bundle)
    if helm is None:
        place.promote()


def _commands(
    decided: Verdict, steps: list[Step], run: Path, rollout: RolloutSettings
) -> list[str]:
    """Return what was done on the cluster, and what a person can do next."""
    if decided.outcome == FIRST or (decided.outcome == PROMOTED and not steps):
        return (
            ["# to take it back:", f"eager-llm rollout rollback --run {run.name}"]
            if decided.running
            else []
        )
    follow = f"--run {run.name} --release {rollout.release} --namespace {rollout.namespace}"
    done = ["# the canary:", *(step.command_line(rollout) for step in steps)]
    then = [
        "# then one of:",
        f"eager-llm rollout promote {follow}",
        f"eager-llm rollout rollback {follow}",
    ]
    return [*done, *then] if steps else []


def _rows(compared: Comparison | None) -> list[dict[str, object]]:
    return (
        [{**asdict(check), "passed": check.passed} for check in compared.checks] if compared else []
    )


def _tables(compared: Comparison | None) -> dict[str, object]:
    return (
        {"table": compared.table, "new_items": compared.new_items}
        if compared
        else {"table": {}, "new_items": {}}
    )
