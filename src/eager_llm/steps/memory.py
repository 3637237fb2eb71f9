"""The memory of a step: a warning near the limit, and an explanation where it was not enough."""

import functools
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from eager_llm.core.errors import UserError
from eager_llm.core.progress import say

P = ParamSpec("P")
R = TypeVar("R")

CGROUPS = Path("/sys/fs/cgroup")
WARNING_SHARE = 0.9
POLL_SECONDS = 0.25
GIBIBYTE = 2**30
MEBIBYTE = 2**20


@dataclass(frozen=True)
class ControlGroup:
    """The files of one version of Linux control groups.

    Attributes:
        limit, usage: each holds bytes.
        statistics: a name and a value a line.
        file_cache: the name of the cache that the system takes back first; usage includes it.
    """

    limit: str
    usage: str
    statistics: str
    file_cache: str


CONTROL_GROUPS = (
    ControlGroup("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ControlGroup(
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def within_memory(name: str, *settings: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a step report its name, its limit and the remedy where memory runs short.

    The system ends a step beyond its limit without a message: the last line is then the warning of
    this watch.

    Args:
        name: of the step's folder.
        settings: names of the settings that make it need less.

    Raises:
        UserError: the step needed more memory, of the machine or of a GPU, than there is.
    """

    def decorate(step: Callable[P, R]) -> Callable[P, R]:
        """Return the step with the watch around it."""

        @functools.wraps(step)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            """Do the step."""
            with watched(name, settings):
                try:
                    return step(*args, **kwargs)
                except (MemoryError, RuntimeError) as error:
                    limit = _exceeded_limit(error)
                    if limit is None:
                        raise
                    raise UserError(
                        f"{name}: out of memory: it had {limit} ({_first_line(error)}). "
                        f"{remedy(name, settings)}"
                    ) from error

        return run

    return decorate


def remedy(name: str, settings: tuple[str, ...]) -> str:
    """Return what a person can change.

    Args:
        name: of the step's folder.
        settings: names of the settings that make it need less.
    """
    text = (
        f"Give it more: memory_limit of {name} in pipelines/graphs/placement.py, "
        "then `make manifests`"
    )
    if settings:
        text += f"; or let it need less: {', '.join(settings)}"
    return text


@contextmanager
def watched(name: str, settings: tuple[str, ...] = (), folder: Path = CGROUPS) -> Iterator[None]:
    """Warn once where a step nears the limit of its container, if it has one.

    Args:
        name, settings: see `within_memory`.
        folder: where control groups are mounted.
    """
    limit = container_limit(folder)
    if limit is None:
        yield
        return
    finished = threading.Event()

    def watch() -> None:
        """Look at the usage from time to time, until a warning or the end of the step."""
        while not finished.wait(POLL_SECONDS):
            usage = container_usage(folder)
            if usage > WARNING_SHARE * limit:
                say(
                    f"warning: {name}: {_size(usage)} of the {_size(limit)} of its container are "
                    "in use; if it ends here without a word, it was out of memory. "
                    f"{remedy(name, settings)}"
                )
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def container_limit(folder: Path = CGROUPS) -> int | None:
    """Return the bytes that this process's container may use.

    Args:
        folder: where control groups are mounted.

    Returns:
        None where nothing but the machine bounds it.
    """
    for group in CONTROL_GROUPS:
        text = _read(folder / group.limit)
        if text.isdigit():
            limit = int(text)
            return limit if limit < _machine_memory() else None
    return None


def container_usage(folder: Path = CGROUPS) -> int:
    """Return the bytes that this process's container uses, without its file cache.

    Args:
        folder: where control groups are mounted.
    """
    for group in CONTROL_GROUPS:
        usage = _read(folder / group.usage)
        if usage.isdigit():
            return int(usage) - _file_cache(folder, group)
    return 0


def _file_cache(folder: Path, group: ControlGroup) -> int:
    """Return the bytes of the cache that the system takes back first."""
    for line in _read(folder / group.statistics).splitlines():
        name, value = line.split(maxsplit=1)
        if name == group.file_cache:
            return int(value)
    return 0


def _exceeded_limit(error: Exception) -> str | None:
    """Return the limit that an error of memory has met; None for any other error."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        device = torch.cuda.get_device_properties(torch.cuda.current_device())
        return f"{_size(device.total_memory)} on its GPU"
    if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
        return None
    process_limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if process_limit != resource.RLIM_INFINITY:
        return f"{_size(process_limit)}, the limit of its process"
    limit = container_limit()
    if limit:
        return f"{_size(limit)}, the limit of its container"
    return f"{_size(_machine_memory())}, all of the machine"


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__


def _machine_memory() -> int:
    """Return the bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read(file: Path) -> str:
    """Return a file's text, empty where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _size(count: float) -> str:
    """Return a number of bytes for people."""
    if count >= GIBIBYTE:
        return f"{count / GIBIBYTE:.1f} GiB"
    return f"{count / MEBIBYTE:.0f} MiB"
