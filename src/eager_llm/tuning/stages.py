"""Stage 1 tunes the backbone on all tasks; stage 2 anneals an adapter on `seqrec` alone."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eager_llm.prompts.builder import Example, PromptBuilder
from eager_llm.settings import Settings, TaskSettings
from eager_llm.tuning.batches import collate, plan_batches
from eager_llm.tuning.distributed_context import DistributedContext
from eager_llm.tuning.examples import draw_epoch
from eager_llm.tuning.global_contrast import GlobalContrast
from eager_llm.tuning.loss import Levels, TuningLoss
from eager_llm.tuning.trainer import fit
from eager_llm.tuning.training_job import TrainingJob
from eager_llm.tuning.trajectories import Trajectory, drop_items

STAGE_ONE = "stage-1"
STAGE_TWO = "stage-2"
TEXT_TASKS = ("item2index", "index2item", "fusionseqrec", "itemsearch", "preferenceobtain")
NO_TEXT_TASKS = dict.fromkeys(TEXT_TASKS, 0.0)
SEQREC_ONLY = TaskSettings(seqrec=1.0, **NO_TEXT_TASKS)
# Settings that leave the weights as they are.
NOT_IN_FINGERPRINT = ("tensorboard", "template_file", "restarts")

Curve = list[dict[str, float]]


def stage_one(
    model: Any,
    prompt_builder: PromptBuilder,
    train: list[Trajectory],
    embeddings: dict[str, np.ndarray],
    settings: Settings,
    checkpoints: Path,
    validate: Callable[[], float] | None = None,
) -> Curve:
    """Tune the whole backbone in place, with global contrast; returns the curve.

    Args:
        embeddings: source -> float32 [items, dimensions], for the contrast.
        checkpoints: folder to resume from.
        validate: see `TrainingJob`; not used where the weights are sharded.
    """
    tuning = settings.tuning
    torch.manual_seed(settings.seed)
    contrast = None
    if tuning.contrast_weight > 0:
        width = model.get_input_embeddings().embedding_dim
        contrast = GlobalContrast(
            width, embeddings, tuning.contrast_negatives, tuning.contrast_temperature
        )
    shares = tuning.tasks
    if not tuning.text_tasks:
        shares = shares.replace(**NO_TEXT_TASKS)
    job = _job(STAGE_ONE, model, contrast, prompt_builder, train, shares, settings, checkpoints)
    job = replace(
        job,
        epochs=tuning.epochs,
        learning_rate=tuning.learning_rate,
        weight_decay=tuning.weight_decay,
        warmup_share=tuning.warmup_share,
        validate=None if job.context.sharded else validate,
        validate_every=tuning.validate_every,
    )
    return fit(job)


def stage_two(
    model: Any,
    prompt_builder: PromptBuilder,
    train: list[Trajectory],
    settings: Settings,
    checkpoints: Path,
) -> tuple[Any, Curve]:
    """Tune the annealing adapter alone; returns the PEFT model and the curve.

    Args:
        model: a PEFT model, whose adapter is tuned further, or a causal LM, which gets one.
        checkpoints: folder to resume from.
    """
    from peft import PeftModel

    torch.manual_seed(settings.seed)
    adapted = model if isinstance(model, PeftModel) else _with_adapter(model, settings)
    job = _job(STAGE_TWO, adapted, None, prompt_builder, train, SEQREC_ONLY, settings, checkpoints)
    curve = fit(job)
    return adapted.eval(), curve


def _with_adapter(model: Any, settings: Settings) -> Any:
    from peft import LoraConfig, get_peft_model

    annealing = settings.annealing
    # "all-linear" leaves the output layer out: tied to the input embeddings, it must not change.
    config = LoraConfig(
        r=annealing.rank,
        lora_alpha=annealing.alpha,
        lora_dropout=annealing.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _job(
    name: str,
    model: Any,
    contrast: GlobalContrast | None,
    prompt_builder: PromptBuilder,
    train: list[Trajectory],
    shares: TaskSettings,
    settings: Settings,
    checkpoints: Path,
) -> TrainingJob:
    """Return what both stages have in common, with stage 2's schedule."""
    tuning = settings.tuning
    context = DistributedContext(tuning.sharded)
    loss = TuningLoss(
        context.training_copy(model),
        contrast,
        tuning.contrast_weight,
        _levels(model, prompt_builder, settings),
        tuning.loss_tokens,
        settings.seed,
        _precision(settings),
    )
    plan = _EpochPlan(prompt_builder, train, shares, settings, stage=int(name[-1]))
    batches_per_step = tuning.accumulate * context.size
    return TrainingJob(
        name=name,
        module=loss.to(model.device),
        plan_epoch=plan,
        collate=partial(collate, padding=prompt_builder.tokenizer.pad_token_id or 0),
        steps_per_epoch=math.ceil(len(plan(0)) / batches_per_step),
        epochs=settings.annealing.epochs,
        learning_rate=settings.annealing.learning_rate,
        weight_decay=0.0,
        warmup_share=0.0,
        checkpoints=checkpoints,
        model=model,
        fingerprint=_fingerprint(prompt_builder, train, settings),
        accumulate=tuning.accumulate,
        events=Path(tuning.tensorboard) if tuning.tensorboard else None,
        context=context,
    )


def _levels(model: Any, prompt_builder: PromptBuilder, settings: Settings) -> Levels | None:
    """Return the levels where the loss is over a level; None where it is over the vocabulary."""
    if settings.tuning.loss != "level":
        return None
    return Levels(prompt_builder.item_tokens, model.get_input_embeddings().num_embeddings)


@dataclass(frozen=True)
class _EpochPlan:
    """Draws the batches of an epoch; see `TrainingJob.plan_epoch`."""

    prompt_builder: PromptBuilder
    train: list[Trajectory]
    shares: TaskSettings
    settings: Settings
    stage: int

    def __call__(self, epoch: int) -> list[list[Example]]:
        """Draw from the seed, the stage and the epoch alone, so that a resumed job agrees."""
        tuning = self.settings.tuning
        rng = np.random.default_rng((self.settings.seed, self.stage, epoch))
        train = self.train
        if tuning.item_dropout:
            train = [drop_items(trajectory, tuning.item_dropout, rng) for trajectory in train]
        examples = draw_epoch(self.prompt_builder, train, self.shares, rng)
        batches = plan_batches(examples, tuning.batch_tokens, rng)
        return [_select(examples, numbers) for numbers in batches]


def _select(examples: list[Example], numbers: list[int]) -> list[Example]:
    return [examples[number] for number in numbers]


def _precision(settings: Settings) -> torch.dtype:
    precision = settings.tuning.precision
    if precision == "auto":
        supported = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if supported else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _fingerprint(prompt_builder: PromptBuilder, train: list[Trajectory], settings: Settings) -> str:
    """Return a digest of everything that decides the weights.

    A checkpoint with another fingerprint belongs to another job, and is refused.
    """
    values = settings.to_dict()
    for name in NOT_IN_FINGERPRINT:
        del values["tuning"][name]
    trajectories = [(path.items, path.intention, path.preference) for path in train]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    digest.update(prompt_builder.template_file.read_bytes())
    digest.update(np.ascontiguousarray(prompt_builder.item_tokens).data)
    digest.update(repr(trajectories).encode())
    return digest.hexdigest()
