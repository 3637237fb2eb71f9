"""What the training loop runs, and how far it has come."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from eager_llm.prompts.builder import Example
from eager_llm.tuning.batches import Batch
from eager_llm.tuning.distributed_context import DistributedContext

Figures = dict[str, float]
# The batches of one step of the optimizer, on all processes.
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

    def weights(self) -> Iterator[nn.Parameter]:
        """Yield the weights that are trained."""
        for parameter in self.module.parameters():
            if parameter.requires_grad:
                yield parameter


@dataclass
class TrainingState:
    """How far a job has come; saved with every checkpoint.

    Attributes:
        epoch: number of finished epochs.
        step_in_epoch: number of finished steps of the current epoch.
        step: number of finished steps of all epochs.
        best: the best validation figure.
        best_epoch: the epoch that has it, from 1; -1 before the first validation.
        sums: of each figure over the steps of the current epoch.
        curve: a row an epoch.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    sums: Figures = field(default_factory=dict)
    curve: list[Figures] = field(default_factory=list)

    def end_step(self, figures: Figures) -> None:
        """Count a step and its figures."""
        self.step += 1
        self.step_in_epoch += 1
        add_figures(self.sums, figures)

    def end_epoch(self) -> None:
        """Count an epoch; the next one starts without steps."""
        self.epoch += 1
        self.step_in_epoch = 0
        self.sums = {}


@dataclass
class TrainingRun:
    """A job with everything that changes while it trains.

    Attributes:
        module: the job's, wrapped for all processes.
    """

    job: TrainingJob
    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    state: TrainingState = field(default_factory=TrainingState)


def add_figures(sums: Figures, figures: Figures) -> None:
    """Add figures to their sums, in place."""
    for name, value in figures.items():
        total = sums.get(name, 0.0)
        sums[name] = total + value
