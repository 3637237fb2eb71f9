"""Run one night on this machine with kfp.local: the graph that a cluster runs, a process a step."""

import argparse
import os
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from eager_llm.core.errors import UserError
from eager_llm.core.files import copy_into, read_json, whole_file, whole_folder, write_json
from eager_llm.core.project import project_home
from eager_llm.evaluation.evaluate import table_text
from eager_llm.release.run_folder import RunFolder
from eager_llm.release.verdict import REFUSED
from eager_llm.settings import Settings
from eager_llm.steps.timing import read_times
from pipelines.runners.local import ROOT, Readable, environment, with_whole_paths
from pipelines.runners.summary import TIMES_FILE

REFUSED_STATUS = 3
FAILED_STATUS = 1


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.runners.local_refresh", description=__doc__
    )
    parser.add_argument(
        "--run", type=Path, required=True, help="folder that stands from night to night"
    )
    parser.add_argument("--data", required=True, help="folder that holds what arrived")
    parser.add_argument(
        "--settings", type=Path, help="YAML file of settings; default: those of the running bundle"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help="override a setting",
    )
    asked = parser.parse_args(arguments)
    try:
        if not Path(asked.data).is_dir():
            raise UserError(
                f"{asked.data}: no such folder; name the folder that holds what arrived"
            )
        place = RunFolder(asked.run.resolve())
        return night(
            Path(asked.data).resolve(), place, refresh_settings(place, asked.settings, asked.set)
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def refresh_settings(place: RunFolder, file: Path | None, overrides: list[str]) -> Settings:
    """Return the settings of a night: a file's, or the running bundle's, cut in time through what arrived."""
    from pipelines.graphs.refresh import cut_for_a_refresh

    base: Any = file or ROOT / "pipelines" / "settings" / "small.yaml"
    if file is None and place.running:
        base = read_json(place.running / "manifest.json")["settings"]
    settings = (
        Settings.read(base, overrides)
        if isinstance(base, Path)
        else Settings.read(None, overrides, base)
    )
    return cut_for_a_refresh(with_whole_paths(settings))


def night(arrivals: Path, place: RunFolder, settings: Settings) -> int:
    """Run one night, and leave its pages and its summary in a folder of its own under `nights`.

    Returns:
        0 where the new bundle was promoted, `REFUSED_STATUS` where it was refused, `FAILED_STATUS` where a step
        failed; the step has said why, and what was running still is.
    """
    from kfp import local

    from pipelines.graphs.placement import Target, compiled_for
    from pipelines.graphs.refresh import refresh

    folder = place.next_refresh()
    folder.mkdir(parents=True)
    with environment(folder), redirect_stdout(Readable(sys.stdout)):
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "artifacts"))
        try:
            task = compiled_for(refresh, Target("laptop"))(
                arrivals=str(arrivals),
                run=str(place.folder),
                feature_repo=str(project_home() / "feature_repo"),
                feature_store=str(place.folder / "features"),
                checkpoints=str(place.folder / "checkpoints"),
                settings=settings.to_dict(),
            )
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED_STATUS
    return _finish(
        folder, {name: Path(artifact.uri) for name, artifact in task.outputs.items()}, place
    )


def _finish(folder: Path, outputs: dict[str, Path], place: RunFolder) -> int:
    """Bring the night's outputs to their fixed places, drop the rest, and print what came of it."""
    for name, file in (
        ("evaluation", "evaluation.html"),
        ("gates", "gates.html"),
        ("report", "report.html"),
    ):
        with whole_file(folder / file) as draft:
            shutil.copyfile(outputs[name], draft)
    with whole_folder(folder / "bundle") as draft_folder:
        copy_into(outputs["bundle"], draft_folder)
    verdict, plan = read_json(outputs["verdict"]), read_json(outputs["plan"])
    shutil.rmtree(folder / "artifacts")
    write_json(
        folder / "summary.json",
        {**verdict, "plan": plan, "step_seconds": read_times(folder / TIMES_FILE)},
    )
    if verdict["table"]:
        print("\n" + table_text(verdict["table"]))
    drift = ", ".join(
        f"{name} {row['found']:.3f} (at most {row['most']:g})"
        for name, row in plan["drift"].items()
    )
    print(f"\n{plan['action']}{': ' + drift if drift else ''}")
    for check in verdict["checks"]:
        outcome = "passed" if check["passed"] else "FAILED"
        worst = (
            f"at worst {100 * check['worst']:+.1f} %, {100 * check['tolerance']:g} % may be lost"
        )
        print(
            f"  {outcome}  {check['name']:<38} {check['running']:>8.4f} -> {check['new']:>8.4f}  {worst}"
        )
    print(f"\nbundle {verdict['new']}: {verdict['outcome']}")
    for reason in verdict["reasons"]:
        print(f"  {reason}")
    print(f"report   {os.path.relpath(folder / 'report.html')}")
    print(
        f"bundle   {os.path.relpath(folder / 'bundle')}; running: {os.path.relpath(place.bundle)}"
    )
    return REFUSED_STATUS if verdict["outcome"] == REFUSED else 0


if __name__ == "__main__":
    sys.exit(main())
