"""The command line of an incremental refresh: eager-llm refresh."""

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from eager_llm.cli.options import EarlierWaiveOption, SetOption, WaiveOption, waived_overrides
from eager_llm.cli.project_process import run_module


def refresh_command(
    data: Annotated[
        Path,
        typer.Option(help="folder that holds the new events, and new items where there are any"),
    ],
    run: Annotated[
        Path,
        typer.Option(help="folder of the run that is brought up to date"),
    ] = Path("runs/demo"),
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="YAML file of settings; default: those of the running bundle",
        ),
    ] = None,
    overrides: SetOption = None,
    waived: WaiveOption = "",
    earlier_waived: EarlierWaiveOption = "",
) -> None:
    """Bring a run up to date with new events and items: a new bundle runs, if it is no worse.

    The new rows are validated and join the log; new items get indices without moving the old ones;
    the adapter is annealed on the new events (or everything is built anew, where the measured drift
    says so); then both bundles are compared on the latest events, which neither has been trained
    on. A worse one is refused: the running bundle stays. In a run without a bundle the refresh
    builds one. Reports: RUN/refreshes/NUMBER.

    Status: 0 promoted, 1 a step failed, 2 a mistake of yours, 3 refused.

    Example: eager-llm refresh --run runs/demo --data arrivals/2026-02-07 --set refresh.epochs=3
    """
    options = {
        "arrivals": str(data),
        "run": str(run.resolve()),
        "settings_file": None if settings is None else str(settings.resolve()),
        "overrides": [*(overrides or []), *waived_overrides(waived, earlier_waived)],
    }
    raise typer.Exit(run_module("pipelines.runners.local_refresh", options))


@functools.wraps(refresh_command)
def night_command(*arguments: Any, **options: Any) -> None:
    """Do what `refresh` does, under its name in earlier versions."""
    typer.echo("note: `eager-llm night` is now called `eager-llm refresh`", err=True)
    refresh_command(*arguments, **options)
