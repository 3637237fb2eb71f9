"""The training loop: resumable to the bit, the best validated epoch kept."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eager_llm.files import whole_file
from eager_llm.progress import progress, say
from eager_llm.tuning.batches import Batch

CHECKPOINT_STEPS = 200


@dataclass
class TrainingJob:
    """What `fit` runs.

    Attributes:
        name: shown in the progress, and the name of the checkpoint.
        module: everything with weights that training needs.
        loss: batch, step -> scalar loss, with figures to log.
        plan: epoch -> the epoch's batches as functions; the same for the same epoch, always.
        steps_an_epoch: an estimate is enough; it shapes the learning rate.
        keep: state to keep as the best: the weights that validation judges.
        validate: () -> a figure that grows with quality, or None to keep the last epoch.
    """

    name: str
    module: nn.Module
    loss: Callable[[Batch, int], tuple[torch.Tensor, dict[str, float]]]
    plan: Callable[[int], list[Callable[[], Batch]]]
    steps_an_epoch: int
    epochs: int
    learning_rate: float
    weight_decay: float
    warmup_share: float
    checkpoints: Path
    keep: nn.Module
    validate: Callable[[], float] | None = None
    validate_every: int = 1


@dataclass
class _State:
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    sums: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)


def fit(job: TrainingJob) -> list[dict[str, float]]:
    """Train, or go on from the last checkpoint, and leave `job.keep` with the best weights.

    Returns:
        The curve: a row an epoch with its losses, tokens a second and validation figure.
    """
    trained = [p for p in job.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=job.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(job))
    file = job.checkpoints / f"{job.name}.pt"
    state = _resume(file, job, optimizer, schedule)
    # A resumed bar starts where the job stopped.
    total = job.epochs * job.steps_an_epoch
    with progress(total=total, initial=min(state.step, total), desc=job.name, unit="step") as bar:
        while state.epoch < job.epochs:
            _epoch(job, state, optimizer, schedule, file, bar)
    _load_best(job, state)
    return state.curve


def _epoch(job: TrainingJob, state: _State, optimizer: Any, schedule: Any, file: Path, bar: Any) -> None:
    batches = job.plan(state.epoch)
    started, tokens = time.monotonic(), 0
    while state.step_in_epoch < len(batches):
        job.module.train()
        batch = batches[state.step_in_epoch]()
        loss, figures = job.loss(batch, state.step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_((p for p in job.module.parameters() if p.requires_grad), 1.0)
        optimizer.step()
        schedule.step()
        state.step += 1
        state.step_in_epoch += 1
        tokens += batch.ids.numel()
        for name, value in figures.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        bar.update(1)
        bar.set_postfix_str(f"epoch {state.epoch + 1}/{job.epochs} loss {figures['loss']:.3f}", refresh=False)
        if state.step_in_epoch % CHECKPOINT_STEPS == 0 and state.step_in_epoch < len(batches):
            _save(file, job, optimizer, schedule, state)
    row = {"epoch": state.epoch + 1, **{name: value / len(batches) for name, value in state.sums.items()}}
    row["tokens_per_second"] = tokens / max(time.monotonic() - started, 1e-9)
    state.epoch, state.step_in_epoch, state.sums = state.epoch + 1, 0, {}
    _validate(job, state, row)
    state.curve.append(row)
    _save(file, job, optimizer, schedule, state)
    for old in job.checkpoints.glob(f"{job.name}-best-*.pt"):
        if old != _best_file(job, state):
            old.unlink()


def _validate(job: TrainingJob, state: _State, row: dict[str, float]) -> None:
    last = state.epoch == job.epochs
    if job.validate is None or not (last or state.epoch % job.validate_every == 0):
        return
    job.module.eval()
    row["validation"] = job.validate()
    say(f"{job.name}: epoch {state.epoch}: loss {row['loss']:.4f}, validation NDCG@10 {row['validation']:.4f}")
    if row["validation"] > state.best:
        state.best, state.best_epoch = row["validation"], state.epoch
        job.checkpoints.mkdir(parents=True, exist_ok=True)
        with whole_file(_best_file(job, state)) as draft:
            torch.save(job.keep.state_dict(), draft)


def _best_file(job: TrainingJob, state: _State) -> Path:
    return job.checkpoints / f"{job.name}-best-{state.best_epoch}.pt"


def _load_best(job: TrainingJob, state: _State) -> None:
    if state.best_epoch >= 0:
        job.keep.load_state_dict(torch.load(_best_file(job, state), weights_only=True))


def _cosine(job: TrainingJob) -> Callable[[int], float]:
    """A linear rise over the warm-up, then half a cosine down to zero."""
    total = max(1, job.epochs * job.steps_an_epoch)
    warmup = max(1, int(total * job.warmup_share)) if job.warmup_share else 0

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    return factor


def _save(file: Path, job: TrainingJob, optimizer: Any, schedule: Any, state: _State) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as draft:
        torch.save(
            {
                "module": job.module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "random": torch.get_rng_state(),
                "state": vars(state),
            },
            draft,
        )


def _resume(file: Path, job: TrainingJob, optimizer: Any, schedule: Any) -> _State:
    if not file.is_file():
        return _State()
    saved = torch.load(file, weights_only=True)
    job.module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    torch.set_rng_state(saved["random"])
    state = _State(**saved["state"])
    say(f"{job.name}: going on from epoch {state.epoch + 1}, step {state.step} ({file})")
    return state
