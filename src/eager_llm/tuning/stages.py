"""Stage 1 tunes the backbone on all tasks; stage 2 anneals an adapter on `seqrec` alone."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eager_llm.prompts.builder import Example, PromptBuilder, Trajectory, thinned
from eager_llm.settings import Settings, TaskSettings
from eager_llm.tuning.batches import collate, plan_batches
from eager_llm.tuning.distributed_context import DistributedContext
from eager_llm.tuning.global_contrast import GlobalContrast
from eager_llm.tuning.loss import Levels, TuningLoss
from eager_llm.tuning.trainer import TrainingJob, fit

NO_TEXT_TASKS = dict.fromkeys(
    ("item2index", "index2item", "fusionseqrec", "itemsearch", "preferenceobtain"), 0.0
)
SEQREC_ONLY = TaskSettings(seqrec=1.0, **NO_TEXT_TASKS)
Curve = list[dict[str, float]]


def stage_one(
    model: Any,
    book: PromptBuilder,
    train: list[Trajectory],
    embeddings: dict[str, np.ndarray],
    settings: Settings,
    checkpoints: Path,
    validate: Callable[[], float] | None = None,
) -> Curve:
    """Tune the whole backbone in place, with global contrast; returns the curve."""
    tuning = settings.tuning
    torch.manual_seed(settings.seed)
    contrast = None
    if tuning.contrast_weight > 0:
        width = model.get_input_embeddings().embedding_dim
        contrast = GlobalContrast(
            width, embeddings, tuning.contrast_negatives, tuning.contrast_temperature
        )
    shares = tuning.tasks if tuning.text_tasks else tuning.tasks.replace(**NO_TEXT_TASKS)
    job = _job("stage-1", model, contrast, book, train, shares, settings, checkpoints)
    return fit(
        replace(
            job,
            epochs=tuning.epochs,
            learning_rate=tuning.learning_rate,
            weight_decay=tuning.weight_decay,
            warmup_share=tuning.warmup_share,
            validate=None if job.context.sharded else validate,
            validate_every=tuning.validate_every,
        )
    )


def stage_two(
    model: Any, book: PromptBuilder, train: list[Trajectory], settings: Settings, checkpoints: Path
) -> tuple[Any, Curve]:
    """Tune the annealing adapter alone; returns the PEFT model and the curve.

    Args:
        model: a PEFT model, whose adapter is tuned further, or a plain one, which gets one.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    annealing = settings.annealing
    torch.manual_seed(settings.seed)
    if isinstance(model, PeftModel):
        curve = fit(_job("stage-2", model, None, book, train, SEQREC_ONLY, settings, checkpoints))
        return model.eval(), curve
    # "all-linear" leaves the output layer out: tied to the input embeddings, it must stay as it is.
    config = LoraConfig(
        r=annealing.rank,
        lora_alpha=annealing.alpha,
        lora_dropout=annealing.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    curve = fit(_job("stage-2", adapted, None, book, train, SEQREC_ONLY, settings, checkpoints))
    return adapted.eval(), curve


def _job(
    name: str,
    model: Any,
    contrast: GlobalContrast | None,
    book: PromptBuilder,
    train: list[Trajectory],
    shares: TaskSettings,
    settings: Settings,
    checkpoints: Path,
) -> TrainingJob:
    """Return what both stages have in common, with stage 2's schedule."""
    tuning, annealing = settings.tuning, settings.annealing
    context = DistributedContext(tuning.sharded)
    levels = (
        Levels(book.item_tokens, model.get_input_embeddings().num_embeddings)
        if tuning.loss == "level"
        else None
    )
    loss = TuningLoss(
        context.training_copy(model),
        contrast,
        tuning.contrast_weight,
        levels,
        tuning.loss_tokens,
        settings.seed,
        _precision(settings),
    )
    plan = partial(_plan, book, train, shares, settings, int(name[-1]))
    return TrainingJob(
        name=name,
        module=loss.to(model.device),
        plan=plan,
        collate=partial(collate, padding=book.tokenizer.pad_token_id or 0),
        steps_an_epoch=-(-len(plan(0)) // (tuning.accumulate * context.size)),
        epochs=annealing.epochs,
        learning_rate=annealing.learning_rate,
        weight_decay=0.0,
        warmup_share=0.0,
        checkpoints=checkpoints,
        keep=model,
        fingerprint=_fingerprint(book, train, settings),
        accumulate=tuning.accumulate,
        events=Path(tuning.tensorboard) if tuning.tensorboard else None,
        context=context,
    )


def _plan(
    book: PromptBuilder,
    train: list[Trajectory],
    shares: TaskSettings,
    settings: Settings,
    stage: int,
    epoch: int,
) -> list[list[Example]]:
    """Draw an epoch from the seed, the stage and its number alone, so that a resumed job agrees."""
    rng = np.random.default_rng((settings.seed, stage, epoch))
    if settings.tuning.item_dropout:
        train = [thinned(trajectory, settings.tuning.item_dropout, rng) for trajectory in train]
    examples = book.epoch(train, shares, rng)
    batches = plan_batches(examples, settings.tuning.batch_tokens, rng)
    return [[examples[number] for number in batch] for batch in batches]


def _precision(settings: Settings) -> torch.dtype:
    asked = settings.tuning.precision
    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if asked == "bfloat16" or (asked == "auto" and able) else torch.float32


def _fingerprint(book: PromptBuilder, train: list[Trajectory], settings: Settings) -> str:
    """Return a digest of what decides the weights, so that no checkpoint of another job is gone on from."""
    metadata = settings.to_dict()
    metadata["tuning"] = {
        name: value
        for name, value in metadata["tuning"].items()
        if name not in ("tensorboard", "template_file", "restarts")
    }
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    digest.update(book.file.read_bytes())
    digest.update(np.ascontiguousarray(book.item_tokens).data)
    digest.update(repr([(one.items, one.intention, one.preference) for one in train]).encode())
    return digest.hexdigest()
