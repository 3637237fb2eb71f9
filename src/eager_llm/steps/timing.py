"""The seconds of each step, for the summary of a run."""

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from eager_llm.core.progress import say

TIMES_VARIABLE = "EAGER_LLM_TIMES"
P = ParamSpec("P")
R = TypeVar("R")


def timed(step: Callable[P, R]) -> Callable[P, R]:
    """Make a step print its seconds, and append them to the file that EAGER_LLM_TIMES names."""
    name = step.__name__

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        """Do the step."""
        start = time.monotonic()
        result = step(*args, **kwargs)
        seconds = round(time.monotonic() - start, 1)
        say(f"{name}: {seconds} s")
        file = os.environ.get(TIMES_VARIABLE)
        if file:
            row = json.dumps({"step": name, "seconds": seconds})
            with Path(file).open("a", encoding="utf-8") as log:
                log.write(row + "\n")
        return result

    return run


def read_times(file: Path) -> dict[str, float]:
    """Return the seconds of each step; a step that was re-used keeps those of its last run.

    Args:
        file: with a JSON object a line; without it the result is empty.
    """
    seconds: dict[str, float] = {}
    if not file.is_file():
        return seconds
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        seconds[row["step"]] = row["seconds"]
    return seconds
