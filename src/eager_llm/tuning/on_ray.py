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

RESULT = "result.json"

TrainFunction = Callable[[dict[str, Any]], dict[str, float]]


def on_workers(
    function: TrainFunction, config: dict[str, Any], workers: int, restarts: int, shared: Path
) -> dict[str, float]:
    """Run a function on every worker of a torch process group; returns the first one's result.

    A lost worker ends the group. It is started again as a whole, and the function resumes from the
    checkpoint that it finds. Ray restores nothing by itself: every call is a run of its own.

    Args:
        function: takes `config`; importable on the workers.
        restarts: how often the group is started again, at most.
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
            gpus = ray.cluster_resources().get("GPU", 0)
            trainer = TorchTrainer(
                partial(_work, function, storage / RESULT),
                train_loop_config=config,
                scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus >= workers),
                run_config=RunConfig(
                    name="tuning",
                    storage_path=str(storage),
                    failure_config=FailureConfig(max_failures=restarts),
                ),
            )
            trainer.fit()
            return dict(read_json(storage / RESULT))
    except ray.train.TrainingFailedError as error:
        raise UserError(f"tuning failed on the Ray Train workers: {error}") from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _work(function: TrainFunction, result_file: Path, config: dict[str, Any]) -> None:
    """Run the function on one worker; the main process writes its result."""
    import torch
    from ray.train.torch import get_device

    if torch.cuda.is_available():
        torch.cuda.set_device(get_device())
    result = function(config)
    if DistributedContext().is_main_process:
        write_json(result_file, result)
