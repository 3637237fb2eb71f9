"""Keys and values of earlier prompts, for whoever serves.

A cache belongs to the weights that its keys and values were computed with. What trains or
evaluates passes none.

Shapes: H heads, S tokens, D head width.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from eager_llm.decoding.beam_cache import KeysValues

TOKEN_BYTES = np.dtype(np.int64).itemsize
# A prompt has a few kB of tokens and objects beside its keys and values.
MAX_PROMPTS = 8192


@dataclass(frozen=True)
class CachedPrompt:
    """A prompt that the model has read.

    Attributes:
        length: its tokens.
        content: keys and values of each layer, both [H, S, D].
        last_hidden: the hidden state of the last token, [1, width].
        bytes: what keys and values take.
    """

    length: int
    content: KeysValues
    last_hidden: torch.Tensor
    bytes: int


class PrefixCache:
    """Keys and values of prompts that were read, the least recently used dropped first.

    A returning user's prompt begins as it did the last time: the model reads only what is new, and
    nothing where nothing is new.

    Args:
        max_bytes: what the keys and values may take.
        max_prompts: how many prompts there may be: each has tokens and objects beside its numbers.

    Attributes:
        hits, misses: prompts of which something, and nothing, was in the cache.
        reused_tokens: how many tokens were not read again.
    """

    def __init__(self, max_bytes: int, max_prompts: int = MAX_PROMPTS) -> None:
        self.max_bytes = max_bytes
        self.max_prompts = max_prompts
        self.bytes = 0
        self.reused_tokens = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[bytes, CachedPrompt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, prompt: list[int]) -> CachedPrompt | None:
        """Return the longest beginning of a prompt that is in the cache."""
        key = _key(prompt)
        for length in range(len(prompt), 0, -1):
            prefix = key[: TOKEN_BYTES * length]
            entry = self._entries.get(prefix)
            if entry is not None:
                self._entries.move_to_end(prefix)
                self.reused_tokens += length
                self.hits += 1
                return entry
        self.misses += 1
        return None

    def add(
        self,
        prompt: list[int],
        content: KeysValues,
        last_hidden: torch.Tensor,
    ) -> None:
        """Copy a prompt that was read into the cache, where it fits and is not there.

        Args:
            content: its keys and values, both [H, S, D] a layer.
            last_hidden: the hidden state of its last token, [1, width].
        """
        key = _key(prompt)
        if key in self._entries:
            return
        size = sum(keys.nbytes + values.nbytes for keys, values in content)
        if size > self.max_bytes:
            return
        copies = [(keys.clone(), values.clone()) for keys, values in content]
        self._entries[key] = CachedPrompt(
            length=len(prompt),
            content=copies,
            last_hidden=last_hidden.clone(),
            bytes=size,
        )
        self.bytes += size
        while self.bytes > self.max_bytes or len(self._entries) > self.max_prompts:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.bytes

    def forget(self, prompt: list[int]) -> None:
        """Drop a prompt, where it is in the cache."""
        entry = self._entries.pop(_key(prompt), None)
        if entry is not None:
            self.bytes -= entry.bytes


def _key(prompt: list[int]) -> bytes:
    return np.asarray(prompt, dtype=np.int64).tobytes()
