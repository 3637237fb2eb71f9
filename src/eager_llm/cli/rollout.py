"""The command line of what follows a night: eager-llm rollout canary, promote, rollback."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from eager_llm.core.errors import UserError

if TYPE_CHECKING:
    from eager_llm.release.helm import Step

rollout_app = typer.Typer(
    help="Roll a bundle version out on a Helm release, and back: canary, then promote or rollback.\n\n"
    "eager-llm night starts the canary by itself where rollout.release is set. Each command says which helm command "
    "it stands for; --dry-run renders the objects instead, without a cluster. --run keeps the run's folder in step: its "
    "candidate becomes the running bundle, or goes.",
    no_args_is_help=True,
)

ReleaseOption = Annotated[
    str, typer.Option(help="Helm release; none: only the run's folder changes")
]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="the release's namespace")]
ChartOption = Annotated[str, typer.Option(help="folder, archive or oci:// address of the chart")]
TimeoutOption = Annotated[int, typer.Option(min=1, help="seconds that Helm waits for the pods")]
DryOption = Annotated[
    bool,
    typer.Option("--dry-run", help="print the command and the rendered objects; change nothing"),
]
ValuesOption = Annotated[
    Path | None,
    typer.Option(
        "--values",
        "-f",
        help="YAML of the release's values, for --dry-run: there is no cluster to ask",
    ),
]
RunOption = Annotated[Path | None, typer.Option(help="folder of the run whose candidate it is")]

# The release's values as they are, and what finds the version before one -> what to do.
Plan = Callable[[dict[str, Any], Callable[[str], str]], list["Step"]]
CHART = "charts/eager-llm-serving"


@rollout_app.command()
def canary(
    version: Annotated[
        str, typer.Argument(help="the bundle's version, as it is stored for the release")
    ],
    release: ReleaseOption,
    weight: Annotated[int, typer.Option(min=0, max=100, help="percent of the requests")] = 10,
    namespace: NamespaceOption = "default",
    chart: ChartOption = CHART,
    timeout: TimeoutOption = 1200,
    values: ValuesOption = None,
    dry_run: DryOption = False,
) -> None:
    """Give a bundle version a share of the requests; the stable pods stay as they are.

    With a Gateway route the pods come first, at weight 0, then the share.

    Example: eager-llm rollout canary 2026-02-07-0123456789ab --release shop -n recommender --weight 10
    """
    from eager_llm.release.helm import canary_steps

    _roll(
        release,
        namespace,
        chart,
        timeout,
        values,
        dry_run,
        lambda now, _: canary_steps(now, version, weight),
    )


@rollout_app.command()
def promote(
    release: ReleaseOption = "",
    namespace: NamespaceOption = "default",
    run: RunOption = None,
    chart: ChartOption = CHART,
    timeout: TimeoutOption = 1200,
    values: ValuesOption = None,
    dry_run: DryOption = False,
) -> None:
    """Let all pods serve the canary's version, and end the canary.

    Example: eager-llm rollout promote --release shop -n recommender --run runs/shop
    """
    from eager_llm.release.helm import promote_steps
    from eager_llm.release.run_folder import RunFolder

    _require_either(release, run)
    if release:
        _roll(
            release, namespace, chart, timeout, values, dry_run, lambda now, _: promote_steps(now)
        )
    if run and not dry_run:
        RunFolder(run).promote()
        typer.echo(f"{run}: the candidate is running")


@rollout_app.command()
def rollback(
    release: ReleaseOption = "",
    namespace: NamespaceOption = "default",
    run: RunOption = None,
    chart: ChartOption = CHART,
    timeout: TimeoutOption = 1200,
    values: ValuesOption = None,
    dry_run: DryOption = False,
) -> None:
    """End the canary; where there is none, serve the bundle version that was stable before.

    Example: eager-llm rollout rollback --release shop -n recommender --run runs/shop
    """
    from eager_llm.release.helm import rollback_steps
    from eager_llm.release.run_folder import RunFolder

    _require_either(release, run)
    if release:
        _roll(release, namespace, chart, timeout, values, dry_run, rollback_steps)
    if run and not dry_run:
        what = RunFolder(run).roll_back()
        typer.echo(
            f"{run}: the candidate is gone"
            if what == "candidate"
            else f"{run}: the bundle before is running"
        )


def _require_either(release: str, run: Path | None) -> None:
    if not release and run is None:
        raise UserError("name what to change: --release, --run, or both")


def _roll(
    release: str,
    namespace: str,
    chart: str,
    timeout: int,
    file: Path | None,
    dry_run: bool,
    plan: Plan,
) -> None:
    """Take the steps that a plan makes of the release's values, or render what they would leave."""
    from eager_llm.release.helm import Helm, render
    from eager_llm.settings import RolloutSettings

    settings = RolloutSettings().replace(
        release=release, namespace=namespace, chart=chart, timeout=timeout
    )
    if dry_run:
        if file is None:
            raise UserError(
                "--dry-run asks no cluster: give the release's values with --values FILE"
            )
        now = _read_values(file)
        steps = plan(now, _unknown)
        for step in steps:
            typer.echo(f"# {step.command_line(settings)}")
        for name, text in sorted(render(settings, now, steps).items()):
            if text.strip() and not name.endswith("NOTES.txt"):
                typer.echo(f"---\n# {name}\n{text.strip().removeprefix('---').strip()}")
        return
    if file is not None:
        raise UserError(
            "--values goes with --dry-run: else the release's own values are read from the cluster"
        )
    helm = Helm(settings)
    steps = plan(helm.values(), helm.previous_version)
    for step in steps:
        typer.echo(step.command_line(settings))
    helm.apply(steps)


def _unknown(version: str) -> str:
    raise UserError(
        f"which version was served before {version} is known to the cluster only: there is nothing to render"
    )


def _read_values(file: Path) -> dict:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not readable as YAML: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected a map of values")
    return found
