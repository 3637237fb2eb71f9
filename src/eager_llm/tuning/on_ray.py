"""Tuning by the workers of a Ray Train job, on this machine or a cluster."""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from eager_llm.cluster.local_ray import ray_running
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, write_json
from eager_llm.tuning.distributed_context import DistributedContext

ANSWER = "answer.json"


def on_workers(
    function: Callable[[dict[str, Any]], dict[str, float]],
    config: dict[str, Any],
    workers: int,
    restarts: int,
    shared: Path,
) -> dict[str, float]:
    """Run a function on every worker of a torch process group, and return what the first one answers.

    A lost worker ends the group; it is started again as a whole, and the function goes on from the checkpoint that it
    finds. Ray restores nothing by itself: every call is a run of its own.

    Args:
        function: reads the config; importable on the workers.
        restarts: how often the group is started again.
        shared: folder that all workers reach.

    Raises:
        UserError: the workers were lost more often than that.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    shared.mkdir(parents=True, exist_ok=True)
    storage = Path(tempfile.mkdtemp(prefix=".ray-", dir=shared))
    try:
        with ray_running(workers):
            trainer = TorchTrainer(
                partial(_work, function, storage / ANSWER),
                train_loop_config=config,
                scaling_config=ScalingConfig(
                    num_workers=workers, use_gpu=ray.cluster_resources().get("GPU", 0) >= workers
                ),
                run_config=RunConfig(
                    name="tuning",
                    storage_path=str(storage),
                    failure_config=FailureConfig(max_failures=restarts),
                ),
            )
            trainer.fit()
            return dict(read_json(storage / ANSWER))
    except ray.train.TrainingFailedError as error:
        raise UserError(f"tuning failed on the Ray Train workers: {error}") from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _work(
    function: Callable[[dict[str, Any]], dict[str, float]], answer: Path, config: dict[str, Any]
) -> None:
    import torch
    from ray.train.torch import get_device

    if torch.cuda.is_available():
        torch.cuda.set_device(get_device())
    found = function(config)
    if DistributedContext().is_main_process:
        write_json(answer, found)
