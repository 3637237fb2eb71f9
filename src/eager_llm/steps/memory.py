"""What a step has of memory: said while it nears the limit, and explained where it was not enough."""

import functools
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from eager_llm.core.errors import UserError
from eager_llm.core.progress import say

P = ParamSpec("P")
R = TypeVar("R")
CGROUPS = Path("/sys/fs/cgroup")
NEARLY = 0.9
SECONDS_BETWEEN_LOOKS = 0.25
# How each version of control groups calls the limit, the usage, and of it the cache that is given back first.
VERSIONS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def within_memory(name: str, *settings: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a step say its name, its limit and what to change where memory runs short.

    A limit of the system ends a step without a word: the last line before it is then the warning of this watch.

    Args:
        name: of the step's folder.
        settings: which make it need less.

    Raises:
        UserError: the step asked for memory, of the machine or of a GPU, that was not there.
    """

    def decorate(step: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(step)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with watched(name, settings):
                try:
                    return step(*args, **kwargs)
                except (MemoryError, RuntimeError) as error:
                    had = _had(error)
                    if had is None:
                        raise
                    said = (
                        str(error).strip().splitlines()[0]
                        if str(error).strip()
                        else type(error).__name__
                    )
                    raise UserError(
                        f"{name}: out of memory: it had {had} ({said}). {remedy(name, settings)}"
                    ) from error

        return run

    return decorate


def remedy(name: str, settings: tuple[str, ...]) -> str:
    """Return what a person can change."""
    less = f"; or let it need less: {', '.join(settings)}" if settings else ""
    return f"Give it more: memory_limit of {name} in pipelines/graphs/placement.py, then `make manifests`{less}"


@contextmanager
def watched(name: str, settings: tuple[str, ...] = (), folder: Path = CGROUPS) -> Iterator[None]:
    """Say once that a step nears the limit of its container, if it has one."""
    limit = container_limit(folder)
    if limit is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            used = container_usage(folder)
            if used > NEARLY * limit:
                say(
                    f"warning: {name}: {_size(used)} of the {_size(limit)} of its container are in use; if it ends "
                    f"here without a word, it was out of memory. {remedy(name, settings)}"
                )
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def container_limit(folder: Path = CGROUPS) -> int | None:
    """Return the bytes that this process's container may take; None where nothing but the machine bounds it."""
    for limit, *_ in VERSIONS:
        said = _read(folder / limit)
        if said.isdigit():
            return int(said) if int(said) < _machine() else None
    return None


def container_usage(folder: Path = CGROUPS) -> int:
    """Return the bytes in use by this process's container, without the file cache that it would give back."""
    for _, usage, stat, cache in VERSIONS:
        used = _read(folder / usage)
        if used.isdigit():
            rows = dict(line.split(maxsplit=1) for line in _read(folder / stat).splitlines())
            return int(used) - int(rows.get(cache, 0))
    return 0


def _had(error: Exception) -> str | None:
    """Return what there was where an error says that memory is short, None where it says something else."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return f"{_size(total)} on its GPU"
    if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
        return None
    own = resource.getrlimit(resource.RLIMIT_AS)[0]
    limit = container_limit()
    if own != resource.RLIM_INFINITY:
        return f"{_size(own)}, the limit of its process"
    return (
        f"{_size(limit)}, the limit of its container"
        if limit
        else f"{_size(_machine())}, all of the machine"
    )


def _machine() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
