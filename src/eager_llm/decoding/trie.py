"""The trie over the item index as compressed sparse rows, for vectorised look-ups on any device."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file

SCHEMA_VERSION = 1
_METADATA_KEY = "eager_llm_trie"
_TABLES = ("label", "first_child", "first_leaf", "leaf_item", "tail", "vocabulary")
# A path is sorted by one packed key where an int64 without its sign holds it.
_KEY_BITS = 63


class Trie:
    """The prefixes of all items' paths.

    A balanced index names an item by its first source alone: from some level on nothing branches.
    The trie has nodes only as far as paths branch (`depth` levels); what follows is a table of
    `tail` labels, one row a leaf. Nodes are numbered level by level, the root is 0; the children of
    a node, and so the leaves below it, lie side by side. All tables are int32: about 8 bytes a node.

    Attributes:
        levels: tokens of an item.
        depth: levels that have nodes; the nodes of the last one are the leaves, one an item.
        label: [nodes], which of its level's tokens a node stands for.
        first_child: [inner nodes + 1], so that node n has the children first_child[n] up to, but
            without, first_child[n + 1].
        first_leaf: [inner nodes], the first leaf below a node, counted from 0.
        leaf_item: [items], the row in the index of each leaf.
        tail: [items, levels - depth], the labels that follow each leaf.
        tokens: for each level, the token ids in use, rising: int64 [labels].
        rows: the same, as a slice where they follow one another without a gap.
        level_start: the first node of each level, the root's level first; then the number of nodes.
        widest: the most children that a node of each level has.
        digest: names the paths that the trie was built from.
    """

    def __init__(
        self,
        tables: dict[str, torch.Tensor],
        metadata: dict[str, Any],
    ) -> None:
        self.label = tables["label"]
        self.first_child = tables["first_child"]
        self.first_leaf = tables["first_leaf"]
        self.leaf_item = tables["leaf_item"]
        self.tail = tables["tail"]
        self.level_start: list[int] = metadata["level_start"]
        self.widest: list[int] = metadata["widest"]
        self.digest: str = metadata["digest"]
        self.tokens = list(tables["vocabulary"].split(metadata["labels"]))
        self.rows = [_slice_or_ids(tokens) for tokens in self.tokens]
        self.depth = len(self.widest)
        self.levels = len(self.tokens)
        self._tables = tables
        self._metadata = metadata

    @classmethod
    def build(cls, item_tokens: np.ndarray) -> "Trie":
        """Build the trie of int64 [items, levels] token ids, a path an item, no two alike."""
        items, levels = item_tokens.shape
        labels, vocabulary = [], []
        for level in range(levels):
            level_labels, tokens = _label_tokens(item_tokens[:, level])
            labels.append(level_labels)
            vocabulary.append(tokens)
        sizes = [len(tokens) for tokens in vocabulary]
        order = _path_order(labels, sizes)
        tables, level_start, widest = _build_nodes(labels, order)
        tables["leaf_item"] = order
        depth = len(widest)
        tail = np.zeros((items, levels - depth), dtype=np.int32)
        for step in range(levels - depth):
            tail[:, step] = labels[depth + step][order]
        tables["tail"] = tail
        tensors = {}
        for name, table in tables.items():
            narrow = table.astype(np.int32, copy=False)
            tensors[name] = torch.from_numpy(narrow)
        tensors["vocabulary"] = torch.from_numpy(np.concatenate(vocabulary))
        metadata = {
            "schema_version": SCHEMA_VERSION,
            "level_start": level_start,
            "widest": widest,
            "labels": sizes,
            "digest": paths_digest(item_tokens),
        }
        return cls(tensors, metadata)

    def save(self, path: Path) -> None:
        """Write the trie as one safetensors file."""
        from safetensors.torch import save_file

        metadata = {_METADATA_KEY: json.dumps(self._metadata)}
        with whole_file(path) as draft:
            save_file(self._tables, draft, metadata)

    @classmethod
    def load(cls, path: Path) -> "Trie":
        """Map what `save` wrote into memory: nothing is read before it is looked up.

        Raises:
            UserError: the file is missing, no trie, or of another version.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                metadata = json.loads(header.get(_METADATA_KEY, "{}"))
                version = metadata.get("schema_version")
                if version != SCHEMA_VERSION:
                    raise UserError(f"{path}: trie version {version}; expected {SCHEMA_VERSION}")
                tables = {name: file.get_tensor(name) for name in _TABLES}
                return cls(tables, metadata)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not readable as a trie: {error}") from None

    def to(self, device: Any) -> "Trie":
        """Return the trie on a device."""
        tables = {name: table.to(device) for name, table in self._tables.items()}
        return Trie(tables, self._metadata)

    @property
    def items(self) -> int:
        """How many items there are."""
        return len(self.leaf_item)

    @property
    def nodes(self) -> int:
        """How many nodes there are, the root among them."""
        return len(self.label)

    @property
    def bytes(self) -> int:
        """What the tables take, in bytes."""
        return sum(table.nbytes for table in self._tables.values())

    @cached_property
    def leaf_of(self) -> torch.Tensor:
        """The leaf of each item, counted from 0, by the item's row in the index: int32 [items]."""
        device = self.leaf_item.device
        leaves = torch.arange(self.items, dtype=torch.int32, device=device)
        leaf_of = torch.empty_like(self.leaf_item)
        leaf_of[self.leaf_item.long()] = leaves
        return leaf_of

    def path_nodes(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the node of each level on the way to some items, int32 [items, depth].

        Args:
            rows: the items' rows in the index, int64 [items].
        """
        leaves = self.leaf_of[rows]
        nodes = []
        for level in range(1, self.depth):
            start = self.level_start[level]
            end = self.level_start[level + 1]
            first_leaf = self.first_leaf[start:end]
            # The leaves below a node lie side by side: it is the last node that begins at or before
            # the leaf.
            number = torch.searchsorted(first_leaf, leaves, right=True) - 1
            nodes.append(number + start)
        nodes.append(leaves + self.level_start[self.depth])
        return torch.stack([node.int() for node in nodes], dim=1)

    def children(
        self,
        nodes: torch.Tensor,
        level: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the children of nodes [...] of a level, and which of them exist.

        Where a child does not exist, some other node of the same level stands in for it.

        Returns:
            Nodes int32 [..., widest of the level] and bool of the same shape.
        """
        widest = self.widest[level]
        offset = torch.arange(widest, dtype=torch.int32, device=nodes.device)
        first = self.first_child[nodes][..., None]
        end = self.first_child[nodes + 1][..., None]
        child = first + offset
        exists = child < end
        last = self.level_start[level + 2] - 1
        return child.clamp_(max=last), exists


def paths_digest(item_tokens: np.ndarray) -> str:
    """Return a SHA-256 that names the paths int64 [items, levels]."""
    digest = hashlib.sha256(repr(item_tokens.shape).encode())
    digest.update(item_tokens.astype("<i8").tobytes())
    return digest.hexdigest()


def _slice_or_ids(tokens: torch.Tensor) -> slice | torch.Tensor:
    start = int(tokens[0])
    end = int(tokens[-1]) + 1
    has_gap = end - start > len(tokens)
    return tokens if has_gap else slice(start, end)


def _label_tokens(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number a level's tokens: each item's label, and the token id of each label, rising."""
    lowest = tokens.min()
    offsets = tokens - lowest
    width = tokens.max() - lowest + 1
    is_used = np.zeros(width, dtype=bool)
    is_used[offsets] = True
    label_of = np.cumsum(is_used) - 1
    used_tokens = np.flatnonzero(is_used) + lowest
    return label_of[offsets], used_tokens


def _path_order(
    labels: list[np.ndarray],
    sizes: list[int],
) -> np.ndarray:
    """Return the order that sorts the paths: by one packed key where it fits (tenfold faster).

    Args:
        labels: of all items, for each level.
        sizes: how many labels each level has.
    """
    bits = [max(1, (size - 1).bit_length()) for size in sizes]
    if sum(bits) > _KEY_BITS:
        return np.lexsort(labels[::-1])
    key = np.zeros(len(labels[0]), dtype=np.int64)
    for level_labels, width in zip(labels, bits, strict=True):
        key = (key << width) | level_labels
    return np.argsort(key)


def _build_nodes(
    labels: list[np.ndarray],
    order: np.ndarray,
) -> tuple[dict[str, np.ndarray], list[int], list[int]]:
    """Number the nodes level by level, as far as the paths branch.

    Args:
        labels: of all items, for each level.
        order: sorts the paths.

    Returns:
        The tables `label`, `first_child` and `first_leaf`, then `level_start` and `widest`: see
        `Trie`.
    """
    items = len(order)
    label = [np.zeros(1, dtype=np.int64)]
    first_child, first_leaf, widest = [], [], []
    level_start = [0, 1]
    # Where the sorted paths begin that share a node: of the level above, and of the level itself.
    parent_starts = np.zeros(1, dtype=np.int64)
    begins_node = np.zeros(items, dtype=bool)
    begins_node[0] = True
    for level_labels in labels:
        path = level_labels[order]
        begins_node[1:] |= path[1:] != path[:-1]
        starts = np.flatnonzero(begins_node)
        # Of each node of the level above: its first child, counted from 0 in the level.
        first = np.searchsorted(starts, parent_starts)
        children = np.diff(first, append=len(starts))
        label.append(path[starts])
        first_child.append(level_start[-1] + first)
        first_leaf.append(parent_starts)
        widest.append(int(children.max()))
        nodes_so_far = level_start[-1] + len(starts)
        level_start.append(nodes_so_far)
        parent_starts = starts
        if len(starts) == items:
            break
    first_child.append(np.array([level_start[-1]]))
    tables = {
        "label": np.concatenate(label),
        "first_child": np.concatenate(first_child),
        "first_leaf": np.concatenate(first_leaf),
    }
    return tables, level_start, widest
