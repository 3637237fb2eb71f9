"""A bundle version onto a cluster and back: a Helm release's canary, its promotion, its end.

Helm's own library does it, in this process; the same as a command line is a list of words, for people to read.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eager_llm.core.errors import UserError
from eager_llm.settings import RolloutSettings

Values = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One change of a release.

    Attributes:
        values: what changes; all else stays as it is.
    """

    values: Values

    def command(self, settings: RolloutSettings) -> list[str]:
        """Return the words of the same command of Helm's."""
        sets = [
            word
            for name, value in _flat(self.values)
            for word in ("--set-json", f"{name}={json.dumps(value)}")
        ]
        ends = [
            "--namespace",
            settings.namespace,
            "--wait",
            "--timeout",
            f"{settings.timeout}s",
            "--rollback-on-failure",
        ]
        return ["helm", "upgrade", settings.release, settings.chart, "--reuse-values", *sets, *ends]

    def command_line(self, settings: RolloutSettings) -> str:
        """Return the command as a person types it."""
        return shlex.join(self.command(settings))


def canary_steps(values: Values, version: str, weight: int) -> list[Step]:
    """Return what starts a canary: with a route its pods first, so that no request meets one that is not ready.

    Args:
        values: all values of the release as it is.
    """
    start = {"enabled": True, "bundle": {"version": version}}
    if not _get(values, "httpRoute", "enabled"):
        return [Step({"canary": {**start, "weight": weight}})]
    return [Step({"canary": {**start, "weight": 0}}), Step({"canary": {"weight": weight}})]


def promote_steps(values: Values) -> list[Step]:
    """Return what lets all pods serve the canary's version, and ends the canary.

    Raises:
        UserError: there is no canary.
    """
    if not _get(values, "canary", "enabled"):
        raise UserError(
            "the release has no canary to promote; start one with: eager-llm rollout canary"
        )
    return [
        Step(
            {
                "canary": {"enabled": False},
                "bundle": {"version": _get(values, "canary", "bundle", "version")},
            }
        )
    ]


def rollback_steps(values: Values, earlier: Callable[[str], str]) -> list[Step]:
    """Return what ends the canary, or, where there is none, serves the version before again.

    Helm's own rollback goes to the revision before, which may well be one with a canary.

    Args:
        earlier: the version now -> the one that was stable before.
    """
    if _get(values, "canary", "enabled"):
        return [Step({"canary": {"enabled": False}})]
    return [Step({"bundle": {"version": earlier(str(_get(values, "bundle", "version")))}})]


class Helm:
    """The release of some settings, on the cluster that KUBECONFIG, ~/.kube/config or the pod's service account name.

    Raises:
        UserError: Helm's library is not installed.
    """

    def __init__(self, settings: RolloutSettings) -> None:
        self.settings = settings
        self._sdk = _sdk()

    def values(self) -> Values:
        """Return all values of the release as it is.

        Raises:
            UserError: there is no cluster, or no such release.
        """
        with self._errors(), self._sdk.Config(namespace=self.settings.namespace) as config:
            return dict(config.get_values(self.settings.release, all_values=True))

    def previous_version(self, now: str) -> str:
        """Return the bundle version that was stable before the one now.

        Raises:
            UserError: the release's history holds no other.
        """
        release = self.settings.release
        with self._errors(), self._sdk.Config(namespace=self.settings.namespace) as config:
            for revision in reversed(config.history(release)):
                if revision["status"] in ("deployed", "superseded"):
                    values = config.get_values(
                        release, all_values=True, revision=revision["revision"]
                    )
                    if (version := str(_get(values, "bundle", "version"))) != now:
                        return version
        raise UserError(f"release {release}: its history holds no other bundle version than {now}")

    def apply(self, steps: list[Step]) -> None:
        """Take the steps, each once the one before is ready; one that fails is taken back by Helm.

        Raises:
            UserError: the cluster or Helm refuses, or the pods do not get ready in time.
        """
        chart, settings = chart_path(self.settings.chart), self.settings
        with self._errors(), self._sdk.Config(namespace=settings.namespace) as config:
            for step in steps:
                config.upgrade(
                    chart, settings.release, step.values, reuse_values=True, rollback_on_failure=True,
                    wait="watcher", timeout=settings.timeout,
                )  # fmt: skip

    def _errors(self) -> "_Readable":
        return _Readable(self.settings, self._sdk)


class _Readable:
    """Helm's errors as the user's: the release named, no traceback."""

    def __init__(self, settings: RolloutSettings, sdk: Any) -> None:
        self._settings, self._sdk = settings, sdk

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, self._sdk.HelmError):
            where = f"release {self._settings.release} in namespace {self._settings.namespace}"
            raise UserError(f"{where}: {error}") from None


def render(settings: RolloutSettings, values: Values, steps: list[Step]) -> dict[str, str]:
    """Return each template's text as it is after the steps, without a cluster.

    Args:
        values: of the release as it is.

    Raises:
        UserError: Helm's library is not installed, the chart is not there, or refuses the values.
    """
    sdk = _sdk()
    for step in steps:
        values = merged(values, step.values)
    try:
        with sdk.Chart.load(chart_path(settings.chart)) as chart:
            chart.validate_schema(values)
            return dict(chart.render(values, name=settings.release, namespace=settings.namespace))
    except sdk.HelmError as error:
        raise UserError(f"{settings.chart}: {error}") from None


def merged(base: Values, more: Values) -> Values:
    """Return `base` with `more` laid over it, as several value files are."""
    result = dict(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def chart_path(chart: str) -> str:
    """Return where a chart lies: a path that is not there from here is looked for beside the library's sources."""
    beside = Path(__file__).resolve().parents[3] / chart
    return (
        str(beside)
        if "://" not in chart and not Path(chart).exists() and beside.exists()
        else chart
    )


def _flat(values: Values, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _get(values: Values, *path: str) -> Any:
    found: Any = values
    for name in path:
        found = (found or {}).get(name)
    return found


def _sdk() -> Any:
    try:
        import helm_python
    except ImportError:
        raise UserError(
            "rolling out needs Helm's library: pip install 'eager-llm[rollout]'"
        ) from None
    return helm_python
