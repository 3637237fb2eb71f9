"""Which steps may run on a Ray cluster, and the one switch between here and there."""

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from eager_llm.cluster.rayjob import run_rayjob
from eager_llm.cluster.static_cluster import run_on_static_cluster
from eager_llm.cluster.step_calls import StepCall, uri_of
from eager_llm.core.errors import UserError
from eager_llm.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Step:
    """A step that may run elsewhere.

    Attributes:
        function: does it here.
        inputs: names of the arguments that are read.
        outputs: names of the arguments that are written.
        shared_folders: names of the folders that outlive the step and that both sides reach.
    """

    function: Callable[..., dict[str, float]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shared_folders: tuple[str, ...]


STEPS: dict[str, Step] = {}


def distributed(
    inputs: tuple[str, ...], outputs: tuple[str, ...], shared_folders: tuple[str, ...]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a step run where `ray.cluster` says: in this process, or as a job of a Ray cluster.

    Args:
        inputs, outputs, shared_folders: see `Step`. The step also has the argument `settings`.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        """Register the function as a step, and return it with the switch before it."""
        name = function.__name__
        STEPS[name] = Step(cast(Any, function), inputs, outputs, shared_folders)
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            """Do the step where the settings say."""
            arguments = signature.bind(*args, **kwargs).arguments
            settings: Settings = arguments["settings"]
            if settings.ray.cluster == "local":
                return function(*args, **kwargs)
            call = StepCall(
                name,
                _uris(inputs, arguments),
                _uris(outputs, arguments),
                _uris(shared_folders, arguments),
                settings.to_dict(),
            )
            output_paths = [Path(arguments[output]) for output in outputs]
            return cast(R, elsewhere(call, settings, output_paths))

        return run

    return register


def _uris(names: tuple[str, ...], arguments: dict[str, Any]) -> dict[str, str]:
    """Return name -> URI or path of some arguments."""
    return {name: uri_of(arguments[name]) for name in names}


def elsewhere(call: StepCall, settings: Settings, outputs: list[Path]) -> dict[str, float]:
    """Have a Ray cluster do a call, and return its figures.

    Raises:
        UserError: what the step itself refused, or what happened to the job.
    """
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if settings.ray.cluster == "rayjob":
            run_rayjob(call, settings.ray)
        else:
            run_on_static_cluster(call, settings.ray)
    except UserError as job_error:
        # The step's own error says more than how its job ended.
        raise UserError(_step_error(call) or str(job_error)) from None
    answer = call.read_answer()
    if answer is None:
        raise UserError(
            f"the Ray job of step {call.step} ended well, but {call.answer} is not there; "
            "do both reach it?"
        )
    return dict(answer["figures"])


def _step_error(call: StepCall) -> str | None:
    """Return why a step refused its input, or None where it has left no error."""
    answer = None
    with suppress(UserError):
        answer = call.read_answer()
    return (answer or {}).get("error")
