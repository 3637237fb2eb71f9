"""The training loop: resumed to the bit, ended with the best validated epoch, on any processes."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eager_llm.core.compute import fast_cpu_kernels
from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file
from eager_llm.core.progress import progress, say
from eager_llm.prompts.builder import Example
from eager_llm.tuning.batches import Batch
from eager_llm.tuning.distributed_context import DistributedContext
from eager_llm.tuning.loss import Totals
from eager_llm.tuning.tensorboard import EventWriter

CHECKPOINT_STEPS = 200
MAX_GRADIENT_NORM = 1.0

Figures = dict[str, float]
# The batches of one step, on all processes.
Step = list[list[Example]]


@dataclass
class TrainingJob:
    """What `fit` runs.

    Attributes:
        name: shown in the progress, and the name of the checkpoint.
        module: everything with weights that training needs; (batch, totals, step) -> the batch's
            share of the step's loss, with figures to log.
        plan_epoch: epoch -> the epoch's batches; always the same ones for the same epoch.
        collate: turns examples into a batch.
        steps_per_epoch: an estimate is enough; it shapes the learning rate.
        warmup_share: share of all steps in which the learning rate rises.
        checkpoints: folder of the checkpoints.
        model: the model that is validated; `fit` leaves it with the best weights.
        fingerprint: of the settings and data; a checkpoint of others is refused.
        accumulate: batches of a step, on each process.
        validate: () -> a figure that grows with quality; None keeps the last epoch.
        validate_every: epochs from one validation to the next.
        events: folder of TensorBoard's files, or None.
        context: the processes that train together.
    """

    name: str
    module: nn.Module
    plan_epoch: Callable[[int], list[list[Example]]]
    collate: Callable[[list[Example]], Batch]
    steps_per_epoch: int
    epochs: int
    learning_rate: float
    weight_decay: float
    warmup_share: float
    checkpoints: Path
    model: nn.Module
    fingerprint: str = ""
    accumulate: int = 1
    validate: Callable[[], float] | None = None
    validate_every: int = 1
    events: Path | None = None
    context: DistributedContext = field(default_factory=DistributedContext)

    @property
    def checkpoint(self) -> Path:
        """The file that the job resumes from."""
        return self.checkpoints / f"{self.name}.pt"

    def weights(self) -> Iterator[nn.Parameter]:
        """Yield the weights that are trained."""
        for parameter in self.module.parameters():
            if parameter.requires_grad:
                yield parameter


@dataclass
class _State:
    """How far a job has come; saved with every checkpoint."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    sums: Figures = field(default_factory=dict)
    curve: list[Figures] = field(default_factory=list)


@dataclass
class _Run:
    """A job with everything that changes while it trains."""

    job: TrainingJob
    module: nn.Module  # wrapped for all processes
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    state: _State = field(default_factory=_State)


def fit(job: TrainingJob) -> list[Figures]:
    """Train, or resume from the last checkpoint, and leave `job.model` with the best weights.

    Returns:
        The curve: for each epoch its losses, tokens a second and validation figure.

    Raises:
        UserError: the checkpoint belongs to other settings or data.
    """
    module = job.context.wrap(job.module)
    optimizer = torch.optim.AdamW(
        list(job.weights()), lr=job.learning_rate, weight_decay=job.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(job))
    run = _Run(job, module, optimizer, schedule)
    _resume(run)
    state = run.state
    is_main_process = job.context.is_main_process
    event_folder = None
    if job.events is not None and is_main_process:
        event_folder = job.events / job.name
    # A resumed bar starts where the job stopped.
    total = job.epochs * job.steps_per_epoch
    bar = progress(
        total=total,
        initial=min(state.step, total),
        desc=job.name,
        unit="step",
        disable=not is_main_process,
    )
    with bar, EventWriter(event_folder, state.step) as events:
        while state.epoch < job.epochs:
            _epoch(run, bar, events)
    _load_best(run)
    return state.curve


def _epoch(run: _Run, bar: Any, events: EventWriter) -> None:
    """Train the rest of an epoch, validate it, and save it."""
    job, state = run.job, run.state
    steps = _steps(job, state.epoch)
    started = time.monotonic()
    tokens = 0
    while state.step_in_epoch < len(steps):
        step = steps[state.step_in_epoch]
        figures = _train_step(run, step, events)
        tokens += _count_tokens(step)
        bar.update(1)
        pace = _pace(tokens, started)
        text = f"epoch {state.epoch + 1}/{job.epochs} loss {figures['loss']:.3f}"
        bar.set_postfix_str(f"{text} {pace:,.0f} tokens/s", refresh=False)
        if state.step_in_epoch % CHECKPOINT_STEPS == 0 and state.step_in_epoch < len(steps):
            _save(run)
    row = {"epoch": state.epoch + 1}
    for name, value in state.sums.items():
        row[name] = value / len(steps)
    row["tokens_per_second"] = _pace(tokens, started)
    state.epoch += 1
    state.step_in_epoch = 0
    state.sums = {}
    _validate(run, row)
    state.curve.append(row)
    events.write(state.step, {f"epoch/{name}": value for name, value in row.items()})
    _save(run)
    _remove_outdated(run)


def _steps(job: TrainingJob, epoch: int) -> list[Step]:
    """Return the epoch's batches, grouped into the steps of all processes."""
    batches = job.plan_epoch(epoch)
    size = job.accumulate * job.context.size
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def _count_tokens(step: Step) -> int:
    return sum(len(example.ids) for batch in step for example in batch)


def _pace(tokens: int, started: float) -> float:
    """Return the tokens a second since a moment of the monotonic clock."""
    return tokens / max(time.monotonic() - started, 1e-9)


def _train_step(run: _Run, step: Step, events: EventWriter) -> Figures:
    """Make one step of the optimizer; returns its figures."""
    state = run.state
    run.optimizer.zero_grad()
    figures = _backward(run.job, run.module, step, state.step)
    nn.utils.clip_grad_norm_(run.job.weights(), MAX_GRADIENT_NORM)
    learning_rate = run.schedule.get_last_lr()[0]
    events.write(state.step, {**figures, "learning_rate": learning_rate})
    run.optimizer.step()
    run.schedule.step()
    state.step += 1
    state.step_in_epoch += 1
    _add(state.sums, figures)
    return figures


def _backward(job: TrainingJob, module: nn.Module, step: Step, number: int) -> Figures:
    """Leave the step's gradients, each process for its batches; returns the step's figures."""
    context = job.context
    totals = _totals(step, context.size)
    device = next(job.module.parameters()).device
    batches = step[context.rank :: context.size]
    rounds = math.ceil(len(step) / context.size)
    sums: Figures = {}
    job.module.train()
    for turn in range(rounds):
        # All take part in every exchange of gradients: a process without a batch adds nothing.
        idle = turn >= len(batches)
        examples = step[0] if idle else batches[turn]
        batch = job.collate(examples).to(device)
        waits = turn + 1 < rounds
        with _no_sync(module, waits), fast_cpu_kernels(device.type, *batch.ids.shape):
            loss, figures = module(batch, totals, number)
            if idle:
                loss = loss * 0
                figures = dict.fromkeys(figures, 0.0)
            loss.backward()
        _add(sums, figures)
    return context.all_reduce(sums)


def _totals(step: Step, processes: int) -> Totals:
    """Return what the losses of a step's batches are divided by."""
    target_tokens = 0
    item_ends = 0
    for batch in step:
        for example in batch:
            target_tokens += sum(example.loss_mask[1:])  # nothing predicts the first token
            item_ends += len(example.item_end_positions)
    return Totals(max(1, target_tokens), max(1, item_ends), processes)


def _no_sync(module: nn.Module, waits: bool) -> AbstractContextManager[None]:
    """Keep the gradients on this process until the step's last batch."""
    if waits and isinstance(module, nn.parallel.DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def _add(sums: Figures, figures: Figures) -> None:
    for name, value in figures.items():
        sums[name] = sums.get(name, 0.0) + value


def _validate(run: _Run, row: Figures) -> None:
    """Validate where it is due; the best epoch so far is saved."""
    job, state = run.job, run.state
    last = state.epoch == job.epochs
    due = last or state.epoch % job.validate_every == 0
    if job.validate is None or not due:
        return
    is_main_process = job.context.is_main_process
    job.module.eval()
    row["validation"] = job.context.broadcast(job.validate() if is_main_process else None)
    better = row["validation"] > state.best
    if better:
        state.best = row["validation"]
        state.best_epoch = state.epoch
    if not is_main_process:
        return
    say(
        f"{job.name}: epoch {state.epoch}: loss {row['loss']:.4f}, "
        f"validation NDCG@10 {row['validation']:.4f}"
    )
    if better:
        job.checkpoints.mkdir(parents=True, exist_ok=True)
        with whole_file(_best_file(run)) as draft:
            torch.save(job.model.state_dict(), draft)


def _best_file(run: _Run) -> Path:
    return run.job.checkpoints / f"{run.job.name}-best-{run.state.best_epoch}.pt"


def _remove_outdated(run: _Run) -> None:
    """Remove the weights of every epoch that is no longer the best."""
    job = run.job
    if not job.context.is_main_process:
        return
    for file in job.checkpoints.glob(f"{job.name}-best-*.pt"):
        if file != _best_file(run):
            file.unlink()


def _load_best(run: _Run) -> None:
    job = run.job
    job.context.broadcast(None)
    if job.context.sharded:  # the last checkpoint holds whole weights
        checkpoint = torch.load(job.checkpoint, weights_only=True, map_location="cpu")
        weights: dict[str, torch.Tensor] = {}
        for name, weight in checkpoint["module"].items():
            if name.startswith("model."):
                weights[name.removeprefix("model.")] = weight
        job.model.load_state_dict(weights)
    elif run.state.best_epoch >= 0:
        job.model.load_state_dict(torch.load(_best_file(run), weights_only=True))


def _cosine(job: TrainingJob) -> Callable[[int], float]:
    """Return the factor of the learning rate: a linear rise, then half a cosine down to zero."""
    total = max(1, job.epochs * job.steps_per_epoch)
    warmup = 0
    if job.warmup_share:
        warmup = max(1, int(total * job.warmup_share))

    def factor(step: int) -> float:
        """Return the factor of one step."""
        if step < warmup:
            return (step + 1) / warmup
        share = min(1.0, (step - warmup) / max(1, total - warmup))
        return 0.5 * (1 + math.cos(math.pi * share))

    return factor


def _save(run: _Run) -> None:
    job = run.job
    random_states = job.context.all_gather(_random_state())
    weights, moments = job.context.states(job.module, run.optimizer)
    if not job.context.is_main_process:
        return
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "fingerprint": job.fingerprint,
        "module": weights,
        "optimizer": moments,
        "schedule": run.schedule.state_dict(),
        "random": random_states,
        "state": vars(run.state),
    }
    with whole_file(job.checkpoint) as draft:
        torch.save(checkpoint, draft)


def _resume(run: _Run) -> None:
    """Continue from the job's checkpoint, if there is one."""
    job = run.job
    if not job.checkpoint.is_file():
        return
    checkpoint = torch.load(job.checkpoint, weights_only=True, map_location="cpu")
    if checkpoint["fingerprint"] != job.fingerprint:
        raise UserError(
            f"{job.checkpoint}: the checkpoint belongs to other settings or data; "
            "name another folder or remove it"
        )
    states = (checkpoint["module"], checkpoint["optimizer"])
    job.context.restore(job.module, run.optimizer, states)
    run.schedule.load_state_dict(checkpoint["schedule"])
    random_state = checkpoint["random"][job.context.rank]
    torch.set_rng_state(random_state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(random_state["cuda"])
    run.state = _State(**checkpoint["state"])
    if job.context.is_main_process:
        say(
            f"{job.name}: going on from epoch {run.state.epoch + 1}, "
            f"step {run.state.step} ({job.checkpoint})"
        )


def _random_state() -> dict[str, torch.Tensor]:
    """Return the state that this process draws from; dropout draws on its device, too."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
