"""Prompts that many beams continue: one copy of a prompt's keys and values, whatever the beams.

Shapes: P prompts, W beams, N new tokens of each beam.
"""

from typing import Any, Protocol

import torch

from eager_llm.backbone.hidden_states import hidden_states, unwrap
from eager_llm.backbone.logits import logits_of
from eager_llm.decoding.attention_mask import model_mask
from eager_llm.decoding.prefill import prefill
from eager_llm.decoding.prefix_cache import PrefixCache

# What both ways are tried with: two prompts, and two steps of two beams each, (parents, tokens).
TRIAL_PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8]]
TRIAL_STEPS = [
    ([[0, 0], [0, 0]], [[[1], [9]], [[2], [3]]]),
    ([[1, 0], [1, 1]], [[[4, 5], [6, 7]], [[8, 9], [1, 2]]]),
]


class PromptAttention(Protocol):
    """Prompts that the model has read, and the beams that continue them.

    Attributes:
        hidden: the hidden state of each prompt's last token, [P, 1, width].
    """

    hidden: torch.Tensor

    def __init__(
        self,
        model: Any,
        prompts: list[list[int]],
        prefix_cache: PrefixCache | None = None,
    ) -> None: ...

    def extend(
        self,
        parent: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        """Give each beam its next tokens.

        Args:
            parent: which beam of the last call each beam continues, int64 [P, W].
            tokens: int64 [P, W, N].

        Returns:
            The hidden state of every new token, [P, W, N, width].
        """
        ...


class SharedPrompts:
    """Beams as a tree of tokens behind one prompt (tree attention, as in SpecInfer, 2024).

    The new tokens of all beams are one pass over the request's one cache; a mask lets each see the
    prompt and its own ancestors. The cache only grows: nothing is copied, expanded or reordered.
    """

    def __init__(
        self,
        model: Any,
        prompts: list[list[int]],
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        device, count = model.device, len(prompts)
        lengths = [len(prompt) for prompt in prompts]
        self.model = model
        self.cache, self.hidden = prefill(model, prompts, prefix_cache)
        self.length = torch.tensor(lengths, device=device)[:, None]
        longest = max(lengths)
        slots = torch.arange(longest, device=device).expand(count, -1)
        # Which slots hold a token of the prompt, bool [P, slots].
        self._is_prompt = slots < self.length
        # The position of each key, int64 [P, keys].
        self._position = slots
        # Which of the beams' tokens so far each beam descends from, bool [P, W, tokens].
        no_tokens = (count, 1, 0)
        self._ancestors = torch.zeros(no_tokens, dtype=torch.bool, device=device)
        self._steps = 0

    def extend(
        self,
        parent: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        """Give each beam its next tokens; see `PromptAttention.extend`."""
        count, beams, steps = tokens.shape
        queries = beams * steps
        number = torch.arange(queries, device=tokens.device)
        step = number % steps
        ancestors = self._add_ancestors(parent, number // steps, step, steps)
        position = self.length + self._steps + step
        self._position = torch.cat([self._position, position], dim=1)
        # A new token sees the whole prompt.
        prompt = self._is_prompt[:, None].expand(-1, queries, -1)
        visible = torch.cat([prompt, ancestors], dim=2)
        output = hidden_states(
            self.model,
            tokens.reshape(count, queries),
            attention_mask=model_mask(self.model, visible, position, self._position),
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
        )
        self._ancestors = ancestors[:, steps - 1 :: steps]
        self._steps += steps
        return output.last_hidden_state.reshape(count, beams, steps, -1)

    def _add_ancestors(
        self,
        parent: torch.Tensor,
        beam: torch.Tensor,
        step: torch.Tensor,
        steps: int,
    ) -> torch.Tensor:
        """Return which tokens behind the prompt each new token sees, bool [P, W * N, tokens].

        Args:
            beam, step: of each new token, [W * N].
        """
        inherited = _gather_beams(self._ancestors, parent)
        inherited = inherited.repeat_interleave(steps, 1)
        is_own = beam[:, None] == beam
        is_causal = step[:, None] >= step
        own = (is_own & is_causal).expand(len(parent), -1, -1)
        return torch.cat([inherited, own], dim=2)


class RereadPrompts:
    """The obvious way, for models that take no tree mask: every beam is read from its beginning."""

    def __init__(
        self,
        model: Any,
        prompts: list[list[int]],
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        self.model = model
        self.prompts = prompts
        no_tokens = (len(prompts), 1, 0)
        self._paths = torch.zeros(no_tokens, dtype=torch.long, device=model.device)
        self.hidden = self._read_last(1)[:, :, 0]

    def extend(
        self,
        parent: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        """Give each beam its next tokens; see `PromptAttention.extend`."""
        path = _gather_beams(self._paths, parent)
        self._paths = torch.cat([path, tokens], dim=2)
        return self._read_last(tokens.shape[2])

    def _read_last(self, steps: int) -> torch.Tensor:
        """Return the hidden states of the last tokens of every beam, [P, W, steps, width]."""
        count, beams, depth = self._paths.shape
        device = self._paths.device
        ends = [len(prompt) + depth for prompt in self.prompts]
        length = max(ends)
        ids = self._paths.new_zeros(count, beams, length)
        for row, prompt in enumerate(self.prompts):
            start = len(prompt)
            ids[row, :, :start] = torch.tensor(prompt, device=device)
            ids[row, :, start : ends[row]] = self._paths[row]
        # Padding on the right is seen by no token of a causal model: no mask is needed.
        flat_ids = ids.reshape(-1, length)
        output = hidden_states(self.model, flat_ids, use_cache=False)
        hidden = output.last_hidden_state.reshape(count, beams, length, -1)
        width = hidden.shape[-1]
        end = torch.tensor(ends, device=device)[:, None]
        step = torch.arange(steps, device=device)
        position = end - steps + step
        index = position[:, None, :, None].expand(-1, beams, -1, width)
        return hidden.gather(2, index)


def select_prompt_attention(model: Any) -> type[PromptAttention]:
    """Return how a model's prompts are read: `SharedPrompts` where a trial gives the same states.

    Raises:
        FloatingPointError: the model answers NaN.
        NotImplementedError: the model does more to its logits than its output layer and known
            settings.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            _check_head(model)
            return SharedPrompts if _can_share(model) else RereadPrompts
    finally:
        model.train(training)


def _gather_beams(table: torch.Tensor, parent: torch.Tensor) -> torch.Tensor:
    """Return the rows [P, W, n] of a table [P, W of the last call, n] that beams continue."""
    columns = table.shape[2]
    index = parent[..., None].expand(-1, -1, columns)
    return table.gather(1, index)


def _check_head(model: Any) -> None:
    """Compare the model's own logits with what `logits_of` gives."""
    base = unwrap(model)
    ids = torch.arange(1, 6, device=model.device)[None]
    expected = base(ids, use_cache=False).logits.float()
    states = hidden_states(model, ids, use_cache=False).last_hidden_state
    logits = logits_of(model, states)
    if torch.isnan(expected).any():
        raise FloatingPointError("the model answers NaN; its weights are broken")
    if not _are_close(logits, expected):
        raise NotImplementedError(
            f"{type(base).__name__} does more to its logits than is known here"
        )


def _can_share(model: Any) -> bool:
    """Try a small tree of beams both ways."""
    expected = _trial_states(RereadPrompts, model)
    try:
        states = _trial_states(SharedPrompts, model)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        # Whatever a foreign shape makes of a cache or a mask that it does not know.
        return False
    return all(map(_are_close, states, expected))


def _trial_states(
    prompt_attention: type[PromptAttention],
    model: Any,
) -> list[torch.Tensor]:
    """Return the hidden states of a small tree of beams behind two prompts."""
    prompts = prompt_attention(model, TRIAL_PROMPTS)
    states = [prompts.hidden]
    for parent, tokens in TRIAL_STEPS:
        hidden = prompts.extend(
            torch.tensor(parent, device=model.device),
            torch.tensor(tokens, device=model.device),
        )
        states.append(hidden)
    return states


def _are_close(
    states: torch.Tensor,
    expected: torch.Tensor,
) -> bool:
    tolerance = 1e-3 if expected.dtype == torch.float32 else 5e-2
    largest = expected.abs().max().clamp(min=1e-6)
    difference = (states - expected).abs().max()
    return bool(difference <= tolerance * largest)
