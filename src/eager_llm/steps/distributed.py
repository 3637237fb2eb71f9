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
        inputs: arguments that are read.
        outputs: arguments that are written.
        places: arguments that are folders which outlive the step.
    """

    function: Callable[..., dict[str, float]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    places: tuple[str, ...]


STEPS: dict[str, Step] = {}


def distributed(
    inputs: tuple[str, ...], outputs: tuple[str, ...], places: tuple[str, ...]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a step with the argument `settings` run where `ray.cluster` says: here, or by a job that does the same."""

    def register(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__
        STEPS[name] = Step(cast(Any, function), inputs, outputs, places)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            given: dict[str, Any] = inspect.signature(function).bind(*args, **kwargs).arguments
            settings: Settings = given["settings"]
            if settings.ray.cluster == "local":
                return function(*args, **kwargs)

            def uris(names: tuple[str, ...]) -> dict[str, str]:
                return {name: uri_of(given[name]) for name in names}

            call = StepCall(name, uris(inputs), uris(outputs), uris(places), settings.to_dict())
            return cast(R, elsewhere(call, settings, [Path(given[name]) for name in outputs]))

        return run

    return register


def elsewhere(call: StepCall, settings: Settings, outputs: list[Path]) -> dict[str, float]:
    """Have a Ray cluster do a call, and return its figures.

    Raises:
        UserError: what the step itself says is wrong, or what happened to the job.
    """
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        (run_rayjob if settings.ray.cluster == "rayjob" else run_on_static_cluster)(
            call, settings.ray
        )
    except UserError as error:
        # What the step says itself says more than how its job ended.
        told = None
        with suppress(UserError):
            told = (call.read_answer() or {}).get("error")
        raise UserError(told or str(error)) from None
    answer = call.read_answer()
    if answer is None:
        raise UserError(
            f"the Ray job of step {call.step} ended well, but {call.answer} is not there; do both reach it?"
        )
    return dict(answer["figures"])
