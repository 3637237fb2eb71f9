"""Which items may come, as flags on the nodes of the trie."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from eager_llm.decoding.trie import Trie


@dataclass(frozen=True)
class Exclusion:
    """Nodes of one level that single prompts may not enter.

    Attributes:
        parent: int32 [prompts, n], the nodes' parents; -1 where a prompt has fewer than n.
        offset: int64 [prompts, n], which child of its parent each node is.
    """

    parent: torch.Tensor
    offset: torch.Tensor


@dataclass(frozen=True)
class Constraint:
    """What the prompts of one batch may be answered with.

    Attributes:
        flags: bool [masks, nodes], whether some allowed item lies below a node; None: all may come.
        mask: which row of the flags each prompt goes by, [prompts].
        excluded: for each level, what a prompt in particular may not enter; None: nothing.
    """

    flags: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    excluded: list[Exclusion | None] | None = None

    def narrow(
        self, level: int, nodes: torch.Tensor, child: torch.Tensor, exists: torch.Tensor
    ) -> torch.Tensor:
        """Return which of the existing children [P, W, C] of nodes [P, W] may be entered."""
        if self.flags is not None and self.mask is not None:
            count = self.flags.shape[1]
            place = child + (self.mask * count)[:, None, None]
            exists = exists & self.flags.view(-1).index_select(0, place.flatten()).view(child.shape)
        excluded = self.excluded[level] if self.excluded is not None else None
        if excluded is not None:
            here = nodes[..., None] == excluded.parent[:, None]
            # What is not to be marked goes to one place behind the children.
            place = torch.where(here, excluded.offset[:, None], child.shape[-1])
            marks = exists.new_zeros((*child.shape[:-1], child.shape[-1] + 1))
            exists = exists & ~marks.scatter_(-1, place, True)[..., :-1]
        return exists


@dataclass(frozen=True)
class _Entry:
    """A filter in the cache: its row of the flags, the items that pass, and how many below each inner node."""

    row: int
    passes: np.ndarray
    below: np.ndarray
    items: int


class MaskCache:
    """Flags of the filters in use, the least recently used dropped first.

    Args:
        compile: returns which items pass a filter, bool [items] in the order of the index.
        max_bytes: what the flags may take; at least one batch of `batch` filters always fits.
    """

    def __init__(
        self,
        trie: Trie,
        compile: Callable[[Any], np.ndarray],
        batch: int,
        max_bytes: int = 256 << 20,
    ) -> None:
        self.trie, self._compile = trie, compile
        self._leaf_item = trie.leaf_item.cpu().numpy()
        self._leaf_of = trie.leaf_of.cpu().numpy()
        self._first_leaf, self._first_child = (
            trie.first_leaf.cpu().numpy(),
            trie.first_child.cpu().numpy(),
        )
        self._all_below = self._below(np.ones(trie.items, dtype=bool))
        # Row 0 lets everything pass.
        self.capacity = max(batch, max_bytes // trie.nodes) + 1
        self._place = (
            torch.int32 if self.capacity * trie.nodes <= np.iinfo(np.int32).max else torch.int64
        )
        self._flags: torch.Tensor | None = None
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def constraint(
        self, filters: Sequence[Hashable], histories: Sequence[Sequence[int]]
    ) -> Constraint | None:
        """Return what the prompts of a batch may be answered with; None: with anything.

        Args:
            filters: a filter a prompt; None lets everything pass.
            histories: item rows, for each prompt, that may not come.
        """
        found = [None if f is None else self._entry(f) for f in filters]
        flags = mask = excluded = None
        if any(entry is not None for entry in found):
            rows = [0 if entry is None else entry.row for entry in found]
            flags, mask = (
                self._flags,
                torch.tensor(rows, dtype=self._place, device=self.trie.label.device),
            )
        if any(map(len, histories)):
            excluded = self._exclude(found, histories)
        return None if flags is None and excluded is None else Constraint(flags, mask, excluded)

    def allowed(self, filter: Hashable, without: Sequence[int] = ()) -> int:
        """Return how many items pass a filter, those of a history not counted."""
        rows = np.unique(np.asarray(without, dtype=np.int64))
        if filter is None:
            return self.trie.items - len(rows)
        entry = self._entry(filter)
        return entry.items - int(entry.passes[rows].sum())

    def _entry(self, filter: Hashable) -> _Entry:
        if (entry := self._entries.get(filter)) is not None:
            self._entries.move_to_end(filter)
            return entry
        passes = self._compile(filter)
        leaves = passes[self._leaf_item]
        below = self._below(leaves)
        row = len(self._entries) + 1
        if row == self.capacity:
            row = self._entries.popitem(last=False)[1].row
        if self._flags is None:
            # Empty, not zeros: memory of rows that were never in use is never touched.
            shape = (self.capacity, self.trie.nodes)
            self._flags = torch.empty(shape, dtype=torch.bool, device=self.trie.label.device)
            self._flags[0] = True
        self._flags[row] = torch.from_numpy(np.concatenate([below > 0, leaves])).to(
            self._flags.device
        )
        entry = self._entries[filter] = _Entry(row, passes, below, int(leaves.sum()))
        return entry

    def _below(self, leaves: np.ndarray) -> np.ndarray:
        """Count the marked leaves below every inner node: the leaves below a node lie side by side."""
        starts = self.trie.level_start
        levels = [self._first_leaf[a:b] for a, b in pairwise(starts[:-1])]
        return np.concatenate([np.add.reduceat(leaves, first, dtype=np.int32) for first in levels])

    def _exclude(
        self, entries: Sequence[_Entry | None], histories: Sequence[Sequence[int]]
    ) -> list[Exclusion | None]:
        """Find, for each prompt and level, the nodes below which the history leaves nothing that may come."""
        counts: list[np.ndarray] = [
            self._all_below if entry is None else entry.below for entry in entries
        ]
        prompt, leaf = [], []
        for number, (entry, history) in enumerate(zip(entries, histories, strict=True)):
            rows = np.unique(np.asarray(history, dtype=np.int64))
            rows = rows if entry is None else rows[entry.passes[rows]]
            prompt.append(np.full(len(rows), number))
            leaf.append(np.sort(self._leaf_of[rows]))
        prompts, leaves = np.concatenate(prompt), np.concatenate(leaf)
        starts, depth = self.trie.level_start, self.trie.depth
        parent = np.zeros_like(prompts)  # of each leaf, at the level
        levels: list[Exclusion | None] = []
        for level in range(depth):
            below = slice(starts[level + 1], starts[level + 2])
            if level + 1 == depth:
                node, first = leaves + below.start, np.ones(len(leaves), dtype=bool)
            else:
                node = (
                    np.searchsorted(self._first_leaf[below], leaves, side="right") - 1 + below.start
                )
                pairs, index, excluded = np.unique(
                    np.stack([prompts, node]), axis=1, return_index=True, return_counts=True
                )
                first = np.zeros(len(node), dtype=bool)
                first[index] = [
                    counts[p][n] == c for (p, n), c in zip(pairs.T, excluded, strict=True)
                ]
            levels.append(self._exclusion(len(entries), prompts[first], parent[first], node[first]))
            parent = node
        return levels

    def _exclusion(
        self, count: int, prompts: np.ndarray, parents: np.ndarray, nodes: np.ndarray
    ) -> Exclusion | None:
        """Lay the nodes out in a row a prompt; `prompts` rises."""
        if not len(prompts):
            return None
        place = np.arange(len(prompts)) - np.searchsorted(prompts, prompts)
        parent = np.full((count, place.max() + 1), -1, dtype=np.int32)
        offset = np.zeros(parent.shape, dtype=np.int64)
        parent[prompts, place], offset[prompts, place] = parents, nodes - self._first_child[parents]
        device = self.trie.label.device
        return Exclusion(torch.from_numpy(parent).to(device), torch.from_numpy(offset).to(device))
