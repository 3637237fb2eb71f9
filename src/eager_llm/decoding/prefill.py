"""Reading the prompts: once each, without much padding, and not again what is remembered."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eager_llm.backbone.loading import hidden_states
from eager_llm.decoding.attention_mask import model_mask
from eager_llm.decoding.beam_cache import KeysValues, keys_values, roomy_cache
from eager_llm.decoding.last_token import last_token_only


class PrefixCache:
    """Keys and values of prompts that were read before, the least recently used dropped first.

    A returning user's prompt begins as it did the last time: only what is new is read, and nothing
    where nothing is new.

    Args:
        max_bytes: what the keys and values may take.

    Attributes:
        hits, misses: prompts of which something, and nothing, was remembered.
        reused_tokens: how many tokens were not read again.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self.reused_tokens = self.hits = self.misses = 0
        self._entries: OrderedDict[bytes, _Remembered] = OrderedDict()

    def find(self, prompt: list[int]) -> "_Remembered | None":
        """Return what is remembered of the longest beginning of a prompt that was read."""
        key = _key(prompt)
        for length in range(len(prompt), 0, -1):
            found = self._entries.get(key[: 8 * length])
            if found is not None:
                self._entries.move_to_end(key[: 8 * length])
                self.reused_tokens += length
                self.hits += 1
                return found
        self.misses += 1
        return None

    def add(self, prompt: list[int], read: KeysValues, last: torch.Tensor) -> None:
        """Remember a prompt that was read.

        Args:
            read: its keys and values, [heads, tokens, head width] a layer.
            last: the hidden state of its last token, [1, width].
        """
        key = _key(prompt)
        if key in self._entries:
            return
        size = sum(keys.nbytes + values.nbytes for keys, values in read)
        if size > self.max_bytes:
            return
        copies = [(keys.clone(), values.clone()) for keys, values in read]
        self._entries[key] = _Remembered(len(prompt), copies, last.clone(), size)
        self.bytes += size
        while self.bytes > self.max_bytes:
            self.bytes -= self._entries.popitem(last=False)[1].bytes

    def forget(self, prompt: list[int]) -> None:
        """Drop a prompt, where it is remembered."""
        if (dropped := self._entries.pop(_key(prompt), None)) is not None:
            self.bytes -= dropped.bytes

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True)
class _Remembered:
    """A prompt that was read: how many tokens, their keys and values, the last hidden state, the bytes."""

    length: int
    read: KeysValues
    last: torch.Tensor
    bytes: int


def _key(prompt: list[int]) -> bytes:
    return np.asarray(prompt, dtype=np.int64).tobytes()


def prefill(
    model: Any, prompts: list[list[int]], memory: PrefixCache | None
) -> tuple[Any, torch.Tensor]:
    """Read the prompts.

    Returns:
        A cache with each prompt's keys and values from slot 0 on (what follows its end is
        meaningless), and the hidden state of each prompt's last token, [prompts, 1, width].
    """
    found = [memory.find(prompt) if memory is not None else None for prompt in prompts]
    rests = [
        len(prompt) - (known.length if known else 0)
        for prompt, known in zip(prompts, found, strict=True)
    ]
    fresh = [row for row, rest in enumerate(rests) if rest]
    groups = [
        [fresh[n] for n in group]
        for group in _groups([rests[row] for row in fresh], _pass_cost(model))
    ]
    parts = [
        _read(model, [prompts[row] for row in group], [found[row] for row in group])
        for group in groups
    ]
    whole = {row: known for row, known in enumerate(found) if known and not rests[row]}
    if whole:
        groups.append(list(whole))
        longest = max(known.length for known in whole.values())
        last = torch.stack([known.last for known in whole.values()])
        parts.append((roomy_cache(_padded(list(whole.values()), longest)), last))
    cache, last = parts[0] if len(parts) == 1 else _joined(groups, parts)
    if memory is not None:
        read = keys_values(cache)
        for row in fresh:
            end = len(prompts[row])
            memory.add(
                prompts[row],
                [(keys[row, :, :end], values[row, :, :end]) for keys, values in read],
                last[row],
            )
    return cache, last


def _pass_cost(model: Any) -> int:
    """What starting a forward pass costs, in tokens: on a GPU more than any padding."""
    return 64 if model.device.type == "cpu" else 1 << 30


def _groups(lengths: list[int], pass_cost: int) -> list[list[int]]:
    """Split prompts into groups of like length, so that passes and padded tokens cost least.

    Dynamic programming over the sorted lengths; a group costs `pass_cost` and its padded tokens.
    """
    order = sorted(range(len(lengths)), key=lambda n: (lengths[n], n))
    best, cut = [0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        costs = [best[start] + pass_cost + (end - start) * longest for start in range(end)]
        cut.append(min(range(end), key=costs.__getitem__))
        best.append(costs[cut[-1]])
    groups, end = [], len(order)
    while end:
        groups.append(sorted(order[cut[end] : end]))
        end = cut[end]
    return groups[::-1]


def _read(
    model: Any, prompts: list[list[int]], remembered: list[_Remembered | None]
) -> tuple[Any, torch.Tensor]:
    """Read the rest of one group's prompts in one pass, padded on the right."""
    starts = [known.length if known else 0 for known in remembered]
    device, count = model.device, len(prompts)
    rests = [len(prompt) - start for prompt, start in zip(prompts, starts, strict=True)]
    longest = max(rests)
    rows = [p[s:] + [0] * (longest - r) for p, s, r in zip(prompts, starts, rests, strict=True)]
    ids, rest = torch.tensor(rows, device=device), torch.tensor(rests, device=device)
    cache = roomy_cache(_padded(remembered, max(starts)) if any(starts) else None)
    options: dict[str, Any] = {}
    if any(starts):
        start = torch.tensor(starts, device=device)[:, None]
        slot = torch.arange(max(starts), device=device).expand(count, -1)
        step = torch.arange(longest, device=device).expand(count, -1)
        position, key_position = start + step, torch.cat([slot, start + step], dim=1)
        there = torch.cat([slot < start, step < rest[:, None]], dim=1)
        visible = there[:, None] & (key_position[:, None] <= position[..., None])
        options = {
            "attention_mask": model_mask(model, visible, position, key_position),
            "position_ids": position,
        }
    # Without a mask attention is causal: no token sees the padding behind it.
    with last_token_only(model, rest - 1):
        output = hidden_states(model, ids, past_key_values=cache, use_cache=True, **options)
    last = output.last_hidden_state[torch.arange(count, device=device), rest - 1][:, None]
    if any(starts):
        cache = roomy_cache(_aligned(keys_values(cache), max(starts), starts, rests))
    return cache, last


def _padded(found: Sequence[_Remembered | None], length: int) -> KeysValues:
    """Stack remembered beginnings, padded on the right; a prompt without one is all padding."""
    layers = []
    for layer, like in enumerate(next(known.read for known in found if known)):
        pair = []
        for part in (0, 1):
            heads, _, width = like[part].shape
            stacked = like[part].new_zeros(len(found), heads, length, width)
            for row, known in enumerate(found):
                if known:
                    stacked[row, :, : known.length] = known.read[layer][part]
            pair.append(stacked)
        layers.append((pair[0], pair[1]))
    return layers


def _aligned(read: KeysValues, gap: int, starts: list[int], rests: list[int]) -> KeysValues:
    """Close the gap between each prompt's remembered beginning and its rest."""
    length = max(start + rest for start, rest in zip(starts, rests, strict=True))

    def close(table: torch.Tensor) -> torch.Tensor:
        closed = table.new_zeros(table.shape[0], table.shape[1], length, table.shape[3])
        for row, (start, rest) in enumerate(zip(starts, rests, strict=True)):
            closed[row, :, :start] = table[row, :, :start]
            closed[row, :, start : start + rest] = table[row, :, gap : gap + rest]
        return closed

    return [(close(keys), close(values)) for keys, values in read]


def _joined(
    groups: list[list[int]], parts: list[tuple[Any, torch.Tensor]]
) -> tuple[Any, torch.Tensor]:
    """Bring the groups' keys, values and hidden states back into the order of the prompts."""
    count = sum(map(len, groups))
    reads = [keys_values(cache) for cache, _ in parts]
    length = max(read[0][0].shape[2] for read in reads)
    last = torch.cat([hidden for _, hidden in parts])
    rows = [torch.tensor(group, device=last.device) for group in groups]
    layers = []
    for layer, pair in enumerate(reads[0]):
        tables = []
        for part, like in enumerate(pair):
            joined = like.new_zeros(count, like.shape[1], length, like.shape[3])
            for row, read in zip(rows, reads, strict=True):
                joined[row, :, : read[layer][part].shape[2]] = read[layer][part]
            tables.append(joined)
        layers.append((tables[0], tables[1]))
    return roomy_cache(layers), last[torch.cat(rows).argsort()]
