"""Adaptive batching: whatever waits while the engine works is its next batch."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")
log = logging.getLogger("eager_llm.serving")


class QueueFull(Exception):
    """As many jobs wait as may, or as can be done in time."""


@dataclass(frozen=True)
class Done:
    """A job's result.

    Attributes:
        value: what the work returned for it.
        waited: seconds until its batch began.
        took: seconds of its batch.
        batch: jobs in its batch.
    """

    value: Any
    waited: float
    took: float
    batch: int


@dataclass
class _Waiting(Generic[Job]):
    job: Job
    future: "asyncio.Future[Done]"
    since: float


class Batcher(Generic[Job]):
    """Gives jobs to one thread, as many at a time as wait, in the order in which they came.

    No job waits for others to join it: at low load every job is a batch of its own, and batches grow
    with the load. A job whose caller has given up is never begun.

    Args:
        work: returns a result a job, in their order; an exception among the results is its job's alone.
        most: jobs of a batch.
        queue: jobs that may wait.
        observe: is told the size of every batch.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Job]], Sequence[Any]],
        most: int,
        queue: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.name, self.most, self.queue = name, most, queue
        self._work, self._observe = work, observe
        self._waiting: deque[_Waiting[Job]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._runner: asyncio.Task[None] | None = None
        self._paces: deque[float] = deque(maxlen=9)  # seconds a job, of the last batches

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def wait_estimate(self) -> float:
        """How long a job that came now would wait, in seconds; one batch that stalled says little."""
        return len(self._waiting) * median(self._paces or [0.0])

    async def submit(self, job: Job, timeout: float) -> Done:
        """Have a job done.

        Args:
            timeout: seconds.

        Raises:
            QueueFull: as many jobs wait as may, or more than can be done in time.
            TimeoutError: it was not done in time.
            Exception: what the work raised for this job.
        """
        if len(self._waiting) >= self.queue or self.wait_estimate > timeout:
            raise QueueFull(f"{len(self._waiting)} jobs wait for the {self.name}")
        waiting = _Waiting(job, asyncio.get_running_loop().create_future(), perf_counter())
        self._waiting.append(waiting)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            return await asyncio.wait_for(waiting.future, max(timeout, 0))
        finally:
            if not waiting.future.done() or waiting.future.cancelled():
                self._forget(waiting)

    def close(self) -> None:
        """End the thread, once its batch is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _forget(self, waiting: _Waiting[Job]) -> None:
        try:
            self._waiting.remove(waiting)
        except ValueError:
            return  # it is being done: nobody will read its result

    async def _run(self) -> None:
        """Do batches until nothing waits."""
        while self._waiting:
            size = min(self.most, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            self._observe(size)
            begun = perf_counter()
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(
                self._thread, self._results, [one.job for one in batch]
            )
            took = perf_counter() - begun
            self._paces.append(took / size)
            for one, value in zip(batch, results, strict=True):
                if one.future.done():
                    continue
                if isinstance(value, BaseException):
                    one.future.set_exception(value)
                else:
                    one.future.set_result(Done(value, begun - one.since, took, size))

    def _results(self, jobs: list[Job]) -> list[Any]:
        """Return a result or an exception a job: one that cannot be done takes no other down with it."""
        try:
            results = list(self._work(jobs))
            if len(results) != len(jobs):
                raise RuntimeError(
                    f"the {self.name} gave {len(results)} results for {len(jobs)} jobs"
                )
            return results
        except Exception as error:  # whatever it is, each job gets it or an answer
            if len(jobs) == 1:
                log.exception("the %s failed", self.name)
                return [error]
        return [result for job in jobs for result in self._results([job])]
