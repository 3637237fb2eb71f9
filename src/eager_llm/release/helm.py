"""A bundle version onto a cluster and back: a Helm release's canary, its promotion, its end.

Helm's own library does it, in this process. The same is also given as a command line, for people
to read.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eager_llm.core.errors import UserError
from eager_llm.core.project import project_home
from eager_llm.settings import RolloutSettings

Values = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One change of a release.

    Attributes:
        values: what changes; everything else stays as it is.
    """

    values: Values

    def command(self, settings: RolloutSettings) -> list[str]:
        """Return the words of Helm's command that does the same."""
        assignments: list[str] = []
        for name, value in _flat(self.values):
            assignments += ["--set-json", f"{name}={json.dumps(value)}"]
        return [
            "helm",
            "upgrade",
            settings.release,
            settings.chart,
            "--reuse-values",
            *assignments,
            "--namespace",
            settings.namespace,
            "--wait",
            "--timeout",
            f"{settings.timeout}s",
            "--rollback-on-failure",
        ]

    def command_line(self, settings: RolloutSettings) -> str:
        """Return the command as a person types it."""
        return shlex.join(self.command(settings))


def canary_steps(values: Values, version: str, weight: int) -> list[Step]:
    """Return the steps that start a canary.

    With a route its pods start first, so that no request meets a pod that is not ready.

    Args:
        values: all values of the release as it is.
        weight: of the canary, in percent of the requests.
    """
    pods = {"enabled": True, "bundle": {"version": version}}
    if not _get(values, "httpRoute", "enabled"):
        return [Step({"canary": {**pods, "weight": weight}})]
    return [Step({"canary": {**pods, "weight": 0}}), Step({"canary": {"weight": weight}})]


def promote_steps(values: Values) -> list[Step]:
    """Return the step that lets all pods serve the canary's version, and ends the canary.

    Raises:
        UserError: there is no canary.
    """
    if not _get(values, "canary", "enabled"):
        raise UserError(
            "the release has no canary to promote; start one with: eager-llm rollout canary"
        )
    version = _get(values, "canary", "bundle", "version")
    return [Step({"canary": {"enabled": False}, "bundle": {"version": version}})]


def rollback_steps(values: Values, previous_version: Callable[[str], str]) -> list[Step]:
    """Return the step that ends the canary, or, without one, serves the previous version again.

    Helm's own rollback goes to the previous revision, which may well be one with a canary.

    Args:
        previous_version: the current version -> the one that was stable before it.
    """
    if _get(values, "canary", "enabled"):
        return [Step({"canary": {"enabled": False}})]
    current = str(_get(values, "bundle", "version"))
    return [Step({"bundle": {"version": previous_version(current)}})]


class Helm:
    """The release of some settings, on a cluster.

    The cluster is the one that KUBECONFIG, ~/.kube/config or the pod's service account names.

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

    def previous_version(self, current: str) -> str:
        """Return the bundle version that was stable before the current one.

        Raises:
            UserError: the release's history holds no other.
        """
        release = self.settings.release
        with self._errors(), self._sdk.Config(namespace=self.settings.namespace) as config:
            for revision in reversed(config.history(release)):
                if revision["status"] not in ("deployed", "superseded"):
                    continue
                number = revision["revision"]
                values = config.get_values(release, all_values=True, revision=number)
                version = str(_get(values, "bundle", "version"))
                if version != current:
                    return version
        raise UserError(
            f"release {release}: its history holds no other bundle version than {current}"
        )

    def apply(self, steps: list[Step]) -> None:
        """Take the steps, each once the one before is ready; Helm rolls back one that fails.

        Raises:
            UserError: the cluster or Helm refuses, or the pods do not get ready in time.
        """
        settings = self.settings
        chart = chart_path(settings.chart)
        with self._errors(), self._sdk.Config(namespace=settings.namespace) as config:
            for step in steps:
                config.upgrade(
                    chart,
                    settings.release,
                    step.values,
                    reuse_values=True,
                    rollback_on_failure=True,
                    wait="watcher",
                    timeout=settings.timeout,
                )

    def _errors(self) -> "_ReadableErrors":
        return _ReadableErrors(self.settings, self._sdk)


class _ReadableErrors:
    """Turns Helm's errors into the user's: the release named, no traceback."""

    def __init__(self, settings: RolloutSettings, sdk: Any) -> None:
        self._settings = settings
        self._sdk = sdk

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, self._sdk.HelmError):
            release = self._settings.release
            namespace = self._settings.namespace
            raise UserError(f"release {release} in namespace {namespace}: {error}") from None


def render(settings: RolloutSettings, values: Values, steps: list[Step]) -> dict[str, str]:
    """Return each template's text after the steps, without a cluster.

    Args:
        values: all values of the release as it is.

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
    """Return `base` with `more` on top of it, as Helm merges value files."""
    result = dict(base)
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def chart_path(chart: str) -> str:
    """Return where a chart lies.

    A path that does not exist from here is looked for in the project.
    """
    if "://" in chart or Path(chart).exists():
        return chart
    in_project = project_home() / chart
    return str(in_project) if in_project.exists() else chart


def _flat(values: Values, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value with its dotted name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _get(values: Values, *path: str) -> Any:
    """Return a nested value, or None where one of the names is missing."""
    value: Any = values
    for name in path:
        value = (value or {}).get(name)
    return value


def _sdk() -> Any:
    """Return Helm's library."""
    try:
        import helm_python
    except ImportError:
        raise UserError(
            "rolling out needs Helm's library: pip install 'eager-llm[rollout]'"
        ) from None
    return helm_python
