"""Ray's workers, on this machine or on a cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eager_llm.progress import say


@contextmanager
def ray_running(workers: int) -> Iterator[None]:
    """Have Ray for the length of a block: started here, with so many workers, unless it already runs."""
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        say(f"Ray: starting with {workers} workers")
        start_ray(workers)
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()


def start_ray(workers: int) -> None:
    """Start Ray on this machine, or join the cluster of RAY_ADDRESS."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    runtime: dict[str, Any] = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(runtime_env=runtime, logging_level="warning")
    else:
        # The dashboard doubles Ray's memory.
        # Of its own, also where somebody else has a Ray running on this machine.
        ray.init("local", num_cpus=workers, include_dashboard=False, runtime_env=runtime, logging_level="warning")
