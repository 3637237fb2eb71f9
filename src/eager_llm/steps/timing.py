"""How long each step took, for the summary of a run."""

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
    """Print a step's seconds, and append them to the file that EAGER_LLM_TIMES names."""

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        started = time.monotonic()
        result = step(*args, **kwargs)
        seconds = round(time.monotonic() - started, 1)
        say(f"{step.__name__}: {seconds} s")
        if os.environ.get(TIMES_VARIABLE):
            with Path(os.environ[TIMES_VARIABLE]).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": step.__name__, "seconds": seconds}) + "\n")
        return result

    return run


def read_times(file: Path) -> dict[str, float]:
    """Return the last seconds of each step; a step that was re-used keeps those of its last run."""
    if not file.is_file():
        return {}
    rows = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return {row["step"]: row["seconds"] for row in rows}
