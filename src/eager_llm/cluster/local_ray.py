"""Ray's workers, on this machine or on a cluster."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eager_llm.core.errors import UserError
from eager_llm.core.progress import say

JOIN_SECONDS = 120


@contextmanager
def ray_running(workers: int) -> Iterator[None]:
    """Have Ray for the length of a block: started here with some workers, unless it already runs.

    Raises:
        UserError: the cluster of RAY_ADDRESS has too few cores for the workers.
    """
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
    """Start Ray on this machine, or join the cluster of RAY_ADDRESS.

    Raises:
        UserError: the cluster has too few cores for the workers.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    runtime: dict[str, Any] = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(runtime_env=runtime, logging_level="warning")
        _wait_for_cores(workers)
    else:
        # "local", because by default Ray joins what another process of this machine has started.
        # No dashboard, because it doubles Ray's memory.
        ray.init(
            "local",
            num_cpus=workers,
            include_dashboard=False,
            runtime_env=runtime,
            logging_level="warning",
        )


def _wait_for_cores(workers: int) -> None:
    """Wait for the machines of a cluster that are just joining.

    Raises:
        UserError: too few come; the workers would wait for ever.
    """
    import ray

    deadline = time.monotonic() + JOIN_SECONDS
    while (cores := int(ray.cluster_resources().get("CPU", 0))) < workers:
        if time.monotonic() > deadline:
            raise UserError(
                f"{workers} workers are asked for, and the Ray cluster has {cores} cores for "
                "work; ask for fewer (data.workers, index.workers, tuning.workers), or make it "
                "larger (ray.workers of charts/eager-llm-platform)"
            )
        time.sleep(1)
