"""A prior over the items at the nodes of the trie: counted evidence beside the model's probabilities.

The items' scores become log p(item | model) + weight * log prior(item): shallow fusion (Gulcehre et al.,
2015), with the prior's mass below a node in the place of a second model's prefix probability, so that
beams see the evidence from the first token on.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix

from eager_llm.decoding.trie import Trie
from eager_llm.encoders.neighbours import Neighbours


@dataclass(frozen=True)
class _Level:
    """The nodes of a level that have evidence below: sorted int64 [prompts, n], and its share [prompts, n]."""

    nodes: torch.Tensor
    share: torch.Tensor


@dataclass(frozen=True)
class Prior:
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
        inner, outer = self._log_mass(level, nodes), self._log_mass(level + 1, child.flatten(1)).view(child.shape)
        return self.weight * (outer - inner[..., None])

    def _log_mass(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the prior's mass below nodes [P, n] of a level."""
        known, nodes = self.levels[level], nodes.long().contiguous()
        place = torch.searchsorted(known.nodes, nodes).clamp_(max=known.nodes.shape[1] - 1)
        found = torch.where(known.nodes.gather(1, place) == nodes, known.share.gather(1, place), 0.0)
        floor = torch.where(self.known, self.floor, 1.0)
        return (floor * self.even[nodes] + (1 - floor) * found).log()


class PriorOf:
    """Makes the priors of histories.

    Args:
        neighbours: of the items in the order of the index that the trie was built from.
    """

    def __init__(self, trie: Trie, neighbours: Neighbours) -> None:
        self.neighbours = neighbours
        self._device, self._level_start = trie.label.device, trie.level_start
        leaf_item = trie.leaf_item.cpu().numpy()
        self._leaf_of = np.empty(trie.items, dtype=np.int64)
        self._leaf_of[leaf_item] = np.arange(trie.items)
        first_leaf = trie.first_leaf.cpu().numpy()
        starts = [first_leaf[low:high] for low, high in zip(trie.level_start, trie.level_start[1:], strict=False)]
        self._first_leaf = [*starts[: trie.depth], np.arange(trie.items)]
        below = [np.diff(np.append(first, trie.items)) for first in self._first_leaf]
        self._even = torch.from_numpy(np.concatenate(below) / trie.items).float().to(self._device)

    def __call__(self, histories: list[list[int]]) -> Prior | None:
        """Return the prior of each history of item rows, or None where it would change nothing."""
        if not self.neighbours.weight:
            return None
        evidence = self.neighbours.evidence(histories)
        sums = np.asarray(evidence.sum(axis=1)).ravel()
        known = torch.from_numpy(sums > 0)[:, None].to(self._device)
        levels = [self._level(level, evidence, sums) for level in range(len(self._first_leaf))]
        return Prior(self.neighbours.weight, self.neighbours.floor, self._even, known, levels)

    def _level(self, level: int, evidence: csr_matrix, sums: np.ndarray) -> _Level:
        """Add the evidence of the leaves below each node of a level."""
        first, found = self._first_leaf[level], []
        for row, (start, end) in enumerate(zip(evidence.indptr, evidence.indptr[1:], strict=False)):
            leaves = self._leaf_of[evidence.indices[start:end]]
            nodes, place = np.unique(np.searchsorted(first, leaves, side="right") - 1, return_inverse=True)
            share = np.bincount(place, evidence.data[start:end], minlength=len(nodes)) / max(sums[row], 1e-30)
            found.append((nodes + self._level_start[level], share))
        most = max(1, max(len(nodes) for nodes, _ in found))
        keys = np.full((len(found), most), np.iinfo(np.int64).max)
        shares = np.zeros((len(found), most), dtype=np.float32)
        for row, (nodes, share) in enumerate(found):
            keys[row, : len(nodes)], shares[row, : len(nodes)] = nodes, share
        return _Level(torch.from_numpy(keys).to(self._device), torch.from_numpy(shares).to(self._device))
