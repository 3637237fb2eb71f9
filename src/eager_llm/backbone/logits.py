"""The output layer of a causal LM, computed for chosen tokens only."""

from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn import functional

from eager_llm.backbone.hidden_states import unwrap


def logits_of(
    model: Any,
    hidden: torch.Tensor,
    rows: slice | torch.Tensor | None = None,
) -> torch.Tensor:
    """Apply the output layer to chosen hidden states.

    Args:
        hidden: [..., width].
        rows: the tokens whose logits are computed. None: the vocabulary. A tensor of more than one
            dimension [..., n] names tokens of its own for each hidden state.

    Returns:
        float32 [..., vocabulary], or [..., rows].
    """
    base = unwrap(model)
    layer = base.get_output_embeddings()
    if rows is None:
        logits = layer(hidden)
    elif type(layer) is nn.Linear:
        logits = _linear_rows(layer, hidden, rows)
    else:  # an adapted or quantised layer is more than its weight
        logits = _select(layer(hidden), rows)
    return _as_configured(logits.float(), base.config.get_text_config())


def _linear_rows(
    layer: nn.Linear,
    hidden: torch.Tensor,
    rows: slice | torch.Tensor,
) -> torch.Tensor:
    """Apply some rows of a linear layer.

    In float32 also where the model is not: rounded to 8 bits, logits of many tokens would tie.
    """
    hidden = hidden.float()
    weight = layer.weight[rows].float()
    bias = None
    if layer.bias is not None:
        bias = layer.bias[rows].float()
    if not _is_own(rows):
        return functional.linear(hidden, weight, bias)
    product = weight @ hidden[..., None]
    logits = product[..., 0]
    return logits if bias is None else logits + bias


def _select(logits: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
    """Return the logits of some rows, of logits [..., vocabulary]."""
    if _is_own(rows):
        return logits.gather(-1, rows)
    return logits[..., rows]


def _is_own(rows: slice | torch.Tensor) -> TypeGuard[torch.Tensor]:
    """Return whether each hidden state has rows of its own."""
    return isinstance(rows, torch.Tensor) and rows.dim() > 1


def _as_configured(
    logits: torch.Tensor,
    config: Any,
) -> torch.Tensor:
    """Do what some shapes do to their logits after the output layer (Granite, Cohere, Gemma 2)."""
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if factor := getattr(config, "logit_scale", None):
        logits = logits * factor
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits
