"""Who does the parts of a build: this process, or Ray actors on this machine or a cluster."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from eager_llm.errors import UserError
from eager_llm.index.shards import Shards
from eager_llm.index.worker import Worker
from eager_llm.progress import say

JOIN_SECONDS = 120


class Pool(Protocol):
    """Runs a method of `Worker` for many parts; results come in the order of the parts."""

    def map(self, method: str, calls: Iterable[tuple]) -> Iterator[Any]:
        """Yield `method(*call)` for every call."""

    def share(self, value: Any) -> Any:
        """Return what stands for a large argument in many calls."""


class LocalPool:
    """One worker, in this process."""

    def __init__(self, sources: dict[str, Shards], precision: str) -> None:
        self.worker = Worker(sources, precision)

    def map(self, method: str, calls: Iterable[tuple]) -> Iterator[Any]:
        """Yield `method(*call)` for every call."""
        return (getattr(self.worker, method)(*call) for call in calls)

    def share(self, value: Any) -> Any:
        """Return the value itself."""
        return value


class RayPool:
    """Ray actors; a part goes to the same actor each time, which may keep its rows on a GPU.

    Ray starts a lost actor again and repeats its parts: they depend on nothing but their arguments.
    """

    def __init__(self, sources: dict[str, Shards], precision: str, workers: int) -> None:
        import ray

        gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / workers)
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(Worker)
        # Kept, since an actor that starts again asks for it again.
        self.sources = ray.put(sources)
        self.actors = [actor.remote(self.sources, precision) for _ in range(workers)]

    def map(self, method: str, calls: Iterable[tuple]) -> Iterator[Any]:
        """Yield `method(*call)` for every call."""
        import ray

        waiting = [
            getattr(self.actors[number % len(self.actors)], method).remote(*call) for number, call in enumerate(calls)
        ]
        while waiting:
            yield ray.get(waiting.pop(0))

    def share(self, value: Any) -> Any:
        """Put the value into Ray's object store."""
        import ray

        return ray.put(value)


@contextmanager
def worker_pool(sources: dict[str, Shards], precision: str, workers: int) -> Iterator[Pool]:
    """Yield a pool: this process for 0 workers, else Ray, started here unless it already runs."""
    if workers == 0:
        yield LocalPool(sources, precision)
        return
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        say(f"Ray: starting with {workers} workers")
        start_ray(workers)
    try:
        pool = RayPool(sources, precision, workers)
        yield pool
        for actor in pool.actors:
            ray.kill(actor)
    finally:
        if started_here:
            ray.shutdown()


def start_ray(workers: int) -> None:
    """Start Ray on this machine, or join the cluster of RAY_ADDRESS.

    Raises:
        UserError: the cluster has too few cores for the workers.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    runtime: dict[str, Any] = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(runtime_env=runtime, logging_level="warning")
        _await_cores(workers)
    else:
        # By default Ray would join what another process of this machine has started. The dashboard doubles its memory.
        ray.init("local", num_cpus=workers, include_dashboard=False, runtime_env=runtime, logging_level="warning")


def _await_cores(workers: int) -> None:
    """Wait for the machines of a cluster that are just joining; without them the workers would wait for ever."""
    import ray

    end = time.monotonic() + JOIN_SECONDS
    while (cores := int(ray.cluster_resources().get("CPU", 0))) < workers:
        if time.monotonic() > end:
            raise UserError(
                f"{workers} workers are asked for, and the Ray cluster has {cores} cores for work; ask for fewer "
                "(index.workers, tuning.workers), or make it larger (ray.workers of charts/eager-llm-platform)"
            )
        time.sleep(1)
