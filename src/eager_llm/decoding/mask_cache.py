"""Filters and histories, compiled into constraints on the trie."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from eager_llm.decoding.constraints import Constraint, Exclusion
from eager_llm.decoding.trie import Trie

INT32_MAX = np.iinfo(np.int32).max
# What the flags of the latest filters, and all that is kept beside them, may take.
MAX_BYTES = 64 << 20
# Of a filter in the cache, beside its arrays: its key, its objects, its place in the table.
ENTRY_BYTES = 1024
INT32_BYTES = np.dtype(np.int32).itemsize


@dataclass(frozen=True)
class _CompiledFilter:
    """A filter in the cache.

    Attributes:
        row: of the flags.
        passes: which items pass, bool [items].
        below: how many of them lie below each inner node, int32 [inner nodes].
        items: how many there are.
    """

    row: int
    passes: np.ndarray
    below: np.ndarray
    items: int


class MaskCache:
    """Flags of the filters in use, the least recently used dropped first.

    Args:
        compile: returns which items pass a filter, bool [items] in the order of the index.
        batch: filters of one batch; these always fit.
        max_bytes: what all of the cache may take, where it holds more than one batch.
        key: names a filter, in bounded memory; None: the filter names itself.
    """

    def __init__(
        self,
        trie: Trie,
        compile: Callable[[Any], np.ndarray],
        batch: int,
        max_bytes: int = MAX_BYTES,
        key: Callable[[Any], Hashable] | None = None,
    ) -> None:
        self.trie = trie
        self._compile = compile
        self._key = key
        self._leaf_item = trie.leaf_item.cpu().numpy()
        self._leaf_of = trie.leaf_of.cpu().numpy()
        self._first_leaf = trie.first_leaf.cpu().numpy()
        self._first_child = trie.first_child.cpu().numpy()
        self._all_below = self._count_below(np.ones(trie.items, dtype=bool))
        # Row 0 lets everything pass.
        filters = max(batch, max_bytes // filter_bytes(trie))
        self.capacity = filters + 1
        flags = self.capacity * trie.nodes
        self._index_type = torch.int32 if flags <= INT32_MAX else torch.int64
        self._flags: torch.Tensor | None = None
        self._entries: OrderedDict[Hashable, _CompiledFilter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def constraint(
        self,
        filters: Sequence[Hashable],
        histories: Sequence[Sequence[int]],
    ) -> Constraint | None:
        """Return what the prompts of a batch may be answered with; None: with anything.

        Args:
            filters: a filter a prompt; None lets everything pass.
            histories: item rows, for each prompt, that may not come.
        """
        entries = [None if filter is None else self._entry(filter) for filter in filters]
        flags = mask = excluded = None
        if any(entry is not None for entry in entries):
            flags = self._flags
            mask = self._mask(entries)
        if any(map(len, histories)):
            excluded = self._exclude(entries, histories)
        if flags is None and excluded is None:
            return None
        return Constraint(flags, mask, excluded)

    def _mask(self, entries: Sequence[_CompiledFilter | None]) -> torch.Tensor:
        """Return the row of the flags of each filter, int [prompts]."""
        rows = [0 if entry is None else entry.row for entry in entries]
        device = self.trie.label.device
        return torch.tensor(rows, dtype=self._index_type, device=device)

    def count_allowed(
        self,
        filter: Hashable,
        history: Sequence[int] = (),
    ) -> int:
        """Return how many items pass a filter, those of a history not counted.

        Args:
            filter: None lets everything pass.
            history: item rows.
        """
        rows = np.unique(np.asarray(history, dtype=np.int64))
        if filter is None:
            return self.trie.items - len(rows)
        entry = self._entry(filter)
        return entry.items - int(entry.passes[rows].sum())

    def _entry(self, filter: Hashable) -> _CompiledFilter:
        """Return a filter from the cache; it is compiled where it is not there."""
        key = filter if self._key is None else self._key(filter)
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            return entry
        passes = self._compile(filter)
        leaves = passes[self._leaf_item]
        below = self._count_below(leaves)
        row = len(self._entries) + 1
        if row == self.capacity:
            _, oldest = self._entries.popitem(last=False)
            row = oldest.row
        self._write_flags(row, np.concatenate([below > 0, leaves]))
        entry = _CompiledFilter(row, passes, below, int(leaves.sum()))
        self._entries[key] = entry
        return entry

    def _write_flags(self, row: int, flags: np.ndarray) -> None:
        device = self.trie.label.device
        if self._flags is None:
            # Empty, not zeros: memory of rows that were never in use is never touched.
            shape = (self.capacity, self.trie.nodes)
            self._flags = torch.empty(shape, dtype=torch.bool, device=device)
            self._flags[0] = True
        self._flags[row] = torch.from_numpy(flags).to(device)

    def _count_below(self, leaves: np.ndarray) -> np.ndarray:
        """Count the marked leaves below every inner node: they lie side by side."""
        counts = []
        for start, end in pairwise(self.trie.level_start[:-1]):
            first_leaf = self._first_leaf[start:end]
            count = np.add.reduceat(leaves, first_leaf, dtype=np.int32)
            counts.append(count)
        return np.concatenate(counts)

    def _exclude(
        self,
        entries: Sequence[_CompiledFilter | None],
        histories: Sequence[Sequence[int]],
    ) -> list[Exclusion | None]:
        """Return, level by level, the nodes below which a history leaves nothing that may come."""
        prompts, leaves = self._history_leaves(entries, histories)
        parents = np.zeros_like(prompts)  # of each leaf, at the level
        levels: list[Exclusion | None] = []
        for level in range(self.trie.depth):
            start = self.trie.level_start[level + 1]
            if level + 1 == self.trie.depth:
                nodes = leaves + start
                is_empty = np.ones(len(leaves), dtype=bool)
            else:
                end = self.trie.level_start[level + 2]
                first_leaf = self._first_leaf[start:end]
                number = np.searchsorted(first_leaf, leaves, side="right") - 1
                nodes = number + start
                is_empty = self._are_empty(entries, prompts, nodes)
            exclusion = self._exclusion(
                len(entries),
                prompts[is_empty],
                parents[is_empty],
                nodes[is_empty],
            )
            levels.append(exclusion)
            parents = nodes
        return levels

    def _history_leaves(
        self,
        entries: Sequence[_CompiledFilter | None],
        histories: Sequence[Sequence[int]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the leaves of histories, those that pass the filter: (number of prompt, leaf)."""
        prompts, leaves = [], []
        for number, (entry, history) in enumerate(zip(entries, histories, strict=True)):
            rows = np.unique(np.asarray(history, dtype=np.int64))
            if entry is not None:
                rows = rows[entry.passes[rows]]
            prompts.append(np.full(len(rows), number))
            leaves.append(np.sort(self._leaf_of[rows]))
        return np.concatenate(prompts), np.concatenate(leaves)

    def _are_empty(
        self,
        entries: Sequence[_CompiledFilter | None],
        prompts: np.ndarray,
        nodes: np.ndarray,
    ) -> np.ndarray:
        """Return where a node has as many leaves of the history below as leaves that may come.

        Only the first of equal pairs of prompt and node is marked.
        """
        pairs, first, excluded = np.unique(
            np.stack([prompts, nodes]), axis=1, return_index=True, return_counts=True
        )
        is_empty = np.zeros(len(nodes), dtype=bool)
        pair_prompts, pair_nodes = pairs
        starts = np.searchsorted(pair_prompts, np.arange(len(entries) + 1))
        for entry, (start, end) in zip(entries, pairwise(starts), strict=True):
            below = self._all_below if entry is None else entry.below
            is_empty[first[start:end]] = below[pair_nodes[start:end]] == excluded[start:end]
        return is_empty

    def _exclusion(
        self,
        count: int,
        prompts: np.ndarray,
        parents: np.ndarray,
        nodes: np.ndarray,
    ) -> Exclusion | None:
        """Lay the nodes out in a row a prompt.

        Args:
            count: prompts of the batch.
            prompts: number of the prompt of each node, rising.
        """
        if not len(prompts):
            return None
        first = np.searchsorted(prompts, prompts)
        column = np.arange(len(prompts)) - first
        shape = (count, column.max() + 1)
        parent = np.full(shape, -1, dtype=np.int32)
        offset = np.zeros(shape, dtype=np.int64)
        parent[prompts, column] = parents
        offset[prompts, column] = nodes - self._first_child[parents]
        device = self.trie.label.device
        return Exclusion(
            parent=torch.from_numpy(parent).to(device),
            offset=torch.from_numpy(offset).to(device),
        )


def filter_bytes(trie: Trie) -> int:
    """Return what a filter takes in the cache: its flags, its items, its counts and its key."""
    inner_nodes = len(trie.first_leaf)
    return trie.nodes + trie.items + INT32_BYTES * inner_nodes + ENTRY_BYTES
