"""Adaptive batching: the jobs that wait while the engine works are its next batch."""

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
# Batches whose pace the estimate of the waiting time looks at.
RECENT_BATCHES = 9
log = logging.getLogger("eager_llm.serving")


class QueueFull(Exception):
    """The queue is at its bound, or longer than can be done in time."""


@dataclass(frozen=True)
class JobResult:
    """The result of a job.

    Attributes:
        value: what the work returned for it.
        queue_seconds: from its submission until its batch began.
        work_seconds: of its batch.
        batch_size: jobs in its batch.
    """

    value: Any
    queue_seconds: float
    work_seconds: float
    batch_size: int


@dataclass
class _QueuedJob(Generic[Job]):
    job: Job
    future: "asyncio.Future[JobResult]"
    queued_at: float


class Batcher(Generic[Job]):
    """Gives jobs to one thread in their order, as many at a time as wait.

    No job waits for others to join it: at low load every job is a batch of its own, and batches
    grow with the load. A job whose caller has given up is never begun.

    Args:
        work: returns one result a job, in their order; an exception among the results belongs to
            its job alone.
        batch_size: jobs of a batch, at most.
        queue_size: jobs that may wait.
        observe: called with the size of every batch.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Job]], Sequence[Any]],
        batch_size: int,
        queue_size: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self.queue_size = queue_size
        self._work = work
        self._observe = observe
        self._queue: deque[_QueuedJob[Job]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._runner: asyncio.Task[None] | None = None
        self._seconds_per_job: deque[float] = deque(maxlen=RECENT_BATCHES)

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def wait_estimate(self) -> float:
        """Seconds that a new job would wait, by the median pace: one stalled batch says little."""
        pace = median(self._seconds_per_job or [0.0])
        return len(self._queue) * pace

    async def submit(self, job: Job, timeout: float) -> JobResult:
        """Queue a job and return its result.

        Args:
            timeout: seconds.

        Raises:
            QueueFull: the queue is at its bound, or longer than can be done in time.
            TimeoutError: the job was not done in time.
            Exception: whatever the work raised for this job.
        """
        if len(self._queue) >= self.queue_size or self.wait_estimate > timeout:
            raise QueueFull(f"{len(self._queue)} jobs wait for the {self.name}")
        future: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()
        queued = _QueuedJob(job, future, perf_counter())
        self._queue.append(queued)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            return await asyncio.wait_for(future, max(timeout, 0))
        finally:
            if not future.done() or future.cancelled():
                self._forget(queued)

    def close(self) -> None:
        """End the thread, once its batch is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _forget(self, queued: _QueuedJob[Job]) -> None:
        try:
            self._queue.remove(queued)
        except ValueError:
            return  # Its batch has begun: nobody will read its result.

    async def _run(self) -> None:
        """Work through the queue until it is empty."""
        loop = asyncio.get_running_loop()
        while self._queue:
            size = min(self.batch_size, len(self._queue))
            batch = [self._queue.popleft() for _ in range(size)]
            jobs = [queued.job for queued in batch]
            self._observe(size)
            start = perf_counter()
            values = await loop.run_in_executor(self._thread, self._results, jobs)
            seconds = perf_counter() - start
            self._seconds_per_job.append(seconds / size)
            for queued, value in zip(batch, values, strict=True):
                if queued.future.done():
                    continue
                if isinstance(value, BaseException):
                    queued.future.set_exception(value)
                    continue
                queue_seconds = start - queued.queued_at
                queued.future.set_result(JobResult(value, queue_seconds, seconds, size))

    def _results(self, jobs: list[Job]) -> list[Any]:
        """Return a result or an exception for each job; after a failure each job is tried alone."""
        try:
            results = list(self._work(jobs))
            if len(results) != len(jobs):
                raise RuntimeError(
                    f"the {self.name} gave {len(results)} results for {len(jobs)} jobs"
                )
            return results
        except Exception as error:  # Whatever it is, every job gets a result or an error.
            if len(jobs) == 1:
                log.exception("the %s failed", self.name)
                return [error]
        results = []
        for job in jobs:
            results += self._results([job])
        return results
