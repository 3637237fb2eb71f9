"""The trie over the item index as compressed sparse rows, for vectorised look-ups."""

import numpy as np
import torch


class Trie:
    """The prefixes of all items' paths.

    Nodes are numbered level by level, the root is 0; the children of a node lie side by side.

    Args:
        item_tokens: int64 [items, levels], the token ids of each item's path.
        device: where the tables are kept.
    """

    def __init__(self, item_tokens: np.ndarray, device: str = "cpu") -> None:
        items, self.levels = item_tokens.shape
        order = np.lexsort(item_tokens.T[::-1])
        path = item_tokens[order]
        # is_new[i, l]: the prefix of length l + 1 starts at sorted item i.
        is_new = np.ones((items, self.levels), dtype=bool)
        is_new[1:] = np.logical_or.accumulate(path[1:] != path[:-1], axis=1)
        tokens, first_child, child_count = [np.zeros(1, dtype=np.int64)], [], []
        parent_start = np.zeros(1, dtype=np.int64)
        nodes = 1
        for level in range(self.levels):
            start = np.flatnonzero(is_new[:, level])
            count = np.diff(np.append(np.searchsorted(start, parent_start), len(start)))
            first_child.append(nodes + np.append(0, np.cumsum(count)[:-1]))
            child_count.append(count)
            tokens.append(path[start, level])
            parent_start, nodes = start, nodes + len(start)
        self.first_leaf = nodes - items
        self.token = torch.from_numpy(np.concatenate(tokens)).to(device)
        self.first_child = torch.from_numpy(np.concatenate(first_child)).to(device)
        self.child_count = torch.from_numpy(np.concatenate(child_count)).to(device)
        self.widest = [int(count.max()) for count in child_count]
        self._leaf_item = torch.from_numpy(order).to(device)

    def children(self, nodes: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return child nodes [..., widest] of nodes [...] at a level, and which of them exist."""
        offset = torch.arange(self.widest[level], device=nodes.device)
        exists = offset < self.child_count[nodes][..., None]
        return torch.where(exists, self.first_child[nodes][..., None] + offset, 0), exists

    def items(self, leaves: torch.Tensor) -> torch.Tensor:
        """Return the item row of each leaf."""
        return self._leaf_item[leaves - self.first_leaf]
