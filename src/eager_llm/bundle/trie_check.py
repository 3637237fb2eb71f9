"""Whether every item's tokens lead to it in the trie.

Shapes: I items, L levels of the index, D depth of the trie; the last L - D tokens are its tails.
"""

import numpy as np
import pandas as pd

from eager_llm.decoding.trie import Trie


def lost_items(item_ids: list[str], tokens: np.ndarray, trie: Trie) -> pd.DataFrame:
    """Walk the trie by every item's tokens, and return the items that the walk does not end at.

    Args:
        item_ids: [I], in the order of the item index.
        tokens: int [I, L], each item's token ids.

    Returns:
        `item_id` and `found`: the item at the end of the walk, or how far it went.
    """
    labels = _labels(tokens, trie)
    nodes, depths = _walk(labels, trie)
    at_leaf = depths == trie.depth
    first_leaf = trie.level_start[trie.depth]
    leaves = np.where(at_leaf, nodes - first_leaf, 0)
    items = trie.leaf_item.numpy()[leaves]
    tails = trie.tail.numpy()[leaves]
    tails_match = (tails == labels[:, trie.depth :]).all(axis=1)
    is_own_item = items == np.arange(len(tokens))
    names: list[str] = []
    ends: list[str] = []
    for row in np.flatnonzero(~(at_leaf & tails_match & is_own_item)):
        names.append(item_ids[row])
        if not at_leaf[row]:
            ends.append(f"no item: left the trie after {depths[row]} tokens")
        elif tails_match[row]:
            ends.append(f"item {item_ids[items[row]]}")
        else:
            ends.append("no item: its last tokens are others")
    return pd.DataFrame({"item_id": names, "found": ends}, dtype="str")


def _walk(labels: np.ndarray, trie: Trie) -> tuple[np.ndarray, np.ndarray]:
    """Follow every item's labels down the trie, all items at once.

    Args:
        labels: int [I, L]; see `_labels`.

    Returns:
        The last node of each walk and its depth, int64 [I] each; 0 where it left the trie early.
    """
    nodes = np.zeros(len(labels), dtype=np.int64)
    depths = np.zeros(len(labels), dtype=np.int64)
    for level in range(trie.depth):
        children, is_child = _child(nodes, labels[:, level], trie)
        steps = (depths == level) & is_child
        depths += steps
        nodes = np.where(steps, children, 0)
    return nodes, depths


def _child(nodes: np.ndarray, labels: np.ndarray, trie: Trie) -> tuple[np.ndarray, np.ndarray]:
    """Return each node's child with a label, int64 [I], and whether there is one, bool [I].

    The children of a node lie side by side, their labels rising: all nodes are bisected at once.
    """
    first_child = trie.first_child.numpy()
    child_labels = trie.label.numpy()
    last = len(child_labels) - 1
    low = first_child[nodes]
    end = first_child[nodes + 1]
    high = end.copy()
    is_open = low < high
    while is_open.any():
        middle = (low + high) // 2
        middle_labels = child_labels[np.minimum(middle, last)]
        is_less = is_open & (middle_labels < labels)
        low = np.where(is_less, middle + 1, low)
        high = np.where(is_open & ~is_less, middle, high)
        is_open = low < high
    low_labels = child_labels[np.minimum(low, last)]
    is_child = (low < end) & (low_labels == labels)
    return low, is_child


def _labels(tokens: np.ndarray, trie: Trie) -> np.ndarray:
    """Return each token's label in its level, int [I, L]; -1 where the level has no such token."""
    columns: list[np.ndarray] = []
    for level, level_tokens in enumerate(trie.tokens):
        vocabulary = level_tokens.numpy()  # in rising order
        column = tokens[:, level]
        labels = np.searchsorted(vocabulary, column)
        labels = labels.clip(max=len(vocabulary) - 1)
        is_known = vocabulary[labels] == column
        columns.append(np.where(is_known, labels, -1))
    return np.stack(columns, axis=1)
