"""Attention masks in the form that a model's shape takes.

Shapes: P prompts, Q queries, K keys.
"""

from typing import Any

import torch

from eager_llm.backbone.hidden_states import unwrap

FULL, SLIDING = "full_attention", "sliding_attention"


def model_mask(
    model: Any,
    visible: torch.Tensor,
    query_position: torch.Tensor,
    key_position: torch.Tensor,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Turn "who may see whom" into the `attention_mask` argument of the model.

    Layers with a sliding window see only keys less than the window behind. Where a model mixes
    layers with and without one, transformers takes a mask for each kind.

    Args:
        visible: bool [P, Q, K].
        query_position: int64 [P, Q], the position of each query in its own sequence.
        key_position: int64 [P, K].
    """
    config = unwrap(model).config.get_text_config()
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if not layer_types:
        layer_types = [FULL] if window is None else [SLIDING]
    if window is None or SLIDING not in layer_types:
        return _additive(visible, model.dtype)
    window_start = query_position[..., None] - window
    in_window = visible & (key_position[:, None] > window_start)
    if set(layer_types) == {SLIDING}:
        return _additive(in_window, model.dtype)
    return {
        FULL: _additive(visible, model.dtype),
        SLIDING: _additive(in_window, model.dtype),
    }


def _additive(
    visible: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return what is added to the attention scores, [P, 1, Q, K].

    Eager attention takes no other form; the fused ones would make it of booleans in every layer.
    """
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    mask.masked_fill_(~visible, torch.finfo(dtype).min)
    return mask[:, None]
