"""The command line of a rollout: eager-llm rollout canary, promote, rollback."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from eager_llm.core.errors import UserError

if TYPE_CHECKING:
    from eager_llm.release.helm import Step
    from eager_llm.settings import RolloutSettings

rollout_app = typer.Typer(
    help="Roll a bundle version out on a Helm release, and back: canary, then promote or rollback."
    "\n\n"
    "eager-llm refresh starts the canary by itself where rollout.release is set. Each command "
    "prints the helm command that it stands for; --dry-run renders the objects instead, without a "
    "cluster. --run keeps the run's folder in step: its candidate becomes the running bundle, or "
    "goes.",
    no_args_is_help=True,
)

ReleaseOption = Annotated[
    str,
    typer.Option(help="Helm release; none: only the run's folder changes"),
]
NamespaceOption = Annotated[
    str,
    typer.Option("--namespace", "-n", help="the release's namespace"),
]
ChartOption = Annotated[
    str,
    typer.Option(help="folder, archive or oci:// address of the chart"),
]
TimeoutOption = Annotated[
    int,
    typer.Option(min=1, help="seconds that Helm waits for the pods"),
]
DryOption = Annotated[
    bool,
    typer.Option("--dry-run", help="print the command and the rendered objects; change nothing"),
]
ValuesOption = Annotated[
    Path | None,
    typer.Option(
        "--values",
        "-f",
        help="YAML of the release's values, for --dry-run: there is no cluster to read them from",
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option(help="folder of the run whose candidate it is"),
]

Values = dict[str, Any]
# The version that was served before another one.
PreviousVersion = Callable[[str], str]
# The release's values as they are -> the steps that change them.
Plan = Callable[[Values, PreviousVersion], list["Step"]]
CHART = "charts/eager-llm-serving"


@rollout_app.command()
def canary(
    version: Annotated[
        str,
        typer.Argument(help="the bundle's version, as it is stored for the release"),
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

    Example: eager-llm rollout canary 2026-02-07-0123456789ab --release shop -n recommender
    --weight 10
    """
    from eager_llm.release.helm import canary_steps

    def plan(current: Values, _: PreviousVersion) -> list["Step"]:
        """Return the steps that start the canary."""
        return canary_steps(current, version, weight)

    _Release.named(release, namespace, chart, timeout).change(plan, values, dry_run)


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

    def plan(current: Values, _: PreviousVersion) -> list["Step"]:
        """Return the steps that let all pods serve its version."""
        return promote_steps(current)

    _require_either(release, run)
    if release:
        _Release.named(release, namespace, chart, timeout).change(plan, values, dry_run)
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
        _Release.named(release, namespace, chart, timeout).change(rollback_steps, values, dry_run)
    if run and not dry_run:
        gone = RunFolder(run).roll_back()
        outcome = "the bundle before is running"
        if gone == "candidate":
            outcome = "the candidate is gone"
        typer.echo(f"{run}: {outcome}")


def _require_either(release: str, run: Path | None) -> None:
    if not release and run is None:
        raise UserError("name what to change: --release, --run, or both")


@dataclass(frozen=True)
class _Release:
    """A Helm release that a command changes."""

    settings: "RolloutSettings"

    @classmethod
    def named(cls, name: str, namespace: str, chart: str, timeout: int) -> "_Release":
        """Return the release of some options."""
        from eager_llm.settings import RolloutSettings

        return cls(
            RolloutSettings().replace(
                release=name,
                namespace=namespace,
                chart=chart,
                timeout=timeout,
            )
        )

    def change(self, plan: Plan, values_file: Path | None, dry_run: bool) -> None:
        """Take a plan's steps on the cluster, or render what they would leave.

        Args:
            values_file: YAML of the release's values; goes with `dry_run`.

        Raises:
            UserError: the options do not go together, or Helm refuses.
        """
        if not dry_run:
            if values_file is not None:
                raise UserError(
                    "--values goes with --dry-run: else the release's own values are read from "
                    "the cluster"
                )
            self._apply(plan)
            return
        if values_file is None:
            raise UserError(
                "--dry-run asks no cluster: give the release's values with --values FILE"
            )
        self._render(plan, _read_values(values_file))

    def _apply(self, plan: Plan) -> None:
        """Print and take the steps."""
        from eager_llm.release.helm import Helm

        helm = Helm(self.settings)
        steps = plan(helm.values(), helm.previous_version)
        for step in steps:
            typer.echo(step.command_line(self.settings))
        helm.apply(steps)

    def _render(self, plan: Plan, values: Values) -> None:
        """Print the steps and the objects after them."""
        from eager_llm.release.helm import render

        steps = plan(values, _unknown_version)
        for step in steps:
            typer.echo(f"# {step.command_line(self.settings)}")
        templates = render(self.settings, values, steps)
        for name, text in sorted(templates.items()):
            objects = text.strip()
            if objects and not name.endswith("NOTES.txt"):
                typer.echo(f"---\n# {name}\n{objects.removeprefix('---').strip()}")


def _unknown_version(version: str) -> str:
    raise UserError(
        f"which version was served before {version} is known to the cluster only: there is "
        "nothing to render"
    )


def _read_values(file: Path) -> Values:
    """Read the values of a release.

    Raises:
        UserError: the file is not YAML, or holds no map.
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected a map of values")
    return values
