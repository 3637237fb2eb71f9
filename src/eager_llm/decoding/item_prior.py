"""The item prior at the nodes of the trie: item-to-item scores beside the model's probabilities.

The items' scores become log p(item | model) + weight * log prior(item): shallow fusion (Gulcehre
et al., 2015). The prior's mass below a node stands in the place of a second model's prefix
probability, so that beams see the prior from the first token on.

Shapes: P prompts, W beams, C children of a node, n nodes with a score below (the most of a prompt).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import csr_matrix

from eager_llm.decoding.trie import Trie
from eager_llm.item_prior.table import ItemPriorTable

# The leaves with a score, rising, and the share of each.
LeafShares = tuple[np.ndarray, np.ndarray]
# Stands behind the nodes of a prompt that has fewer than others.
NO_NODE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _PriorLevel:
    """The nodes of a level that have a score below.

    Attributes:
        nodes: rising, int64 [P, n].
        share: the scores below each node as a share of the prompt's, float32 [P, n].
    """

    nodes: torch.Tensor
    share: torch.Tensor


@dataclass(frozen=True)
class ItemPrior:
    """The prior of each prompt of a batch.

    Attributes:
        weight: of its logarithm beside the model's.
        floor: share of the prior that all items have in common, evenly.
        uniform: the share of all items that lies below a node, float32 [nodes].
        has_scores: whether any item has a score, bool [P, 1]; where none has, the prior is uniform.
        levels: the scores, the root's level first.
    """

    weight: float
    floor: float
    uniform: torch.Tensor
    has_scores: torch.Tensor
    levels: list[_PriorLevel]

    def gain(
        self,
        level: int,
        nodes: torch.Tensor,
        child: torch.Tensor,
    ) -> torch.Tensor:
        """Return what entering each child adds to the score, float [P, W, C].

        Args:
            nodes: of the level, [P, W].
            child: their children, [P, W, C].
        """
        parent_mass = self._log_mass(level, nodes)
        child_mass = self._log_mass(level + 1, child.flatten(1))
        child_mass = child_mass.view(child.shape)
        return self.weight * (child_mass - parent_mass[..., None])

    def _log_mass(
        self,
        level: int,
        nodes: torch.Tensor,
    ) -> torch.Tensor:
        """Return the logarithm of the prior's mass below nodes [P, k] of a level, [P, k]."""
        prior = self.levels[level]
        nodes = nodes.long().contiguous()
        index = torch.searchsorted(prior.nodes, nodes)
        index.clamp_(max=prior.nodes.shape[1] - 1)
        is_match = prior.nodes.gather(1, index) == nodes
        share = prior.share.gather(1, index)
        share = torch.where(is_match, share, 0.0)
        floor = torch.where(self.has_scores, self.floor, 1.0)
        mass = floor * self.uniform[nodes] + (1 - floor) * share
        return mass.log()


class ItemPriorFactory:
    """Makes the priors of histories.

    Args:
        table: of the items in the order of the index that the trie was built from.
    """

    def __init__(self, trie: Trie, table: ItemPriorTable) -> None:
        self.table = table
        self._device = trie.label.device
        self._level_start = trie.level_start
        # All of one type: searching among others would copy a level's table at every request.
        self._leaf_of = trie.leaf_of.cpu().numpy()
        first_leaf = trie.first_leaf.cpu().numpy()
        levels = pairwise(trie.level_start[: trie.depth + 1])
        self._first_leaf = [first_leaf[start:end] for start, end in levels]
        leaves = np.arange(trie.items, dtype=first_leaf.dtype)
        self._first_leaf.append(leaves)
        items_below = [np.diff(first, append=trie.items) for first in self._first_leaf]
        uniform = np.concatenate(items_below) / trie.items
        self._uniform = torch.from_numpy(uniform).float().to(self._device)

    def __call__(self, histories: list[list[int]]) -> ItemPrior | None:
        """Return the prior of each history of item rows, or None where it would change nothing."""
        if not self.table.weight:
            return None
        scores = self.table.scores(histories)
        leaf_shares = list(self._leaf_shares(scores))
        has_scores = [len(leaves) > 0 for leaves, _ in leaf_shares]
        levels = range(len(self._first_leaf))
        return ItemPrior(
            weight=self.table.weight,
            floor=self.table.floor,
            uniform=self._uniform,
            has_scores=torch.tensor(has_scores, device=self._device)[:, None],
            levels=[self._level(level, leaf_shares) for level in levels],
        )

    def _leaf_shares(self, scores: csr_matrix) -> Iterator[LeafShares]:
        """Yield, for each history, the leaves with a score, rising, and the share of each.

        Args:
            scores: of each item, [histories, items].
        """
        for start, end in pairwise(scores.indptr):
            leaves = self._leaf_of[scores.indices[start:end]]
            values = scores.data[start:end]
            total = values.sum(dtype=np.float64)
            if total > 0:
                order = leaves.argsort()
                shares = values[order] / max(total, 1e-30)
                yield leaves[order], shares
            else:
                yield leaves[:0], values[:0]

    def _level(
        self,
        level: int,
        prompts: list[LeafShares],
    ) -> _PriorLevel:
        """Add the shares of the leaves below each node of a level."""
        most_leaves = max(len(leaves) for leaves, _ in prompts)
        shape = (len(prompts), max(1, most_leaves))
        nodes = np.full(shape, NO_NODE)
        shares = np.zeros(shape, dtype=np.float32)
        for row, (leaves, leaf_shares) in enumerate(prompts):
            if not len(leaves):
                continue
            first_leaf = self._first_leaf[level]
            number = np.searchsorted(first_leaf, leaves, side="right") - 1
            begins = np.flatnonzero(np.diff(number, prepend=-1))
            count = len(begins)
            first_node = self._level_start[level]
            nodes[row, :count] = number[begins] + first_node
            shares[row, :count] = np.add.reduceat(leaf_shares, begins)
        return _PriorLevel(
            nodes=torch.from_numpy(nodes).to(self._device),
            share=torch.from_numpy(shares).to(self._device),
        )
