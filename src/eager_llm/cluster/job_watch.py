"""Following a job that runs elsewhere: its log, its end, and a signal to stop."""

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

TAIL_LINES = 15
# A shorter silence of an API is not worth a line.
SILENCE_SECONDS = 30


class ApiUnavailable(Exception):
    """The API that reports on a job did not answer this time."""


class StopSignal(SystemExit):
    """The step got SIGTERM; not an Exception, so that nothing on the way takes it for a failure."""


class Job(Protocol):
    """A job that runs elsewhere."""

    def poll(self) -> bool:
        """Say what is new, and return whether the job has ended well.

        Raises:
            UserError: it ended otherwise, or cannot end well any more.
            ApiUnavailable: there was no answer.
        """

    def remove(self) -> None:
        """Remove the job and what was made for it, whether or not it is still there.

        Raises:
            ApiUnavailable: there was no answer.
        """


def follow(job: Job, settings: RaySettings) -> None:
    """Wait until a job has ended, and remove it, also where this process is told to end.

    Raises:
        UserError: the job failed or was lost. Or its API does not answer for too long; then the
            job stays, and the next call of the same content follows it further.
        StopSignal: this process got SIGTERM.
    """
    try:
        with _sigterm_as_exception():
            _wait_for_end(job, settings)
    except _Unreachable as error:
        raise UserError(str(error)) from None
    except BaseException:
        _remove(job)
        raise
    _remove(job)


def retry(action: Callable[[], None], settings: RaySettings) -> None:
    """Do something, again and again while the API does not answer.

    Raises:
        UserError: there is no answer for `ray.away_minutes`.
    """
    deadline = time.monotonic() + settings.away_minutes * 60
    while True:
        try:
            return action()
        except ApiUnavailable as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{error}; no answer for ray.away_minutes = {settings.away_minutes:g}"
                ) from None
            time.sleep(settings.poll_seconds)


class _Unreachable(Exception):
    pass


def _wait_for_end(job: Job, settings: RaySettings) -> None:
    last_answer = time.monotonic()
    deadline = last_answer + settings.hours * 3600
    silence_limit = max(2 * settings.poll_seconds, SILENCE_SECONDS)
    while True:
        try:
            if job.poll():
                return
            if time.monotonic() - last_answer > silence_limit:
                say("Ray: answers again")
            last_answer = time.monotonic()
        except ApiUnavailable as error:
            silence = time.monotonic() - last_answer
            if silence > settings.away_minutes * 60:
                raise _Unreachable(
                    f"{error}; no answer for {silence / 60:.1f} minutes (ray.away_minutes). The "
                    "job may still be at work: run the step again to follow it"
                ) from None
        if time.monotonic() > deadline:
            raise UserError(
                f"the job did not end within ray.hours = {settings.hours:g}; it was removed"
            )
        time.sleep(settings.poll_seconds)


def _remove(job: Job) -> None:
    try:
        job.remove()
    except ApiUnavailable as error:
        say(f"Ray: the job could not be taken away: {error}")


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that the job is removed when Kubernetes ends the pod."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def _stop(number: int, frame: FrameType | None) -> None:
        raise StopSignal("error: told to end; the Ray job is taken away")

    original = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, original)


class Log:
    """Shows each line of a log once, and keeps the last ones for an error.

    Args:
        show: takes each line.
    """

    def __init__(self, show: Callable[[str], None] = say) -> None:
        self._show = show
        self._characters = 0
        self.tail: list[str] = []

    def show_new(self, text: str) -> None:
        """Show the new lines of a log that was read from its start; an unfinished one waits."""
        new = text[self._characters :]
        lines = new.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        for line in lines:
            self._characters += len(line)
            self.add(line.rstrip("\n"))

    def add(self, line: str) -> None:
        """Show a line."""
        self.tail = [*self.tail, line][-TAIL_LINES:]
        self._show(f"  {line}")

    @property
    def tail_text(self) -> str:
        """The last lines as the end of an error message."""
        if not self.tail:
            return "\nit wrote no log"
        return "\nlast lines of its log:\n  " + "\n  ".join(self.tail)
