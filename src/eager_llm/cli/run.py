"""The command line of a whole run: eager-llm run."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from eager_llm.cli.options import EarlierWaiveOption, SetOption, WaiveOption, waived_overrides
from eager_llm.cli.project_process import run_module


class Runner(StrEnum):
    """What a step runs in."""

    PROCESS = "process"
    DOCKER = "docker"


def run_command(
    data: Annotated[
        str,
        typer.Option(help="folder that holds the log or its URI, or `demo`, the made-up shop"),
    ] = "demo",
    name: Annotated[
        str | None,
        typer.Option(help="name of the run; default: the source's name"),
    ] = None,
    runs: Annotated[Path, typer.Option(help="folder of all runs")] = Path("runs"),
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="YAML file of settings; default: pipelines/settings"),
    ] = None,
    overrides: SetOption = None,
    waived: WaiveOption = "",
    earlier_waived: EarlierWaiveOption = "",
    runner: Annotated[
        Runner,
        typer.Option(help="process, or docker: each step in a container of its own image"),
    ] = Runner.PROCESS,
) -> None:
    """Run the whole pipeline here: ingest, validate, publish features, index, tune, evaluate, pack.

    Steps whose inputs have not changed are re-used; tuning goes on from its last checkpoint. The
    run's folder ends with summary.json, report.html and the bundle. All settings: eager-llm
    settings

    Example: eager-llm run --data ../my-shop --set tuning.epochs=20 --set seed=1
    """
    options = {
        "source": data,
        "name": name,
        "runs": str(runs.resolve()),
        "settings_file": None if settings is None else str(settings.resolve()),
        "overrides": [*(overrides or []), *waived_overrides(waived, earlier_waived)],
        "in_images": runner == Runner.DOCKER,
    }
    raise typer.Exit(run_module("pipelines.runners.local", options))
