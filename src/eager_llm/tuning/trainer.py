"""The training loop: resumable to the bit, the best validated epoch kept, alone or in a team."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eager_llm.core.compute import quick_products
from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file
from eager_llm.core.progress import progress, say
from eager_llm.prompts.builder import Example
from eager_llm.tuning.batches import Batch
from eager_llm.tuning.distributed_context import DistributedContext
from eager_llm.tuning.loss import Totals
from eager_llm.tuning.tensorboard import Events

CHECKPOINT_STEPS = 200


@dataclass
class TrainingJob:
    """What `fit` runs.

    Attributes:
        name: shown in the progress, and the name of the checkpoint.
        module: everything with weights that training needs; (batch, totals, step) -> the batch's share of
            the step's loss, with figures to log.
        plan: epoch -> the epoch's batches; the same for the same epoch, always.
        collate: turns examples into a batch.
        steps_an_epoch: an estimate is enough; it shapes the learning rate.
        keep: what is left with the best weights: the model that validation judges.
        fingerprint: of the settings and data; a checkpoint of others is refused.
        accumulate: batches a step, on each process.
        validate: () -> a figure that grows with quality, or None to keep the last epoch.
        events: folder of TensorBoard's files, or None.
    """

    name: str
    module: nn.Module
    plan: Callable[[int], list[list[Example]]]
    collate: Callable[[list[Example]], Batch]
    steps_an_epoch: int
    epochs: int
    learning_rate: float
    weight_decay: float
    warmup_share: float
    checkpoints: Path
    keep: nn.Module
    fingerprint: str = ""
    accumulate: int = 1
    validate: Callable[[], float] | None = None
    validate_every: int = 1
    events: Path | None = None
    context: DistributedContext = field(default_factory=DistributedContext)


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

    Raises:
        UserError: the checkpoint belongs to other settings or data.
    """
    module = job.context.wrap(job.module)
    trained = [p for p in job.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=job.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(job))
    file = job.checkpoints / f"{job.name}.pt"
    state = _resume(file, job, optimizer, schedule)
    # A resumed bar starts where the job stopped.
    total = job.epochs * job.steps_an_epoch
    bar = progress(
        total=total,
        initial=min(state.step, total),
        desc=job.name,
        unit="step",
        disable=not job.context.is_main_process,
    )
    events = Events(
        job.events / job.name if job.events and job.context.is_main_process else None, state.step
    )
    with bar, events:
        while state.epoch < job.epochs:
            _epoch(job, module, state, optimizer, schedule, file, bar, events)
    _load_best(job, state, file)
    return state.curve


def _epoch(
    job: TrainingJob,
    module: nn.Module,
    state: _State,
    optimizer: Any,
    schedule: Any,
    file: Path,
    bar: Any,
    events: Events,
) -> None:
    batches, size = job.plan(state.epoch), job.accumulate * job.context.size
    steps = [batches[start : start + size] for start in range(0, len(batches), size)]
    started, tokens = time.monotonic(), 0
    while state.step_in_epoch < len(steps):
        step = steps[state.step_in_epoch]
        optimizer.zero_grad()
        figures = _backward(job, module, step, state.step)
        nn.utils.clip_grad_norm_((p for p in job.module.parameters() if p.requires_grad), 1.0)
        events.write(state.step, {**figures, "learning_rate": schedule.get_last_lr()[0]})
        optimizer.step()
        schedule.step()
        state.step += 1
        state.step_in_epoch += 1
        tokens += sum(len(example.ids) for batch in step for example in batch)
        for name, value in figures.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        bar.update(1)
        pace = tokens / max(time.monotonic() - started, 1e-9)
        text = (
            f"epoch {state.epoch + 1}/{job.epochs} loss {figures['loss']:.3f} {pace:,.0f} tokens/s"
        )
        bar.set_postfix_str(text, refresh=False)
        if state.step_in_epoch % CHECKPOINT_STEPS == 0 and state.step_in_epoch < len(steps):
            _save(file, job, optimizer, schedule, state)
    row = {
        "epoch": state.epoch + 1,
        **{name: value / len(steps) for name, value in state.sums.items()},
    }
    row["tokens_per_second"] = tokens / max(time.monotonic() - started, 1e-9)
    state.epoch, state.step_in_epoch, state.sums = state.epoch + 1, 0, {}
    _validate(job, state, row)
    state.curve.append(row)
    events.write(state.step, {f"epoch/{name}": value for name, value in row.items()})
    _save(file, job, optimizer, schedule, state)
    for old in job.checkpoints.glob(f"{job.name}-best-*.pt") if job.context.is_main_process else ():
        if old != _best_file(job, state):
            old.unlink()


def _backward(
    job: TrainingJob, module: nn.Module, step: list[list[Example]], number: int
) -> dict[str, float]:
    """Leave the step's gradients, each process doing its share of the batches; returns the step's figures."""
    context = job.context
    learned = sum(sum(example.learn[1:]) for batch in step for example in batch)
    answers = sum(len(example.item_end_positions) for batch in step for example in batch)
    totals = Totals(max(1, learned), max(1, answers), context.size)
    device = next(job.module.parameters()).device
    mine, rounds = step[context.rank :: context.size], -(-len(step) // context.size)
    figures: dict[str, float] = {}
    job.module.train()
    for turn in range(rounds):
        # All take part in every exchange of gradients: whoever has no batch left adds nothing to it.
        idle = turn >= len(mine)
        batch = job.collate(step[0] if idle else mine[turn]).to(device)
        with _quiet(module, turn + 1 < rounds), quick_products(device.type, *batch.ids.shape):
            loss, found = module(batch, totals, number)
            (loss * 0 if idle else loss).backward()
        for name, value in found.items():
            figures[name] = figures.get(name, 0.0) + (0.0 if idle else value)
    return context.all_reduce(figures)


def _quiet(module: nn.Module, waits: bool) -> AbstractContextManager:
    """Keep the gradients here until the step's last batch."""
    return (
        module.no_sync()
        if waits and isinstance(module, nn.parallel.DistributedDataParallel)
        else nullcontext()
    )


def _validate(job: TrainingJob, state: _State, row: dict[str, float]) -> None:
    last = state.epoch == job.epochs
    if job.validate is None or not (last or state.epoch % job.validate_every == 0):
        return
    job.module.eval()
    row["validation"] = job.context.broadcast(
        job.validate() if job.context.is_main_process else None
    )
    better = row["validation"] > state.best
    if better:
        state.best, state.best_epoch = row["validation"], state.epoch
    if not job.context.is_main_process:
        return
    say(
        f"{job.name}: epoch {state.epoch}: loss {row['loss']:.4f}, validation NDCG@10 {row['validation']:.4f}"
    )
    if better:
        job.checkpoints.mkdir(parents=True, exist_ok=True)
        with whole_file(_best_file(job, state)) as draft:
            torch.save(job.keep.state_dict(), draft)


def _best_file(job: TrainingJob, state: _State) -> Path:
    return job.checkpoints / f"{job.name}-best-{state.best_epoch}.pt"


def _load_best(job: TrainingJob, state: _State, file: Path) -> None:
    job.context.broadcast(None)
    if job.context.sharded:  # the last checkpoint holds whole weights
        saved = torch.load(file, weights_only=True, map_location="cpu")["module"]
        job.keep.load_state_dict(
            {
                name.removeprefix("model."): v
                for name, v in saved.items()
                if name.startswith("model.")
            }
        )
    elif state.best_epoch >= 0:
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
    random = job.context.all_gather(_random_state())
    weights, moments = job.context.states(job.module, optimizer)
    if not job.context.is_main_process:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as draft:
        torch.save(
            {
                "fingerprint": job.fingerprint,
                "module": weights,
                "optimizer": moments,
                "schedule": schedule.state_dict(),
                "random": random,
                "state": vars(state),
            },
            draft,
        )


def _resume(file: Path, job: TrainingJob, optimizer: Any, schedule: Any) -> _State:
    if not file.is_file():
        return _State()
    saved = torch.load(file, weights_only=True, map_location="cpu")
    if saved["fingerprint"] != job.fingerprint:
        raise UserError(
            f"{file}: the checkpoint belongs to other settings or data; name another folder or remove it"
        )
    job.context.restore(job.module, optimizer, (saved["module"], saved["optimizer"]))
    schedule.load_state_dict(saved["schedule"])
    torch.set_rng_state(saved["random"][job.context.rank]["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["random"][job.context.rank]["cuda"])
    state = _State(**saved["state"])
    if job.context.is_main_process:
        say(f"{job.name}: going on from epoch {state.epoch + 1}, step {state.step} ({file})")
    return state


def _random_state() -> dict[str, torch.Tensor]:
    """Return what this process draws from: dropout's source on its device too."""
    return {"cpu": torch.get_rng_state()} | (
        {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    )
