"""Run one incremental refresh on this machine with kfp.local: a process a step."""

import json
import os
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from eager_llm.bundle.layout import read_manifest
from eager_llm.core.errors import UserError
from eager_llm.core.files import copy_into, read_json, whole_file, whole_folder, write_json
from eager_llm.core.project import project_home
from eager_llm.evaluation.evaluate import table_text
from eager_llm.release.run_folder import RunFolder
from eager_llm.release.verdict import REFUSED
from eager_llm.settings import Settings
from eager_llm.steps.timing import read_times
from pipelines.graphs.refresh import with_refresh_split
from pipelines.runners.local import SETTINGS, step_environment, with_absolute_paths
from pipelines.runners.output import StepOutput
from pipelines.runners.processes import process_runner
from pipelines.runners.summary import ARTIFACTS, TIMES_FILE

REFUSED_STATUS = 3
FAILED_STATUS = 1
# Each page of the pipeline's outputs, and its file in the folder of the refresh.
PAGES = {"evaluation": "evaluation.html", "gates": "gates.html", "report": "report.html"}


def main(arguments: list[str]) -> int:
    """Run with the options that `eager-llm refresh` has parsed.

    Args:
        arguments: the keyword arguments of `refresh_run`, as one JSON object.

    Returns:
        As `run_refresh`, or 2 where the input is wrong.
    """
    options = json.loads(arguments[0])
    try:
        return refresh_run(**options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def refresh_run(arrivals: str, run: str, settings_file: str | None, overrides: list[str]) -> int:
    """Bring a run up to date; see `run_refresh`.

    Args:
        arrivals: folder of the new events and items.
        run: folder of the run.
        settings_file: YAML; None: the settings of the running bundle.
        overrides: of settings, as section.name=value.

    Raises:
        UserError: the input is wrong.
    """
    folder = Path(arrivals)
    if not folder.is_dir():
        raise UserError(f"{arrivals}: no such folder; name the folder that holds what arrived")
    run_folder = RunFolder(Path(run).resolve())
    file = Path(settings_file) if settings_file else None
    settings = refresh_settings(run_folder, file, overrides)
    return run_refresh(folder.resolve(), run_folder, settings)


def refresh_settings(run_folder: RunFolder, file: Path | None, overrides: list[str]) -> Settings:
    """Return the settings of a refresh: a file's, or those of the running bundle.

    Raises:
        UserError: the file is missing, or a setting is wrong.
    """
    if file is None and run_folder.running:
        manifest = read_manifest(run_folder.running)
        settings = Settings.read(None, overrides, manifest["settings"])
    else:
        settings = Settings.read(file or SETTINGS / "small.yaml", overrides)
    return with_refresh_split(with_absolute_paths(settings))


def run_refresh(arrivals: Path, run_folder: RunFolder, settings: Settings) -> int:
    """Run one refresh, and leave its pages and its summary in a folder of its own.

    Args:
        arrivals: folder of the new events and items.
        run_folder: the accepted log and the running bundle.
        settings: all sections.

    Returns:
        0 where the new bundle was promoted, `REFUSED_STATUS` where it was refused, `FAILED_STATUS`
        where a step failed. The step has said why, and what was running still is.
    """
    from kfp import local

    from pipelines.graphs.placement import Target, compiled_for
    from pipelines.graphs.refresh import refresh

    folder = run_folder.next_refresh()
    folder.mkdir(parents=True)
    with step_environment(folder), redirect_stdout(StepOutput(sys.stdout)):
        local.init(process_runner(), pipeline_root=str(folder / ARTIFACTS))
        try:
            task = compiled_for(refresh, Target("laptop"))(
                arrivals=str(arrivals),
                run=str(run_folder.folder),
                feature_repo=str(project_home() / "feature_repo"),
                feature_store=str(run_folder.folder / "features"),
                checkpoints=str(run_folder.folder / "checkpoints"),
                settings=settings.to_dict(),
            )
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED_STATUS
    outputs = {name: Path(artifact.uri) for name, artifact in task.outputs.items()}
    verdict = _keep_outputs(folder, outputs)
    _print_summary(folder, verdict, run_folder)
    return REFUSED_STATUS if verdict["outcome"] == REFUSED else 0


def _keep_outputs(folder: Path, outputs: dict[str, Path]) -> dict[str, Any]:
    """Copy what people read to the folder of the refresh, and delete the artifacts of the steps.

    Returns:
        The verdict, with the plan of the refresh and the seconds of its steps: summary.json.
    """
    for output, page in PAGES.items():
        with whole_file(folder / page) as draft:
            shutil.copyfile(outputs[output], draft)
    with whole_folder(folder / "bundle") as draft_folder:
        copy_into(outputs["bundle"], draft_folder)
    verdict = read_json(outputs["verdict"])
    plan = read_json(outputs["plan"])
    shutil.rmtree(folder / ARTIFACTS)
    step_seconds = read_times(folder / TIMES_FILE)
    summary = {**verdict, "plan": plan, "step_seconds": step_seconds}
    write_json(folder / "summary.json", summary)
    return summary


def _print_summary(folder: Path, verdict: dict[str, Any], run_folder: RunFolder) -> None:
    if verdict["table"]:
        print("\n" + table_text(verdict["table"]))
    print(f"\n{_plan_text(verdict['plan'])}")
    for check in verdict["checks"]:
        print(f"  {_check_text(check)}")
    print(f"\nbundle {verdict['new']}: {verdict['outcome']}")
    for reason in verdict["reasons"]:
        print(f"  {reason}")
    bundle = os.path.relpath(folder / "bundle")
    print(f"report   {os.path.relpath(folder / 'report.html')}")
    print(f"bundle   {bundle}; running: {os.path.relpath(run_folder.bundle)}")


def _plan_text(plan: dict[str, Any]) -> str:
    """Return what the refresh did, and each measure of drift with its limit."""
    drift = [
        f"{name} {row['found']:.3f} (at most {row['most']:g})"
        for name, row in plan["drift"].items()
    ]
    if not drift:
        return str(plan["action"])
    return f"{plan['action']}: {', '.join(drift)}"


def _check_text(check: dict[str, Any]) -> str:
    """Return one check of the new bundle against the running one, as a line."""
    outcome = "passed" if check["passed"] else "FAILED"
    values = f"{check['running']:>8.4f} -> {check['new']:>8.4f}"
    worst = f"at worst {100 * check['worst']:+.1f} %"
    tolerance = f"{100 * check['tolerance']:g} % may be lost"
    return f"{outcome}  {check['name']:<38} {values}  {worst}, {tolerance}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
