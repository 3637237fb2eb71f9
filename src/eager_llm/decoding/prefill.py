"""Reading the prompts: once each, without much padding, and not again what a cache holds.

Shapes: P prompts, G prompts of a group that is read in one pass, H heads, S slots, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eager_llm.backbone.hidden_states import hidden_states
from eager_llm.decoding.attention_mask import model_mask
from eager_llm.decoding.beam_cache import KeysValues, keys_values, preallocated_cache
from eager_llm.decoding.last_token import last_token_only
from eager_llm.decoding.prefix_cache import CachedPrompt, PrefixCache

# What starting a forward pass costs, in tokens: on a GPU more than any padding.
CPU_PASS_COST, GPU_PASS_COST = 64, 1 << 30


@dataclass(frozen=True)
class _Group:
    """Prompts that went together.

    Attributes:
        rows: their numbers in the batch.
        cache: their keys and values, from slot 0 on.
        last_hidden: the hidden state of each one's last token, [G, 1, width].
    """

    rows: list[int]
    cache: Any
    last_hidden: torch.Tensor


def prefill(
    model: Any, prompts: list[list[int]], prefix_cache: PrefixCache | None
) -> tuple[Any, torch.Tensor]:
    """Read the prompts.

    Returns:
        A cache with each prompt's keys and values from slot 0 on (what follows its end is
        meaningless), and the hidden state of each prompt's last token, [P, 1, width].
    """
    cached: list[CachedPrompt | None] = [None] * len(prompts)
    if prefix_cache is not None:
        cached = [prefix_cache.find(prompt) for prompt in prompts]
    starts = [_cached_length(entry) for entry in cached]
    lengths = [len(prompt) - start for prompt, start in zip(prompts, starts, strict=True)]
    unread = [row for row, length in enumerate(lengths) if length]
    groups = []
    for numbers in _group_by_length([lengths[row] for row in unread], _pass_cost(model)):
        rows = [unread[number] for number in numbers]
        groups.append(_read_group(model, rows, prompts, cached))
    whole = {row: cached[row] for row, length in enumerate(lengths) if not length}
    if whole:
        groups.append(_cached_group(whole))
    cache, last_hidden = _join(groups)
    if prefix_cache is not None:
        _remember(prefix_cache, unread, prompts, cache, last_hidden)
    return cache, last_hidden


def _cached_length(entry: CachedPrompt | None) -> int:
    return 0 if entry is None else entry.length


def _pass_cost(model: Any) -> int:
    return CPU_PASS_COST if model.device.type == "cpu" else GPU_PASS_COST


def _remember(
    prefix_cache: PrefixCache,
    rows: list[int],
    prompts: list[list[int]],
    cache: Any,
    last_hidden: torch.Tensor,
) -> None:
    """Put the prompts that were read into the prefix cache."""
    layers = keys_values(cache)
    for row in rows:
        end = len(prompts[row])
        content = [(keys[row, :, :end], values[row, :, :end]) for keys, values in layers]
        prefix_cache.add(prompts[row], content, last_hidden[row])


def _group_by_length(lengths: list[int], pass_cost: int) -> list[list[int]]:
    """Split prompts into groups of like length, so that passes and padded tokens cost least.

    Dynamic programming over the sorted lengths; a group costs `pass_cost` and its padded tokens.

    Returns:
        For each group, the numbers of its prompts, rising.
    """
    order = sorted(range(len(lengths)), key=lambda number: (lengths[number], number))
    # For each number of prompts: what they cost at least, and where their last group starts.
    least_cost, last_start = [0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        costs = [least_cost[start] + pass_cost + (end - start) * longest for start in range(end)]
        best_start = min(range(end), key=costs.__getitem__)
        last_start.append(best_start)
        least_cost.append(costs[best_start])
    groups = []
    end = len(order)
    while end:
        start = last_start[end]
        groups.append(sorted(order[start:end]))
        end = start
    return groups[::-1]


def _read_group(
    model: Any, rows: list[int], prompts: list[list[int]], cached: list[CachedPrompt | None]
) -> _Group:
    """Read what no cache holds of one group's prompts in one pass, padded on the right."""
    device = model.device
    entries = [cached[row] for row in rows]
    starts = [_cached_length(entry) for entry in entries]
    tails = [prompts[row][start:] for row, start in zip(rows, starts, strict=True)]
    lengths = [len(tail) for tail in tails]
    longest, gap = max(lengths), max(starts)
    padded = [tail + [0] * (longest - len(tail)) for tail in tails]
    ids = torch.tensor(padded, device=device)
    length = torch.tensor(lengths, device=device)
    cache = preallocated_cache(_stack(entries, gap) if gap else None)
    # Without a mask attention is causal: no token sees the padding behind it.
    options = _mask_options(model, starts, length, longest) if gap else {}
    with last_token_only(model, length - 1):
        output = hidden_states(model, ids, past_key_values=cache, use_cache=True, **options)
    states = output.last_hidden_state
    last_hidden = states[torch.arange(len(rows), device=device), length - 1][:, None]
    if gap:
        cache = preallocated_cache(_close_gap(keys_values(cache), gap, starts, lengths))
    return _Group(rows, cache, last_hidden)


def _mask_options(
    model: Any, starts: list[int], length: torch.Tensor, longest: int
) -> dict[str, Any]:
    """Return mask and positions of new tokens behind cached beginnings of unlike lengths.

    The keys are the slots of the cached beginnings, padded, and then the new tokens, padded.

    Args:
        starts: length of each cached beginning, [G].
        length: new tokens of each prompt, int64 [G].
        longest: the most new tokens of a prompt.
    """
    device, count = length.device, len(starts)
    start = torch.tensor(starts, device=device)[:, None]
    slot = torch.arange(max(starts), device=device).expand(count, -1)
    step = torch.arange(longest, device=device).expand(count, -1)
    position = start + step
    key_position = torch.cat([slot, position], dim=1)
    is_token = torch.cat([slot < start, step < length[:, None]], dim=1)
    visible = is_token[:, None] & (key_position[:, None] <= position[..., None])
    return {
        "attention_mask": model_mask(model, visible, position, key_position),
        "position_ids": position,
    }


def _cached_group(entries: dict[int, CachedPrompt | None]) -> _Group:
    """Return the prompts, by their numbers, that need no reading."""
    whole = [entry for entry in entries.values() if entry is not None]
    longest = max(entry.length for entry in whole)
    last_hidden = torch.stack([entry.last_hidden for entry in whole])
    return _Group(list(entries), preallocated_cache(_stack(whole, longest)), last_hidden)


def _stack(entries: Sequence[CachedPrompt | None], length: int) -> KeysValues:
    """Stack cached beginnings, padded on the right to some length.

    A prompt without one is all padding.
    """
    contents = [None if entry is None else entry.content for entry in entries]
    layers = next(len(content) for content in contents if content is not None)
    stacked = []
    for layer in range(layers):
        keys = [None if content is None else content[layer][0] for content in contents]
        values = [None if content is None else content[layer][1] for content in contents]
        stacked.append((_pad(keys, length), _pad(values, length)))
    return stacked


def _pad(tables: list[torch.Tensor | None], length: int) -> torch.Tensor:
    """Return tables [H, S, D] of unlike S as one table [P, H, length, D]; None: zeros."""
    like = next(table for table in tables if table is not None)
    heads, _, width = like.shape
    padded = like.new_zeros(len(tables), heads, length, width)
    for row, table in enumerate(tables):
        if table is not None:
            padded[row, :, : table.shape[1]] = table
    return padded


def _close_gap(layers: KeysValues, gap: int, starts: list[int], lengths: list[int]) -> KeysValues:
    """Close the gap between each prompt's cached beginning and its new tokens.

    Args:
        gap: slot of the first new token.
        starts: length of each cached beginning.
        lengths: new tokens of each prompt.
    """
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]

    def close(table: torch.Tensor) -> torch.Tensor:
        prompts, heads, _, width = table.shape
        closed = table.new_zeros(prompts, heads, max(ends), width)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            closed[row, :, :start] = table[row, :, :start]
            closed[row, :, start:end] = table[row, :, gap : gap + end - start]
        return closed

    return [(close(keys), close(values)) for keys, values in layers]


def _join(groups: list[_Group]) -> tuple[Any, torch.Tensor]:
    """Bring the groups' keys, values and hidden states into the order of the prompts."""
    if len(groups) == 1:
        return groups[0].cache, groups[0].last_hidden
    last_hidden = torch.cat([group.last_hidden for group in groups])
    rows = [torch.tensor(group.rows, device=last_hidden.device) for group in groups]
    contents = [keys_values(group.cache) for group in groups]
    layers = []
    for layer in range(len(contents[0])):
        keys = [content[layer][0] for content in contents]
        values = [content[layer][1] for content in contents]
        layers.append((_scatter(keys, rows), _scatter(values, rows)))
    return preallocated_cache(layers), last_hidden[torch.cat(rows).argsort()]


def _scatter(tables: list[torch.Tensor], rows: list[torch.Tensor]) -> torch.Tensor:
    """Return tables [G, H, S, D] of unlike S as one table [P, H, longest S, D].

    Args:
        rows: numbers of the prompts of each table.
    """
    longest = max(table.shape[2] for table in tables)
    _, heads, _, width = tables[0].shape
    joined = tables[0].new_zeros(sum(map(len, tables)), heads, longest, width)
    for table, row in zip(tables, rows, strict=True):
        joined[row, :, : table.shape[2]] = table
    return joined
