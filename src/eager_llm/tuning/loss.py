"""The loss of both stages: cross-entropy at the learned tokens, a few logits at a time, and the contrast."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from eager_llm.backbone.loading import hidden_states, logits_of, unwrap
from eager_llm.tuning.batches import Batch
from eager_llm.tuning.global_contrast import GlobalContrast


@dataclass(frozen=True)
class Totals:
    """What a step's losses are divided by, over all its batches on all workers.

    Attributes:
        learned: tokens whose prediction counts.
        answers: items named by answers, for the contrast.
        scale: what the result is multiplied by: the workers, where their gradients are averaged.
    """

    learned: int
    answers: int
    scale: float = 1.0


class Levels(nn.Module):
    """Which tokens stand at each level of the index, for a softmax over the level.

    Args:
        item_tokens: int64 [items, levels].
        vocabulary: tokens of the model.
    """

    level_of: torch.Tensor
    place_of: torch.Tensor

    def __init__(self, item_tokens: np.ndarray, vocabulary: int) -> None:
        super().__init__()
        level_of = torch.full((vocabulary,), -1)
        place_of = torch.arange(vocabulary)
        self.count = item_tokens.shape[1]
        for level in range(self.count):
            rows = torch.from_numpy(np.unique(item_tokens[:, level]))
            level_of[rows] = level
            place_of[rows] = torch.arange(len(rows))
            self.register_buffer(f"rows_{level}", rows, persistent=False)
        self.register_buffer("level_of", level_of, persistent=False)
        self.register_buffer("place_of", place_of, persistent=False)


class TuningLoss(nn.Module):
    """The model with what only training needs around it.

    Args:
        contrast: None leaves it out.
        levels: takes an item token's probability over its level; None: over the vocabulary.
        chunk: tokens whose logits are in memory at a time.
        seed: of the contrast's negatives; a step's batches share theirs.
        precision: dtype to compute in.
    """

    def __init__(
        self,
        model: Any,
        contrast: GlobalContrast | None,
        contrast_weight: float,
        levels: Levels | None,
        chunk: int,
        seed: int,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.model, self.contrast, self.levels = model, contrast, levels
        self.contrast_weight, self.chunk, self.seed, self.precision = (
            contrast_weight,
            chunk,
            seed,
            precision,
        )

    def forward(
        self, batch: Batch, totals: Totals, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return a batch's share of the step's loss, and the figures that go into the curve."""
        autocast = self.precision != torch.float32
        with torch.autocast(batch.ids.device.type, self.precision, enabled=autocast):
            hidden = hidden_states(self.model, batch.ids, use_cache=False).last_hidden_state
            learned = batch.loss_mask[:, 1:]
            total = cross_entropy(
                self.model,
                hidden[:, :-1][learned],
                batch.ids[:, 1:][learned],
                self.levels,
                self.chunk,
            )
            loss = total / totals.learned
            figures = {"cross_entropy": float(loss.detach())}
            if self.contrast is not None and not len(batch.closing_item):
                # Every process of a team has a gradient for every weight.
                loss = loss + 0.0 * sum(weight.sum() for weight in self.contrast.parameters())
                figures["contrast"] = 0.0
            elif self.contrast is not None:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
                closing = hidden[batch.closing_row, batch.closing_position]
                share = len(batch.closing_item) / totals.answers
                pull = share * self.contrast(closing, batch.closing_item, generator)
                figures["contrast"] = float(pull.detach())
                loss = loss + self.contrast_weight * pull
        return totals.scale * loss, {"loss": float(loss.detach()), **figures}


def cross_entropy(
    model: Any,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    levels: Levels | None = None,
    chunk: int = 1024,
) -> torch.Tensor:
    """Return the summed cross-entropy of tokens, with logits of at most `chunk` tokens at a time in memory.

    Args:
        hidden: [tokens, width], the states that predict.
        targets: int64 [tokens].
        levels: the softmax of an index token is over its level alone; other tokens', over the vocabulary.
    """
    if levels is None:
        return _summed(model, hidden, targets, None, chunk)
    level, total = levels.level_of[targets], hidden.new_zeros((), dtype=torch.float32)
    for number in range(-1, levels.count):
        here = level == number
        rows = None if number < 0 else getattr(levels, f"rows_{number}")
        total = total + _summed(model, hidden[here], levels.place_of[targets[here]] if rows is not None else targets[here],
                                rows, chunk)  # fmt: skip
    return total


def _summed(
    model: Any, hidden: torch.Tensor, targets: torch.Tensor, rows: Any, chunk: int
) -> torch.Tensor:
    if not torch.is_grad_enabled():
        parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
        zero = hidden.new_zeros((), dtype=torch.float32)
        return sum(
            (
                functional.cross_entropy(logits_of(model, h, rows), t, reduction="sum")
                for h, t in parts
            ),
            zero,
        )
    head = unwrap(model).get_output_embeddings()
    weights = [weight for weight in head.parameters() if weight.requires_grad]
    return _ChunkedCrossEntropy.apply(hidden, targets, model, rows, chunk, *weights)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Gradients are made chunk by chunk on the way forward, while the chunk's logits are there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        model: Any,
        rows: Any,
        chunk: int,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        gradient = torch.zeros_like(hidden)
        gradients = [torch.zeros_like(weight) for weight in weights]
        for start in range(0, len(hidden), chunk):
            with torch.enable_grad():
                part = hidden[start : start + chunk].detach().requires_grad_()
                logits = logits_of(model, part, rows)
                loss = functional.cross_entropy(
                    logits, targets[start : start + chunk], reduction="sum"
                )
                found = torch.autograd.grad(loss, [part, *weights], allow_unused=True)
            total += loss.detach()
            gradient[start : start + chunk] = found[0]
            for sum_, more in zip(gradients, found[1:], strict=True):
                if more is not None:
                    sum_ += more
        ctx.save_for_backward(gradient, *gradients)
        return total

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient, *gradients = ctx.saved_tensors
        return gradient * outer, None, None, None, None, *(found * outer for found in gradients)
