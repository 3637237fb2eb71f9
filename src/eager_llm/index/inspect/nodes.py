"""The nodes of one source's tree, level by level, as arrays."""

from dataclasses import dataclass

import numpy as np

from eager_llm.index.capacity import capacity_of


@dataclass(frozen=True)
class Nodes:
    """The nodes of a level that hold an item, in the order of their paths.

    Attributes:
        label: of the node under its parent, int64 [nodes].
        parent: number of the parent among the nodes of the level above, int64 [nodes].
        size: items under the node, int64 [nodes].
        of_item: number of the node that an item is under, int64 [items].
    """

    label: np.ndarray
    parent: np.ndarray
    size: np.ndarray
    of_item: np.ndarray


def tree_nodes(codes: np.ndarray, branching: int) -> list[Nodes]:
    """Return the nodes of each level of the paths int [items, height]."""
    levels = []
    parent_of_item = np.zeros(len(codes), dtype=np.int64)
    for labels in codes.T:
        # Numbering the nodes anew at every level limits the keys, however deep the tree.
        keys, of_item, size = np.unique(
            parent_of_item * branching + labels,
            return_inverse=True,
            return_counts=True,
        )
        levels.append(Nodes(keys % branching, keys // branching, size, of_item))
        parent_of_item = of_item
    return levels


@dataclass(frozen=True)
class Balance:
    """How evenly the items of the nodes above spread over the nodes of a level.

    Attributes:
        nodes: nodes that hold an item.
        places: nodes that there could be, under the nodes of the level above.
        labels: labels in use anywhere on the level.
        smallest, largest: items in a node, empty places counted.
        even: smallest and largest even share of a place: its parent's items by k, rounded up.
        over: nodes with more than their even share.
        sizes, counts: the distinct numbers of items in a place and how many places have each,
            int64 [distinct].
    """

    nodes: int
    places: int
    labels: int
    smallest: int
    largest: int
    even: tuple[int, int]
    over: int
    sizes: np.ndarray
    counts: np.ndarray


def balance_of(
    nodes: Nodes,
    parent_sizes: np.ndarray,
    branching: int,
) -> Balance:
    """Return the balance of a level.

    Args:
        parent_sizes: items of each node of the level above, int64 [parents].
        branching: children of a node.
    """
    share = capacity_of(parent_sizes, branching)
    places = len(parent_sizes) * branching
    sizes, counts = np.unique(nodes.size, return_counts=True)
    empty = places - len(nodes.size)
    if empty:
        sizes = np.insert(sizes, 0, 0)
        counts = np.insert(counts, 0, empty)
    is_over = nodes.size > share[nodes.parent]
    return Balance(
        nodes=len(nodes.size),
        places=places,
        labels=len(np.unique(nodes.label)),
        smallest=int(sizes[0]),
        largest=int(sizes[-1]),
        even=(int(share.min()), int(share.max())),
        over=int(is_over.sum()),
        sizes=sizes,
        counts=counts,
    )
