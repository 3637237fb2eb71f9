"""Prompts that many beams continue: one copy of a prompt's keys and values, whatever the beams."""

from typing import Any, Protocol

import torch

from eager_llm.backbone.loading import hidden_states, logits_of, unwrap
from eager_llm.decoding.attention_mask import model_mask
from eager_llm.decoding.prefill import PrefixCache, prefill


class Prompts(Protocol):
    """Prompts that were read, and the beams that continue them.

    Attributes:
        hidden: the hidden state of each prompt's last token, [prompts, 1, width].
    """

    hidden: torch.Tensor

    def __init__(
        self, model: Any, prompts: list[list[int]], memory: PrefixCache | None = None
    ) -> None: ...

    def extend(self, parent: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Give each beam its next tokens.

        Args:
            parent: which beam of the last call each beam continues, int64 [prompts, beams].
            tokens: int64 [prompts, beams, steps].

        Returns:
            The hidden state of every new token, [prompts, beams, steps, width].
        """
        ...


class SharedPrompts:
    """Beams as a tree of tokens behind one prompt (tree attention, as in SpecInfer, 2024).

    The new tokens of all beams are one pass over the request's one cache; a mask lets each see the
    prompt and its own ancestors. The cache only grows: nothing is copied, expanded or reordered.
    """

    def __init__(
        self, model: Any, prompts: list[list[int]], memory: PrefixCache | None = None
    ) -> None:
        self.model = model
        self.cache, self.hidden = prefill(model, prompts, memory)
        self.length = torch.tensor([len(prompt) for prompt in prompts], device=model.device)[
            :, None
        ]
        slots = torch.arange(max(map(len, prompts)), device=model.device).expand(len(prompts), -1)
        self._there, self._position = slots < self.length, slots
        # Which of the beams' tokens so far each beam descends from: [prompts, beams, tokens].
        self._ancestors = torch.zeros(len(prompts), 1, 0, dtype=torch.bool, device=model.device)
        self._steps = 0

    def extend(self, parent: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Give each beam its next tokens; see `Prompts.extend`."""
        count, beams, steps = tokens.shape
        new, device = beams * steps, tokens.device
        before = self._ancestors.gather(
            1, parent[..., None].expand(-1, -1, self._ancestors.shape[2])
        )
        number = torch.arange(new, device=device)
        beam, step = number // steps, number % steps
        own = (beam[:, None] == beam) & (step[:, None] >= step)
        seen = torch.cat([before.repeat_interleave(steps, 1), own.expand(count, -1, -1)], dim=2)
        position = self.length + self._steps + step
        self._position = torch.cat([self._position, position], dim=1)
        visible = torch.cat([self._there[:, None].expand(-1, new, -1), seen], dim=2)
        output = hidden_states(
            self.model,
            tokens.reshape(count, new),
            attention_mask=model_mask(self.model, visible, position, self._position),
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
        )
        self._ancestors = seen[:, steps - 1 :: steps]
        self._steps += steps
        return output.last_hidden_state.reshape(count, beams, steps, -1)


class RereadPrompts:
    """The obvious way, for models that take no tree mask: every beam is read from its beginning."""

    def __init__(
        self, model: Any, prompts: list[list[int]], memory: PrefixCache | None = None
    ) -> None:
        self.model, self.prompts = model, prompts
        self._paths = torch.zeros(len(prompts), 1, 0, dtype=torch.long, device=model.device)
        self.hidden = self._read(1)[:, :, 0]

    def extend(self, parent: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Give each beam its next tokens; see `Prompts.extend`."""
        before = self._paths.gather(1, parent[..., None].expand(-1, -1, self._paths.shape[2]))
        self._paths = torch.cat([before, tokens], dim=2)
        return self._read(tokens.shape[2])

    def _read(self, steps: int) -> torch.Tensor:
        """Return the hidden states of the last `steps` tokens of every beam."""
        count, beams, depth = self._paths.shape
        length = max(map(len, self.prompts)) + depth
        ids = self._paths.new_zeros(count, beams, length)
        ends = []
        for row, prompt in enumerate(self.prompts):
            ids[row, :, : len(prompt)] = torch.tensor(prompt, device=ids.device)
            ids[row, :, len(prompt) : len(prompt) + depth] = self._paths[row]
            ends.append(len(prompt) + depth)
        # Padding on the right is seen by no token of a causal model: no mask is needed.
        hidden = hidden_states(
            self.model, ids.reshape(-1, length), use_cache=False
        ).last_hidden_state
        hidden = hidden.reshape(count, beams, length, -1)
        wanted = (
            torch.tensor(ends, device=ids.device)[:, None]
            - steps
            + torch.arange(steps, device=ids.device)
        )
        return hidden.gather(2, wanted[:, None, :, None].expand(-1, beams, -1, hidden.shape[-1]))


def reader_of(model: Any) -> type[Prompts]:
    """Return how a model's prompts are read, by trying: `SharedPrompts` where it gives the same states.

    Raises:
        FloatingPointError: the model answers NaN.
        NotImplementedError: the model does more to its logits than its output layer and known settings.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            _check_head(model)
            return SharedPrompts if _shares(model) else RereadPrompts
    finally:
        model.train(training)


def _check_head(model: Any) -> None:
    ids = torch.arange(1, 6, device=model.device)[None]
    expected = unwrap(model)(ids, use_cache=False).logits.float()
    found = logits_of(model, hidden_states(model, ids, use_cache=False).last_hidden_state)
    if torch.isnan(expected).any():
        raise FloatingPointError("the model answers NaN; its weights are broken")
    if not _close(found, expected):
        raise NotImplementedError(
            f"{type(unwrap(model)).__name__} does more to its logits than is known here"
        )


def _shares(model: Any) -> bool:
    """Try a small tree of beams both ways."""
    device = model.device
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    first = torch.tensor([[[1], [9]], [[2], [3]]], device=device)
    second = torch.tensor([[[4, 5], [6, 7]], [[8, 9], [1, 2]]], device=device)
    parents = (
        torch.tensor([[0, 0], [0, 0]], device=device),
        torch.tensor([[1, 0], [1, 1]], device=device),
    )
    slow = RereadPrompts(model, prompts)
    expected = [
        slow.hidden,
        *(slow.extend(p, t) for p, t in zip(parents, (first, second), strict=True)),
    ]
    try:
        fast = SharedPrompts(model, prompts)
        found = [
            fast.hidden,
            *(fast.extend(p, t) for p, t in zip(parents, (first, second), strict=True)),
        ]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        # Whatever a foreign shape makes of a cache or a mask that it does not know.
        return False
    return all(_close(a, b) for a, b in zip(found, expected, strict=True))


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    tolerance = 1e-3 if expected.dtype == torch.float32 else 5e-2
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-6))
