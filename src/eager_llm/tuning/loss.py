"""The loss of both stages: cross-entropy, a few logits at a time, and the global contrast.

Shapes: B examples of a batch, T tokens of the longest one, N tokens whose prediction counts,
H hidden width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from eager_llm.backbone.hidden_states import hidden_states, unwrap
from eager_llm.backbone.logits import logits_of
from eager_llm.tuning.batches import Batch
from eager_llm.tuning.global_contrast import GlobalContrast

# Seeds of the contrast's negatives lie so far apart that no two jobs share a step's draw.
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Totals:
    """What a step's losses are divided by, over all its batches on all processes.

    Attributes:
        target_tokens: tokens whose prediction counts.
        item_ends: items that answers name, for the contrast.
        scale: factor of the result: the number of processes, where their gradients are averaged.
    """

    target_tokens: int
    item_ends: int
    scale: float = 1.0


class Levels(nn.Module):
    """The tokens of each level of the index, for a softmax over the level.

    Args:
        item_tokens: int64 [items, levels].
        vocabulary: number of tokens of the model.

    Attributes:
        count: number of levels.
        level_of: int64 [vocabulary], the level of each token; -1 for a token of no level.
        position_of: int64 [vocabulary], the position of a token in its level's softmax.
    """

    level_of: torch.Tensor
    position_of: torch.Tensor

    def __init__(self, item_tokens: np.ndarray, vocabulary: int) -> None:
        super().__init__()
        level_of = torch.full((vocabulary,), -1)
        position_of = torch.arange(vocabulary)
        self.count = item_tokens.shape[1]
        for level in range(self.count):
            tokens = torch.from_numpy(np.unique(item_tokens[:, level]))
            level_of[tokens] = level
            position_of[tokens] = torch.arange(len(tokens))
            self.register_buffer(f"tokens_{level}", tokens, persistent=False)
        self.register_buffer("level_of", level_of, persistent=False)
        self.register_buffer("position_of", position_of, persistent=False)

    def tokens(self, level: int) -> torch.Tensor:
        """Return the tokens of a level in the order of its softmax, int64 [tokens of the level]."""
        return self.get_buffer(f"tokens_{level}")


class TuningLoss(nn.Module):
    """The model with everything that only training needs around it.

    Args:
        contrast: the global contrast; None leaves it out.
        contrast_weight: factor of the contrast in the loss.
        levels: an item token's probability is taken over its level; None: over the vocabulary.
        chunk: number of tokens whose logits are in memory at a time.
        seed: of the contrast's negatives; the batches of a step share theirs.
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
        self.model = model
        self.contrast = contrast
        self.levels = levels
        self.contrast_weight = contrast_weight
        self.chunk = chunk
        self.seed = seed
        self.precision = precision

    def forward(
        self, batch: Batch, totals: Totals, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return a batch's share of the step's loss, a scalar, and the figures of the curve."""
        autocast = self.precision != torch.float32
        with torch.autocast(batch.ids.device.type, self.precision, enabled=autocast):
            output = hidden_states(self.model, batch.ids, use_cache=False)
            hidden = output.last_hidden_state
            loss = self._cross_entropy(hidden, batch) / totals.target_tokens
            figures = {"cross_entropy": float(loss.detach())}
            if self.contrast is not None:
                contrast = self._contrast(self.contrast, hidden, batch, totals, step)
                figures["contrast"] = float(contrast.detach())
                loss = loss + self.contrast_weight * contrast
        figures = {"loss": float(loss.detach()), **figures}
        return totals.scale * loss, figures

    def _cross_entropy(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the summed cross-entropy of the batch; the state before a token predicts it."""
        is_target = batch.loss_mask[:, 1:]
        states = hidden[:, :-1]
        targets = batch.ids[:, 1:]
        return cross_entropy(
            self.model,
            states[is_target],
            targets[is_target],
            self.levels,
            self.chunk,
        )

    def _contrast(
        self,
        contrast: GlobalContrast,
        hidden: torch.Tensor,
        batch: Batch,
        totals: Totals,
        step: int,
    ) -> torch.Tensor:
        """Return the batch's share of the step's contrast."""
        if not len(batch.item_end_items):
            # With several processes each one needs a gradient for every weight.
            sums = [weight.sum() for weight in contrast.parameters()]
            return 0.0 * torch.stack(sums).sum()
        generator = torch.Generator().manual_seed(self.seed * SEED_STRIDE + step)
        states = hidden[batch.item_end_rows, batch.item_end_positions]
        share = len(batch.item_end_items) / totals.item_ends
        return share * contrast(states, batch.item_end_items, generator)


def cross_entropy(
    model: Any,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    levels: Levels | None = None,
    chunk: int = 1024,
) -> torch.Tensor:
    """Return the summed cross-entropy of tokens, a scalar.

    Args:
        hidden: [N, H], the states that predict.
        targets: int64 [N].
        levels: the softmax of an index token is over its level alone, that of any other token over
            the vocabulary; None: every softmax is over the vocabulary.
        chunk: number of tokens whose logits are in memory at a time, at most.
    """
    if levels is None:
        return _summed(model, hidden, targets, None, chunk)
    target_levels = levels.level_of[targets]
    of_no_level = target_levels == -1
    total = hidden.new_zeros((), dtype=torch.float32)
    total = total + _summed(model, hidden[of_no_level], targets[of_no_level], None, chunk)
    for level in range(levels.count):
        of_level = target_levels == level
        positions = levels.position_of[targets[of_level]]
        total = total + _summed(model, hidden[of_level], positions, levels.tokens(level), chunk)
    return total


def _summed(
    model: Any,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    tokens: torch.Tensor | None,
    chunk: int,
) -> torch.Tensor:
    """Return the summed cross-entropy with a softmax over some tokens; None: the vocabulary."""
    if torch.is_grad_enabled():
        head = unwrap(model).get_output_embeddings()
        weights = [weight for weight in head.parameters() if weight.requires_grad]
        return _ChunkedCrossEntropy.apply(hidden, targets, model, tokens, chunk, *weights)
    total = hidden.new_zeros((), dtype=torch.float32)
    for states, labels in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        logits = logits_of(model, states, tokens)
        total = total + functional.cross_entropy(logits, labels, reduction="sum")
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Makes the gradients chunk by chunk on the way forward, while the chunk's logits are there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        model: Any,
        tokens: torch.Tensor | None,
        chunk: int,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        """Sum the loss, and keep the gradients of the states and of the output layer."""
        total = torch.zeros((), device=hidden.device)
        hidden_gradient = torch.zeros_like(hidden)
        weight_gradients = [torch.zeros_like(weight) for weight in weights]
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            with torch.enable_grad():
                states = hidden[rows].detach().requires_grad_()
                logits = logits_of(model, states, tokens)
                loss = functional.cross_entropy(logits, targets[rows], reduction="sum")
                gradients = torch.autograd.grad(loss, [states, *weights], allow_unused=True)
            total += loss.detach()
            hidden_gradient[rows] = gradients[0]
            for weight_gradient, addend in zip(weight_gradients, gradients[1:], strict=True):
                if addend is not None:
                    weight_gradient += addend
        ctx.save_for_backward(hidden_gradient, *weight_gradients)
        return total

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradients that `forward` has kept."""
        hidden_gradient, *weight_gradients = ctx.saved_tensors
        scaled = [gradient * outer for gradient in weight_gradients]
        return hidden_gradient * outer, None, None, None, None, *scaled
