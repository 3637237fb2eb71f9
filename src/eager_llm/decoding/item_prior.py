"""A prior over the items at the nodes of the trie: counted evidence beside the model's probabilities.

The items' scores become log p(item | model) + weight * log prior(item): shallow fusion (Gulcehre et al.,
2015), with the prior's mass below a node in the place of a second model's prefix probability, so that
beams see the evidence from the first token on.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from eager_llm.decoding.trie import Trie
from eager_llm.item_prior.table import ItemPriorTable


@dataclass(frozen=True)
class _Level:
    """The nodes of a level that have evidence below: sorted int64 [prompts, n], and its share [prompts, n]."""

    nodes: torch.Tensor
    share: torch.Tensor


@dataclass(frozen=True)
class ItemPrior:
    """The prior of each prompt of a batch.

    Attributes:
        weight: of its logarithm beside the model's.
        floor: share of the prior that all items have in common, evenly.
        even: [nodes], the share of all items that lies below a node.
        known: [prompts, 1], whether there is any evidence; where there is none the prior is even.
        levels: the evidence, the root's level first.
    """

    weight: float
    floor: float
    even: torch.Tensor
    known: torch.Tensor
    levels: list[_Level]

    def gain(self, level: int, nodes: torch.Tensor, child: torch.Tensor) -> torch.Tensor:
        """Return what entering each child [P, W, C] of nodes [P, W] of a level adds to the score."""
        inner, outer = (
            self._log_mass(level, nodes),
            self._log_mass(level + 1, child.flatten(1)).view(child.shape),
        )
        return self.weight * (outer - inner[..., None])

    def _log_mass(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the prior's mass below nodes [P, n] of a level."""
        known, nodes = self.levels[level], nodes.long().contiguous()
        place = torch.searchsorted(known.nodes, nodes).clamp_(max=known.nodes.shape[1] - 1)
        found = torch.where(
            known.nodes.gather(1, place) == nodes, known.share.gather(1, place), 0.0
        )
        floor = torch.where(self.known, self.floor, 1.0)
        return (floor * self.even[nodes] + (1 - floor) * found).log()


class ItemPriorFactory:
    """Makes the priors of histories.

    Args:
        neighbours: of the items in the order of the index that the trie was built from.
    """

    def __init__(self, trie: Trie, neighbours: ItemPriorTable) -> None:
        self.neighbours = neighbours
        self._device, self._level_start = trie.label.device, trie.level_start
        # All of one type: searching among others would copy a level's table at every request.
        self._leaf_of = trie.leaf_of.cpu().numpy()
        first_leaf = trie.first_leaf.cpu().numpy()
        starts = [
            first_leaf[low:high]
            for low, high in zip(trie.level_start, trie.level_start[1:], strict=False)
        ]
        self._first_leaf = [*starts[: trie.depth], np.arange(trie.items, dtype=first_leaf.dtype)]
        below = [np.diff(np.append(first, trie.items)) for first in self._first_leaf]
        self._even = torch.from_numpy(np.concatenate(below) / trie.items).float().to(self._device)

    def __call__(self, histories: list[list[int]]) -> ItemPrior | None:
        """Return the prior of each history of item rows, or None where it would change nothing."""
        if not self.neighbours.weight:
            return None
        evidence = self.neighbours.evidence(histories)
        rows = [
            self._by_leaf(evidence.indices[start:end], evidence.data[start:end])
            for start, end in pairwise(evidence.indptr)
        ]
        known = torch.tensor([[len(leaves) > 0] for leaves, _ in rows], device=self._device)
        levels = [self._level(level, rows) for level in range(len(self._first_leaf))]
        return ItemPrior(self.neighbours.weight, self.neighbours.floor, self._even, known, levels)

    def _by_leaf(self, items: np.ndarray, evidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the leaves with evidence, rising, and the share of each."""
        leaves, total = self._leaf_of[items], evidence.sum(dtype=np.float64)
        order = leaves.argsort() if total > 0 else leaves[:0]
        return leaves[order], evidence[order] / max(total, 1e-30)

    def _level(self, level: int, rows: list[tuple[np.ndarray, np.ndarray]]) -> _Level:
        """Add the shares of the leaves below each node of a level."""
        most = max(1, max(len(leaves) for leaves, _ in rows))
        keys = np.full((len(rows), most), np.iinfo(np.int64).max)
        shares = np.zeros((len(rows), most), dtype=np.float32)
        for row, (leaves, share) in enumerate(rows):
            if len(leaves):
                nodes = np.searchsorted(self._first_leaf[level], leaves, side="right") - 1
                begins = np.flatnonzero(np.diff(nodes, prepend=-1))
                keys[row, : len(begins)] = nodes[begins] + self._level_start[level]
                shares[row, : len(begins)] = np.add.reduceat(share, begins)
        return _Level(
            torch.from_numpy(keys).to(self._device), torch.from_numpy(shares).to(self._device)
        )
