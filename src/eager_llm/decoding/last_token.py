"""Of a prompt only the last token's state is needed: the last feed-forward runs for it alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from eager_llm.backbone.hidden_states import unwrap


@contextmanager
def last_token_only(
    model: Any,
    last: torch.Tensor,
) -> Iterator[None]:
    """Let the last layer's feed-forward see one token of each prompt.

    The states of other tokens then mean nothing. What the layer adds to the residual stream is one
    row a prompt, spread over its tokens by broadcasting. Keys and values come before it and are
    whole. A layer without a module `mlp`, as nearly all causal LMs call it, runs for every token;
    `select_prompt_attention` finds out where this is wrong.

    Args:
        last: the position of each prompt's last token in the pass, int64 [prompts].
    """
    feed_forward = getattr(_last_layer(model), "mlp", None)
    if not isinstance(feed_forward, nn.Module):
        yield
        return
    thread = threading.get_ident()
    rows = torch.arange(len(last), device=last.device)

    def select_last(
        _: nn.Module,
        inputs: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...] | None:
        """Leave the last token of each row to the feed-forward."""
        # Another thread may run the same model for another purpose.
        if threading.get_ident() != thread:
            return None
        states, *others = inputs
        return (states[rows, last][:, None], *others)

    handle = feed_forward.register_forward_pre_hook(select_last)
    try:
        yield
    finally:
        handle.remove()


def _last_layer(model: Any) -> nn.Module | None:
    """Return the last of the model's layers, or None where it is not clear which these are."""
    base = unwrap(model)
    depth = base.config.get_text_config().num_hidden_layers
    lists = [child for child in base.base_model.children() if isinstance(child, nn.ModuleList)]
    stacks = [modules for modules in lists if len(modules) == depth]
    if len(stacks) != 1:
        return None
    return stacks[0][-1]
