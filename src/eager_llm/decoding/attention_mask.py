"""Attention masks in the form that a model's shape takes."""

from typing import Any

import torch

from eager_llm.backbone.loading import unwrap


def model_mask(
    model: Any, visible: torch.Tensor, query_position: torch.Tensor, key_position: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Turn "who may see whom" into the `attention_mask` argument of the model.

    Layers with a sliding window see only keys less than the window behind; where a model mixes
    layers with and without one, transformers takes a mask for each kind.

    Args:
        visible: bool [prompts, queries, keys].
        query_position: [prompts, queries], the place of each query in its own sequence.
        key_position: [prompts, keys].
    """
    config = unwrap(model).config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(
        getattr(config, "layer_types", None)
        or ["full_attention" if window is None else "sliding_attention"]
    )
    if window is None or "sliding_attention" not in kinds:
        return _added(visible, model.dtype)
    near = visible & (key_position[:, None] > query_position[..., None] - window)
    if kinds == {"sliding_attention"}:
        return _added(near, model.dtype)
    return {
        "full_attention": _added(visible, model.dtype),
        "sliding_attention": _added(near, model.dtype),
    }


def _added(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to the attention scores, [prompts, 1, queries, keys].

    Eager attention takes no other form, and the fused ones would make it of booleans in every layer.
    """
    added = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return added.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
