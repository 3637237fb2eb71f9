"""Checkpoints of a training job: saved as it goes, resumed to the bit, the best weights kept."""

from pathlib import Path

import torch

from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file
from eager_llm.core.progress import say
from eager_llm.tuning.training_job import TrainingJob, TrainingRun, TrainingState


def checkpoint_file(job: TrainingJob) -> Path:
    """Return the file that a job resumes from."""
    return job.checkpoints / f"{job.name}.pt"


def save_checkpoint(run: TrainingRun) -> None:
    """Save the run; every process calls it, the main process writes."""
    job = run.job
    context = job.context
    random_states = context.all_gather(_random_state())
    weights, moments = context.states(job.module, run.optimizer)
    if not context.is_main_process:
        return
    checkpoint = {
        "fingerprint": job.fingerprint,
        "module": weights,
        "optimizer": moments,
        "schedule": run.schedule.state_dict(),
        "random": random_states,
        "state": vars(run.state),
    }
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    with whole_file(checkpoint_file(job)) as draft:
        torch.save(checkpoint, draft)


def resume(run: TrainingRun) -> None:
    """Continue from the job's checkpoint, if there is one.

    Raises:
        UserError: the checkpoint belongs to other settings or data.
    """
    job = run.job
    file = checkpoint_file(job)
    if not file.is_file():
        return
    checkpoint = torch.load(file, weights_only=True, map_location="cpu")
    if checkpoint["fingerprint"] != job.fingerprint:
        raise UserError(
            f"{file}: the checkpoint belongs to other settings or data; "
            "name another folder or remove it"
        )
    context = job.context
    states = (checkpoint["module"], checkpoint["optimizer"])
    context.restore(job.module, run.optimizer, states)
    run.schedule.load_state_dict(checkpoint["schedule"])
    _restore_random_state(checkpoint["random"][context.rank])
    state = TrainingState(**checkpoint["state"])
    run.state = state
    if context.is_main_process:
        say(f"{job.name}: going on from epoch {state.epoch + 1}, step {state.step} ({file})")


def save_best(run: TrainingRun) -> None:
    """Save the weights of the best epoch so far."""
    job = run.job
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    with whole_file(_best_file(run)) as draft:
        torch.save(job.model.state_dict(), draft)


def remove_outdated(run: TrainingRun) -> None:
    """Remove the weights of every epoch that is no longer the best."""
    job = run.job
    if not job.context.is_main_process:
        return
    best = _best_file(run)
    for file in job.checkpoints.glob(f"{job.name}-best-*.pt"):
        if file != best:
            file.unlink()


def load_best(run: TrainingRun) -> None:
    """Leave the job's model with the best weights, on every process."""
    job = run.job
    context = job.context
    context.broadcast(None)
    if context.sharded:
        # The model itself was not trained; the last checkpoint holds the unsharded weights.
        job.model.load_state_dict(_unsharded_weights(job))
    elif run.state.best_epoch >= 0:
        weights = torch.load(_best_file(run), weights_only=True)
        job.model.load_state_dict(weights)


def _best_file(run: TrainingRun) -> Path:
    epoch = run.state.best_epoch
    return run.job.checkpoints / f"{run.job.name}-best-{epoch}.pt"


def _unsharded_weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    """Return the model's weights out of those of the module around it."""
    checkpoint = torch.load(checkpoint_file(job), weights_only=True, map_location="cpu")
    weights: dict[str, torch.Tensor] = {}
    for name, weight in checkpoint["module"].items():
        if name.startswith("model."):
            weights[name.removeprefix("model.")] = weight
    return weights


def _random_state() -> dict[str, torch.Tensor]:
    """Return the state that this process draws from; dropout draws on its device, too."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random_state(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
