"""What following a job has in common, wherever the job runs: its end, its log, and being told to stop."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.settings import RaySettings

LAST_LINES = 15


class Away(Exception):
    """The API that tells of a job did not answer this time."""


class Stopped(SystemExit):
    """The step was told to end (SIGTERM); not an Exception, so that nothing on the way takes it for a failure."""


class Job(Protocol):
    """A job that runs elsewhere."""

    def look(self) -> bool:
        """Say what is new, and return whether the job has ended well.

        Raises:
            UserError: it ended otherwise, or cannot end well any more.
            Away: there was no answer.
        """

    def remove(self) -> None:
        """Take the job and what was made for it away, whether or not it is still there."""


def follow(job: Job, settings: RaySettings) -> None:
    """Wait until a job has ended, and take it away, also where this process is told to end.

    Raises:
        UserError: the job failed, was lost, or its API is away for too long; then the job is left alone, and the
            next call of the same content follows it further.
    """
    try:
        with _stoppable():
            _watch(job, settings)
    except _Unreachable as error:
        raise UserError(str(error)) from None
    except BaseException:
        _remove(job)
        raise
    _remove(job)


def sit_out(action: Callable[[], None], settings: RaySettings) -> None:
    """Do something, again and again while there is no answer.

    Raises:
        UserError: there is none for `ray.away_minutes`.
    """
    end = time.monotonic() + settings.away_minutes * 60
    while True:
        try:
            return action()
        except Away as error:
            if time.monotonic() > end:
                raise UserError(
                    f"{error}; no answer for ray.away_minutes = {settings.away_minutes:g}"
                ) from None
            time.sleep(settings.poll_seconds)


class _Unreachable(Exception):
    pass


def _watch(job: Job, settings: RaySettings) -> None:
    answered = time.monotonic()
    end = answered + settings.hours * 3600
    while True:
        try:
            if job.look():
                return
            if time.monotonic() - answered > max(2 * settings.poll_seconds, 30):
                say("Ray: answers again")
            answered = time.monotonic()
        except Away as error:
            waited = time.monotonic() - answered
            if waited > settings.away_minutes * 60:
                raise _Unreachable(
                    f"{error}; no answer for {waited / 60:.1f} minutes (ray.away_minutes). The job may still be at "
                    "work: run the step again to follow it"
                ) from None
        if time.monotonic() > end:
            raise UserError(
                f"the job did not end within ray.hours = {settings.hours:g}; it was removed"
            )
        time.sleep(settings.poll_seconds)


def _remove(job: Job) -> None:
    try:
        job.remove()
    except Away as error:
        say(f"Ray: the job could not be taken away: {error}")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn SIGTERM, by which Kubernetes ends a pod, into an exception, so that what was made is taken away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("error: told to end; the Ray job is taken away")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Log:
    """Shows each line of a log once, and remembers the last ones."""

    def __init__(self, show: Callable[[str], None] = say) -> None:
        self._show, self._shown = show, 0
        self.tail: list[str] = []

    def whole(self, text: str) -> None:
        """Show what is new in a log that was read from its start, line by whole line."""
        new, lines = text[self._shown :], text[self._shown :].splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            new = new[: -len(lines.pop())]
        self._shown += len(new)
        for line in lines:
            self.add(line.rstrip("\n"))

    def add(self, line: str) -> None:
        """Show a line."""
        self.tail = [*self.tail, line][-LAST_LINES:]
        self._show(f"  {line}")

    @property
    def end(self) -> str:
        """The last lines, to stand in an error."""
        return (
            "\nlast lines of its log:\n  " + "\n  ".join(self.tail)
            if self.tail
            else "\nit wrote no log"
        )
