"""Stage 1 tunes the backbone on all tasks; stage 2 anneals an adapter on `seqrec` alone."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from eager_llm.settings import Settings, TaskSettings
from eager_llm.tuning.backbone import hidden_states, logits_of
from eager_llm.tuning.batches import Batch, collate, plan_batches
from eager_llm.tuning.contrast import GlobalContrast
from eager_llm.tuning.tasks import TaskBook, Trajectory
from eager_llm.tuning.trainer import TrainingJob, fit

SEQREC_ONLY = TaskSettings(
    seqrec=1.0, item2index=0.0, index2item=0.0, fusionseqrec=0.0, itemsearch=0.0, preferenceobtain=0.0
)
Curve = list[dict[str, float]]


def stage_one(
    model: Any,
    book: TaskBook,
    train: list[Trajectory],
    embeddings: dict[str, np.ndarray],
    settings: Settings,
    checkpoints: Path,
    validate: Callable[[], float] | None = None,
) -> Curve:
    """Tune the whole backbone in place, with global contrast; returns the curve."""
    tuning = settings.tuning
    torch.manual_seed(settings.seed)
    module = nn.ModuleDict({"model": model})
    contrast = None
    if tuning.contrast_weight > 0:
        width = model.get_input_embeddings().embedding_dim
        contrast = GlobalContrast(width, embeddings, tuning.contrast_negatives, tuning.contrast_temperature)
        module["contrast"] = contrast.to(model.device)
    plan = partial(_plan, book, train, tuning.tasks, settings, 1)
    return fit(
        TrainingJob(
            name="stage-1",
            module=module,
            loss=partial(_loss, model, contrast, settings),
            plan=plan,
            steps_an_epoch=len(plan(0)),
            epochs=tuning.epochs,
            learning_rate=tuning.learning_rate,
            weight_decay=tuning.weight_decay,
            warmup_share=tuning.warmup_share,
            checkpoints=checkpoints,
            keep=model,
            validate=validate,
            validate_every=tuning.validate_every,
        )
    )


def stage_two(
    model: Any, book: TaskBook, train: list[Trajectory], settings: Settings, checkpoints: Path
) -> tuple[Any, Curve]:
    """Add the annealing adapter and tune it alone; returns the PEFT model and the curve."""
    from peft import LoraConfig, get_peft_model

    annealing = settings.annealing
    torch.manual_seed(settings.seed)
    # "all-linear" leaves the output layer out: tied to the input embeddings, it must stay as it is.
    config = LoraConfig(
        r=annealing.rank,
        lora_alpha=annealing.alpha,
        lora_dropout=annealing.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    plan = partial(_plan, book, train, SEQREC_ONLY, settings, 2)
    curve = fit(
        TrainingJob(
            name="stage-2",
            module=adapted,
            loss=partial(_loss, adapted, None, settings),
            plan=plan,
            steps_an_epoch=len(plan(0)),
            epochs=annealing.epochs,
            learning_rate=annealing.learning_rate,
            weight_decay=0.0,
            warmup_share=0.0,
            checkpoints=checkpoints,
            keep=adapted,
        )
    )
    return adapted.eval(), curve


def _plan(
    book: TaskBook, train: list[Trajectory], shares: TaskSettings, settings: Settings, stage: int, epoch: int
) -> list[Callable[[], Batch]]:
    """Draw an epoch from the seed, the stage and its number alone, so that a resumed job agrees."""
    rng = np.random.default_rng((settings.seed, stage, epoch))
    examples = book.epoch(train, shares, rng)
    padding = book.tokenizer.pad_token_id or 0
    batches = plan_batches(examples, settings.tuning.batch_tokens, rng)
    return [partial(collate, [examples[number] for number in batch], padding) for batch in batches]


def _loss(
    model: Any, contrast: GlobalContrast | None, settings: Settings, batch: Batch, step: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropy at the learned tokens, plus the weighted contrast at the closing tokens."""
    batch = batch.to(model.device)
    hidden = hidden_states(model, batch.ids).last_hidden_state
    learned = batch.learn[:, 1:]
    loss = functional.cross_entropy(logits_of(model, hidden[:, :-1][learned]), batch.ids[:, 1:][learned])
    figures = {"cross_entropy": float(loss.detach())}
    if contrast is not None and len(batch.closing_item):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        closing = hidden[batch.closing_row, batch.closing_position]
        pull = contrast(closing, batch.closing_item, generator)
        figures["contrast"] = float(pull.detach())
        loss = loss + settings.tuning.contrast_weight * pull
    return loss, {"loss": float(loss.detach()), **figures}
