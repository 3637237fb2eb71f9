"""Of a prompt only the last token's state is read: the last layer's feed-forward runs for it alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from eager_llm.backbone.loading import unwrap


@contextmanager
def last_token_only(model: Any, last: torch.Tensor) -> Iterator[None]:
    """Let the last layer's feed-forward see one token of each prompt; other tokens' states mean nothing.

    What it adds to the residual stream is then one row a prompt, spread over its tokens by
    broadcasting. Keys and values come before it and are whole. A layer without a module `mlp`, as
    nearly all causal LMs call it, runs for every token; `reader_of` finds out where this is wrong.

    Args:
        last: int64 [prompts], the place of each prompt's last token in the pass.
    """
    feed_forward = getattr(_last_layer(model), "mlp", None)
    if not isinstance(feed_forward, nn.Module):
        yield
        return
    thread, rows = threading.get_ident(), torch.arange(len(last), device=last.device)

    def narrow(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        # Another thread may run the same model for another purpose.
        return (
            (inputs[0][rows, last][:, None], *inputs[1:])
            if threading.get_ident() == thread
            else None
        )

    handle = feed_forward.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        handle.remove()


def _last_layer(model: Any) -> nn.Module | None:
    plain = unwrap(model)
    depth = plain.config.get_text_config().num_hidden_layers
    lists = [
        part
        for part in plain.base_model.children()
        if isinstance(part, nn.ModuleList) and len(part) == depth
    ]
    return lists[0][-1] if len(lists) == 1 else None
