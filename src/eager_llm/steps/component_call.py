"""How a Kubeflow component runs its step: paths and settings in, figures or one message out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from eager_llm.core.errors import UserError
from eager_llm.core.files import write_json
from eager_llm.settings import Settings


@runtime_checkable
class Artifact(Protocol):
    """What a component needs of a kfp artifact: where it lies on this machine."""

    path: str


class Metrics(Artifact, Protocol):
    """What a component needs of kfp's metrics artifact."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show a figure beside the step."""


def run_step(step: Callable[..., Any], *arguments: Any, metrics: Metrics | None = None) -> Any:
    """Run a step with the arguments that kfp hands to its component, in the step's order.

    Args:
        step: one of `eager_llm.steps`.
        arguments: an artifact becomes its path, a dictionary becomes the settings; anything else
            stays as it is.
        metrics: shows the figures that the step returns; None where it returns none.

    Returns:
        What the step returns.

    Raises:
        SystemExit: the step refused its input. The message says it all; a traceback above it would
            only hide it.
    """
    try:
        values = [_value(argument) for argument in arguments]
        result = step(*values)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if metrics is not None:
        _show(flat_figures(result), metrics)
    return result


def _value(argument: Any) -> Any:
    """Return what a step takes in the place of a component's argument."""
    if isinstance(argument, dict):
        return Settings.from_dict(argument)
    if isinstance(argument, Artifact):
        return Path(argument.path)
    return argument


def flat_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return figures with one name each: those of a method are named `method figure`."""
    flat: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            flat |= {f"{name} {figure}": number for figure, number in value.items()}
        else:
            flat[name] = value
    return flat


def _show(figures: dict[str, float], metrics: Metrics) -> None:
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # kfp.local takes a step's outputs from its cache only if every artifact is a file.
    write_json(Path(metrics.path), figures)
