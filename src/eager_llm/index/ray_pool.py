"""Who works on the ranges of a build: this process, or Ray actors on this machine or a cluster."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from eager_llm.cluster.local_ray import ray_running
from eager_llm.index.ray_worker import Worker
from eager_llm.index.shards import Shards


class Pool(Protocol):
    """Runs a method of `Worker` many times; results come in the order of the calls."""

    def map(
        self,
        method: str,
        calls: Iterable[tuple],
    ) -> Iterator[Any]:
        """Yield `method(*call)` for every call."""

    def share(self, value: Any) -> Any:
        """Return what stands for a large argument in many calls."""


class LocalPool:
    """One worker, in this process."""

    def __init__(
        self,
        sources: dict[str, Shards],
        precision: str,
    ) -> None:
        self.worker = Worker(sources, precision)

    def map(
        self,
        method: str,
        calls: Iterable[tuple],
    ) -> Iterator[Any]:
        """Yield `method(*call)` for every call."""
        function = getattr(self.worker, method)
        for call in calls:
            yield function(*call)

    def share(self, value: Any) -> Any:
        """Return the value itself."""
        return value


class RayPool:
    """Ray actors; a call of one number always goes to the same actor, which may keep its rows.

    Ray starts a lost actor again and repeats its calls: they depend on nothing but their arguments.
    """

    def __init__(
        self,
        sources: dict[str, Shards],
        precision: str,
        workers: int,
    ) -> None:
        import ray

        total_gpus = ray.cluster_resources().get("GPU", 0)
        gpus = min(1.0, total_gpus / workers)
        actor = ray.remote(
            num_cpus=1,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=-1,
        )(Worker)
        # Held here, since an actor that starts again needs it again.
        self.sources = ray.put(sources)
        self.actors = [actor.remote(self.sources, precision) for _ in range(workers)]

    def map(
        self,
        method: str,
        calls: Iterable[tuple],
    ) -> Iterator[Any]:
        """Yield `method(*call)` for every call; all are sent before the first result is read."""
        import ray

        pending = []
        for number, call in enumerate(calls):
            actor = self.actors[number % len(self.actors)]
            pending.append(getattr(actor, method).remote(*call))
        while pending:
            yield ray.get(pending.pop(0))

    def share(self, value: Any) -> Any:
        """Put the value into Ray's object store."""
        import ray

        return ray.put(value)


@contextmanager
def worker_pool(
    sources: dict[str, Shards],
    precision: str,
    workers: int,
) -> Iterator[Pool]:
    """Yield a pool: this process for 0 workers, else Ray, started here unless it already runs.

    Args:
        sources: the embedding of each source.
        precision: float32 or bf16, see `matmul_precision`.
    """
    if workers == 0:
        yield LocalPool(sources, precision)
        return
    import ray

    with ray_running(workers):
        pool = RayPool(sources, precision, workers)
        yield pool
        for actor in pool.actors:
            ray.kill(actor)
