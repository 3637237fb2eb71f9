"""Which items may come, as flags on the nodes of the trie.

Shapes: P prompts, W beams, C children of a node (the most that a node of the level has).
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Exclusion:
    """Nodes of one level that single prompts may not enter; n is the most of a prompt.

    Attributes:
        parent: the parent of each node, int32 [P, n]; -1 where a prompt has fewer than n.
        offset: which child of its parent each node is, int64 [P, n].
    """

    parent: torch.Tensor
    offset: torch.Tensor

    def remove(
        self,
        nodes: torch.Tensor,
        exists: torch.Tensor,
    ) -> torch.Tensor:
        """Return which of the existing children [P, W, C] of nodes [P, W] are not excluded."""
        children = exists.shape[-1]
        is_parent = nodes[..., None] == self.parent[:, None]  # [P, W, n]
        # What is not to be marked goes into one column behind the children.
        column = torch.where(is_parent, self.offset[:, None], children)
        is_excluded = exists.new_zeros((*exists.shape[:-1], children + 1))
        is_excluded.scatter_(-1, column, True)
        return exists & ~is_excluded[..., :-1]


@dataclass(frozen=True)
class Constraint:
    """What the prompts of one batch may be answered with.

    Attributes:
        flags: whether an allowed item lies below a node, bool [masks, nodes]; None: all may come.
        mask: which row of the flags each prompt goes by, int [P].
        excluded: for each level, what a prompt in particular may not enter; None: nothing.
    """

    flags: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    excluded: list[Exclusion | None] | None = None

    def narrow(
        self,
        level: int,
        nodes: torch.Tensor,
        child: torch.Tensor,
        exists: torch.Tensor,
    ) -> torch.Tensor:
        """Return which children may be entered, bool [P, W, C].

        Args:
            nodes: of the level, [P, W].
            child: their children, [P, W, C].
            exists: whether there is such a child, bool [P, W, C].
        """
        if self.flags is not None and self.mask is not None:
            nodes_a_mask = self.flags.shape[1]
            index = child + (self.mask * nodes_a_mask)[:, None, None]
            flags = self.flags.view(-1).index_select(0, index.flatten())
            exists = exists & flags.view(child.shape)
        excluded = None if self.excluded is None else self.excluded[level]
        if excluded is not None:
            exists = excluded.remove(nodes, exists)
        return exists
