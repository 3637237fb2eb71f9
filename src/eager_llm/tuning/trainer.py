"""The training loop: resumed to the bit, ended with the best validated epoch, on any processes."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from eager_llm.core.compute import fast_cpu_kernels
from eager_llm.core.progress import progress, say
from eager_llm.tuning.checkpoint import (
    load_best,
    remove_outdated,
    resume,
    save_best,
    save_checkpoint,
)
from eager_llm.tuning.loss import Totals
from eager_llm.tuning.tensorboard import EventWriter
from eager_llm.tuning.training_job import (
    Figures,
    Step,
    TrainingJob,
    TrainingRun,
    add_figures,
)

CHECKPOINT_STEPS = 200
MAX_GRADIENT_NORM = 1.0


def fit(job: TrainingJob) -> list[Figures]:
    """Train, or resume from the last checkpoint, and leave `job.model` with the best weights.

    Returns:
        The curve: for each epoch its losses, tokens a second and validation figure.

    Raises:
        UserError: the checkpoint belongs to other settings or data.
    """
    run = _start(job)
    resume(run)
    with _bar(run) as bar, _event_writer(run) as events:
        while run.state.epoch < job.epochs:
            _epoch(run, bar, events)
    load_best(run)
    return run.state.curve


def _start(job: TrainingJob) -> TrainingRun:
    module = job.context.wrap(job.module)
    optimizer = torch.optim.AdamW(
        list(job.weights()),
        lr=job.learning_rate,
        weight_decay=job.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(job))
    return TrainingRun(job, module, optimizer, schedule)


def _bar(run: TrainingRun) -> Any:
    """Return the progress bar of all steps; a resumed one starts where the job stopped."""
    job = run.job
    total = job.epochs * job.steps_per_epoch
    return progress(
        total=total,
        initial=min(run.state.step, total),
        desc=job.name,
        unit="step",
        disable=not job.context.is_main_process,
    )


def _event_writer(run: TrainingRun) -> EventWriter:
    job = run.job
    folder = None
    if job.events is not None and job.context.is_main_process:
        folder = job.events / job.name
    return EventWriter(folder, run.state.step)


def _epoch(run: TrainingRun, bar: Any, events: EventWriter) -> None:
    """Train what is left of an epoch, validate it, and save it."""
    job = run.job
    state = run.state
    steps = _steps(job, state.epoch)
    started = time.monotonic()
    tokens = 0
    while state.step_in_epoch < len(steps):
        step = steps[state.step_in_epoch]
        figures = _train_step(run, step, events)
        tokens += _count_tokens(step)
        pace = _pace(tokens, started)
        epoch = f"epoch {state.epoch + 1}/{job.epochs}"
        bar.update(1)
        bar.set_postfix_str(
            f"{epoch} loss {figures['loss']:.3f} {pace:,.0f} tokens/s",
            refresh=False,
        )
        is_due = state.step_in_epoch % CHECKPOINT_STEPS == 0
        if is_due and state.step_in_epoch < len(steps):
            save_checkpoint(run)
    row: Figures = {"epoch": state.epoch + 1}
    for name, value in state.sums.items():
        row[name] = value / len(steps)
    row["tokens_per_second"] = _pace(tokens, started)
    state.end_epoch()
    _validate(run, row)
    state.curve.append(row)
    events.write(state.step, {f"epoch/{name}": value for name, value in row.items()})
    save_checkpoint(run)
    remove_outdated(run)


def _steps(job: TrainingJob, epoch: int) -> list[Step]:
    """Return the epoch's batches, grouped into the steps of all processes."""
    batches = job.plan_epoch(epoch)
    size = job.accumulate * job.context.size
    starts = range(0, len(batches), size)
    return [batches[start : start + size] for start in starts]


def _count_tokens(step: Step) -> int:
    tokens = 0
    for batch in step:
        for example in batch:
            tokens += len(example.ids)
    return tokens


def _pace(tokens: int, started: float) -> float:
    """Return the tokens a second since a time of the monotonic clock."""
    seconds = time.monotonic() - started
    return tokens / max(seconds, 1e-9)


def _train_step(run: TrainingRun, step: Step, events: EventWriter) -> Figures:
    """Make one step of the optimizer; returns its figures."""
    job = run.job
    state = run.state
    run.optimizer.zero_grad()
    figures = _backward(job, run.module, step, state.step)
    nn.utils.clip_grad_norm_(job.weights(), MAX_GRADIENT_NORM)
    learning_rate = float(run.schedule.get_last_lr()[0])
    events.write(state.step, {**figures, "learning_rate": learning_rate})
    run.optimizer.step()
    run.schedule.step()
    state.end_step(figures)
    return figures


def _backward(job: TrainingJob, module: nn.Module, step: Step, number: int) -> Figures:
    """Compute the step's gradients, each process for its own batches.

    Args:
        module: the job's, wrapped for all processes.
        number: of the step.

    Returns:
        The step's figures, over all processes.
    """
    context = job.context
    totals = _totals(step, context.size)
    device = next(job.module.parameters()).device
    batches = step[context.rank :: context.size]
    rounds = math.ceil(len(step) / context.size)
    sums: Figures = {}
    job.module.train()
    for turn in range(rounds):
        # All take part in every exchange of gradients: a process without a batch adds nothing.
        is_idle = turn >= len(batches)
        examples = step[0] if is_idle else batches[turn]
        batch = job.collate(examples).to(device)
        is_last = turn + 1 == rounds
        with _synchronized(module, is_last), fast_cpu_kernels(device.type, *batch.ids.shape):
            loss, figures = module(batch, totals, number)
            if is_idle:
                loss = loss * 0
                figures = dict.fromkeys(figures, 0.0)
            loss.backward()
        add_figures(sums, figures)
    return context.all_reduce(sums)


def _totals(step: Step, processes: int) -> Totals:
    """Return what the losses of a step's batches are divided by."""
    target_tokens = 0
    item_ends = 0
    for batch in step:
        for example in batch:
            target_tokens += sum(example.loss_mask[1:])  # nothing predicts the first token
            item_ends += len(example.item_end_positions)
    return Totals(
        target_tokens=max(1, target_tokens),
        item_ends=max(1, item_ends),
        scale=processes,
    )


def _synchronized(module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Exchange gradients after the last batch of a step alone."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not is_last:
        return module.no_sync()
    return nullcontext()


def _validate(run: TrainingRun, row: Figures) -> None:
    """Validate where it is due, and save the best epoch so far.

    Args:
        row: of the curve; gets the validation figure.
    """
    job = run.job
    state = run.state
    is_due = state.epoch % job.validate_every == 0
    is_last = state.epoch == job.epochs
    if job.validate is None or not (is_due or is_last):
        return
    is_main_process = job.context.is_main_process
    job.module.eval()
    figure = job.validate() if is_main_process else None
    figure = job.context.broadcast(figure)
    row["validation"] = figure
    is_better = figure > state.best
    if is_better:
        state.best = figure
        state.best_epoch = state.epoch
    if not is_main_process:
        return
    say(f"{job.name}: epoch {state.epoch}: loss {row['loss']:.4f}, validation NDCG@10 {figure:.4f}")
    if is_better:
        save_best(run)


def _cosine(job: TrainingJob) -> Callable[[int], float]:
    """Return the factor of the learning rate: a linear rise, then half a cosine down to zero.

    Loshchilov & Hutter, SGDR (2017), without restarts.
    """
    total = max(1, job.epochs * job.steps_per_epoch)
    warmup = 0
    if job.warmup_share:
        warmup = max(1, int(total * job.warmup_share))
    decay = max(1, total - warmup)

    def factor(step: int) -> float:
        """Return the factor of one step."""
        if step < warmup:
            return (step + 1) / warmup
        share = min(1.0, (step - warmup) / decay)
        return 0.5 * (1 + math.cos(math.pi * share))

    return factor
