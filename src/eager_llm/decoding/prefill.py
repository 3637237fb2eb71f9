"""Reading the prompts: once each, without much padding, and not again what a cache holds.

Shapes: P prompts of the batch, G prompts of a group that is read in one pass, H heads,
S slots (tokens, then padding), D head width.
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
CPU_PASS_COST = 64
GPU_PASS_COST = 1 << 30


@dataclass(frozen=True)
class _Prompt:
    """A prompt, split where the cache ends.

    Attributes:
        row: its number in the batch.
        cached: its beginning in the cache, or None.
        start: length of that beginning.
        tail: the tokens that the model has to read.
    """

    row: int
    cached: CachedPrompt | None
    start: int
    tail: list[int]


@dataclass(frozen=True)
class _Group:
    """Prompts whose keys and values lie in one cache.

    Attributes:
        rows: their numbers in the batch.
        cache: their keys and values, from slot 0 on.
        last_hidden: the hidden state of each one's last token, [G, 1, width].
    """

    rows: list[int]
    cache: Any
    last_hidden: torch.Tensor


def prefill(
    model: Any,
    prompts: list[list[int]],
    prefix_cache: PrefixCache | None,
) -> tuple[Any, torch.Tensor]:
    """Read the prompts.

    Returns:
        A cache with each prompt's keys and values from slot 0 on (what follows its end is
        meaningless), and the hidden state of each prompt's last token, [P, 1, width].
    """
    unread: list[_Prompt] = []
    whole: list[_Prompt] = []
    for row, tokens in enumerate(prompts):
        prompt = _split(row, tokens, prefix_cache)
        if prompt.tail:
            unread.append(prompt)
        else:
            whole.append(prompt)
    by_length = _group_by_length(unread, _pass_cost(model))
    groups = [_read_group(model, group) for group in by_length]
    if whole:
        groups.append(_cached_group(whole))
    cache, last_hidden = _join(groups)
    if prefix_cache is not None:
        layers = keys_values(cache)
        for prompt in unread:
            row = prompt.row
            content = _prompt_content(layers, prompt)
            prefix_cache.add(prompts[row], content, last_hidden[row])
    return cache, last_hidden


def _split(
    row: int,
    tokens: list[int],
    prefix_cache: PrefixCache | None,
) -> _Prompt:
    """Look a prompt up in the cache."""
    cached = None
    if prefix_cache is not None:
        cached = prefix_cache.find(tokens)
    start = 0 if cached is None else cached.length
    return _Prompt(row, cached, start, tokens[start:])


def _prompt_content(layers: KeysValues, prompt: _Prompt) -> KeysValues:
    """Return one prompt's keys and values, both [H, tokens, D] a layer."""
    row = prompt.row
    end = prompt.start + len(prompt.tail)
    content = []
    for keys, values in layers:
        prompt_keys = keys[row, :, :end]
        prompt_values = values[row, :, :end]
        content.append((prompt_keys, prompt_values))
    return content


def _pass_cost(model: Any) -> int:
    if model.device.type == "cpu":
        return CPU_PASS_COST
    return GPU_PASS_COST


def _group_by_length(
    prompts: list[_Prompt],
    pass_cost: int,
) -> list[list[_Prompt]]:
    """Split prompts into groups of like length, so that passes and padded tokens cost least.

    Dynamic programming over the sorted lengths; a group costs `pass_cost` and its padded tokens.

    Returns:
        The groups, shorter prompts first; in each the prompts in the order of the batch.
    """
    by_length = sorted(prompts, key=_length_and_row)
    # For each number of prompts: what they cost at least, and where their last group starts.
    least_cost = [0]
    last_start = [0]
    for end in range(1, len(by_length) + 1):
        longest = len(by_length[end - 1].tail)
        costs = []
        for start in range(end):
            padded_tokens = (end - start) * longest
            costs.append(least_cost[start] + pass_cost + padded_tokens)
        best_start = min(range(end), key=costs.__getitem__)
        last_start.append(best_start)
        least_cost.append(costs[best_start])
    groups = []
    end = len(by_length)
    while end:
        start = last_start[end]
        group = sorted(by_length[start:end], key=_row)
        groups.append(group)
        end = start
    return groups[::-1]


def _length_and_row(prompt: _Prompt) -> tuple[int, int]:
    return len(prompt.tail), prompt.row


def _row(prompt: _Prompt) -> int:
    return prompt.row


def _read_group(model: Any, prompts: list[_Prompt]) -> _Group:
    """Read the tails of one group's prompts in one pass, padded on the right."""
    device = model.device
    starts = [prompt.start for prompt in prompts]
    lengths = [len(prompt.tail) for prompt in prompts]
    longest = max(lengths)
    gap = max(starts)
    padded = []
    for prompt in prompts:
        padding = [0] * (longest - len(prompt.tail))
        padded.append(prompt.tail + padding)
    ids = torch.tensor(padded, device=device)
    length = torch.tensor(lengths, device=device)
    cache = preallocated_cache(_stack_cached(prompts, gap))
    # Without a mask attention is causal: no token sees the padding behind it.
    options = _mask_options(model, starts, length, longest) if gap else {}
    with last_token_only(model, length - 1):
        output = hidden_states(
            model,
            ids,
            past_key_values=cache,
            use_cache=True,
            **options,
        )
    if gap:
        layers = _close_gap(keys_values(cache), gap, prompts)
        cache = preallocated_cache(layers)
    number = torch.arange(len(prompts), device=device)
    last_hidden = output.last_hidden_state[number, length - 1]
    return _Group(
        rows=[prompt.row for prompt in prompts],
        cache=cache,
        last_hidden=last_hidden[:, None],
    )


def _mask_options(
    model: Any,
    starts: list[int],
    length: torch.Tensor,
    longest: int,
) -> dict[str, Any]:
    """Return mask and positions of tails behind cached beginnings of unlike lengths.

    The keys are the slots of the cached beginnings, padded, and then those of the tails, padded.

    Args:
        starts: length of each cached beginning, [G].
        length: of each tail, int64 [G].
        longest: length of the longest tail.
    """
    device = length.device
    count = len(starts)
    start = torch.tensor(starts, device=device)[:, None]
    slot = torch.arange(max(starts), device=device).expand(count, -1)
    step = torch.arange(longest, device=device).expand(count, -1)
    position = start + step
    key_position = torch.cat([slot, position], dim=1)
    is_cached = slot < start
    is_tail = step < length[:, None]
    is_token = torch.cat([is_cached, is_tail], dim=1)
    is_causal = key_position[:, None] <= position[..., None]
    visible = is_token[:, None] & is_causal
    return {
        "attention_mask": model_mask(model, visible, position, key_position),
        "position_ids": position,
    }


def _cached_group(prompts: list[_Prompt]) -> _Group:
    """Return the prompts of which everything is in the cache."""
    longest = max(prompt.start for prompt in prompts)
    layers = _stack_cached(prompts, longest)
    last_hidden = [prompt.cached.last_hidden for prompt in prompts if prompt.cached]
    return _Group(
        rows=[prompt.row for prompt in prompts],
        cache=preallocated_cache(layers),
        last_hidden=torch.stack(last_hidden),
    )


def _stack_cached(prompts: list[_Prompt], length: int) -> KeysValues | None:
    """Stack cached beginnings, padded on the right; a prompt without one is all padding.

    Returns:
        Keys and values [G, H, length, D] of each layer; None where no prompt has a beginning.
    """
    rows, contents = [], []
    for row, prompt in enumerate(prompts):
        if prompt.cached is not None:
            rows.append(row)
            contents.append(prompt.cached.content)
    if not contents:
        return None
    return _merge(contents, rows, len(prompts), length)


def _close_gap(
    layers: KeysValues,
    gap: int,
    prompts: list[_Prompt],
) -> KeysValues:
    """Close the gap between each prompt's cached beginning and its tail.

    Args:
        layers: keys and values, both [G, H, slots, D].
        gap: the slot where the tails begin.
    """
    closed = []
    for keys, values in layers:
        closed_keys = _close_table_gap(keys, gap, prompts)
        closed_values = _close_table_gap(values, gap, prompts)
        closed.append((closed_keys, closed_values))
    return closed


def _close_table_gap(
    table: torch.Tensor,
    gap: int,
    prompts: list[_Prompt],
) -> torch.Tensor:
    """Return one table [G, H, longest prompt, D]; see `_close_gap`."""
    count, heads, _, width = table.shape
    ends = [prompt.start + len(prompt.tail) for prompt in prompts]
    closed = table.new_zeros(count, heads, max(ends), width)
    for row, prompt in enumerate(prompts):
        start = prompt.start
        end = ends[row]
        tail_end = gap + len(prompt.tail)
        closed[row, :, :start] = table[row, :, :start]
        closed[row, :, start:end] = table[row, :, gap:tail_end]
    return closed


def _join(groups: list[_Group]) -> tuple[Any, torch.Tensor]:
    """Bring the groups' keys, values and hidden states into the order of the prompts."""
    if len(groups) == 1:
        return groups[0].cache, groups[0].last_hidden
    last_hidden = torch.cat([group.last_hidden for group in groups])
    rows = [torch.tensor(group.rows, device=last_hidden.device) for group in groups]
    contents = [keys_values(group.cache) for group in groups]
    lengths = []
    for content in contents:
        keys, _ = content[0]
        lengths.append(keys.shape[2])
    layers = _merge(contents, rows, len(last_hidden), max(lengths))
    order = torch.cat(rows).argsort()
    return preallocated_cache(layers), last_hidden[order]


def _merge(
    contents: list[KeysValues],
    rows: Sequence[int | torch.Tensor],
    count: int,
    length: int,
) -> KeysValues:
    """Lay keys and values of unlike lengths into common tables, padded on the right.

    Args:
        contents: keys and values of prompts [H, S, D], or of groups [G, H, S, D].
        rows: for each of them, the row or the rows of the table where it goes.

    Returns:
        Keys and values [count, H, length, D] of each layer.
    """
    merged = []
    for layer in zip(*contents, strict=True):
        keys = [keys for keys, _ in layer]
        values = [values for _, values in layer]
        merged_keys = _merge_tables(keys, rows, count, length)
        merged_values = _merge_tables(values, rows, count, length)
        merged.append((merged_keys, merged_values))
    return merged


def _merge_tables(
    tables: list[torch.Tensor],
    rows: Sequence[int | torch.Tensor],
    count: int,
    length: int,
) -> torch.Tensor:
    """Return one table [count, H, length, D]; see `_merge`."""
    heads, _, width = tables[0].shape[-3:]
    merged = tables[0].new_zeros(count, heads, length, width)
    for row, table in zip(rows, tables, strict=True):
        merged[row, :, : table.shape[-2]] = table
    return merged
