"""The transformer of a causal LM without its output layer."""

from typing import Any

import torch


def unwrap(model: Any) -> Any:
    """Return the causal LM inside a PEFT model (its adapter stays active), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_states(model: Any, ids: torch.Tensor, **options: Any) -> Any:
    """Run the transformer without its output layer.

    Args:
        ids: token ids, int64 [batch, length].
        options: what the model's forward pass takes besides.

    Returns:
        The model's output, whose `last_hidden_state` is [batch, length, width].
    """
    return unwrap(model).base_model(input_ids=ids, **options)
