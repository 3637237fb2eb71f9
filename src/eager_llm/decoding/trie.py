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


class Trie:
    """The prefixes of all items' paths.

    A balanced index names an item by its first source alone: from some level on nothing branches. The
    trie has nodes only as far as paths branch (`depth` levels); what follows is kept as a table of
    `tail` labels, one row a leaf. Nodes are numbered level by level, the root is 0; the children of a
    node, and so the leaves below it, lie side by side. All tables are int32: about 8 bytes a node.

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

    def __init__(self, tables: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        self.label, self.first_child = tables["label"], tables["first_child"]
        self.first_leaf, self.leaf_item, self.tail = (
            tables["first_leaf"],
            tables["leaf_item"],
            tables["tail"],
        )
        self.level_start: list[int] = facts["level_start"]
        self.widest: list[int] = facts["widest"]
        self.digest: str = facts["digest"]
        self.tokens = list(tables["vocabulary"].split(facts["labels"]))
        self.rows = [_slice_or_ids(tokens) for tokens in self.tokens]
        self.depth, self.levels = len(self.widest), len(self.tokens)
        self._tables, self._facts = tables, facts

    @classmethod
    def build(cls, item_tokens: np.ndarray) -> "Trie":
        """Build the trie of int64 [items, levels] token ids, a path an item, no two alike."""
        items, levels = item_tokens.shape
        columns = [_labels(item_tokens[:, level]) for level in range(levels)]
        order = _order([labels for labels, _ in columns], [len(tokens) for _, tokens in columns])
        is_new = np.zeros(items, dtype=bool)  # a prefix starts at this sorted item
        is_new[0] = True
        start = np.zeros(1, dtype=np.int64)
        label, first_child, first_leaf, widest = [np.zeros(1, dtype=np.int64)], [], [], []
        level_start = [0, 1]
        for labels, _ in columns:
            path = labels[order]
            is_new[1:] |= path[1:] != path[:-1]
            child_start = np.flatnonzero(is_new)
            bounds = np.append(np.searchsorted(child_start, start), len(child_start))
            first_child.append(level_start[-1] + bounds[:-1])
            first_leaf.append(start)
            widest.append(int(np.diff(bounds).max()))
            label.append(path[child_start])
            start = child_start
            level_start.append(level_start[-1] + len(start))
            if len(start) == items:
                break
        first_child.append(np.array([level_start[-1]]))
        tail = [labels[order] for labels, _ in columns[len(widest) :]]
        tables = {
            "label": np.concatenate(label),
            "first_child": np.concatenate(first_child),
            "first_leaf": np.concatenate(first_leaf),
            "leaf_item": order,
            "tail": np.stack(tail, axis=1) if tail else np.zeros((items, 0)),
        }
        narrow = {name: torch.from_numpy(table.astype(np.int32)) for name, table in tables.items()}
        narrow["vocabulary"] = torch.from_numpy(np.concatenate([tokens for _, tokens in columns]))
        facts = {
            "schema_version": SCHEMA_VERSION,
            "level_start": level_start,
            "widest": widest,
            "labels": [len(tokens) for _, tokens in columns],
            "digest": paths_digest(item_tokens),
        }
        return cls(narrow, facts)

    def save(self, path: Path) -> None:
        """Write the trie as one safetensors file."""
        from safetensors.torch import save_file

        with whole_file(path) as draft:
            save_file(self._tables, draft, {_METADATA_KEY: json.dumps(self._facts)})

    @classmethod
    def load(cls, path: Path) -> "Trie":
        """Map what `save` wrote into memory: nothing is read before it is looked up.

        Raises:
            UserError: the file is missing, no trie, or of another version.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
                if facts.get("schema_version") != SCHEMA_VERSION:
                    raise UserError(
                        f"{path}: trie version {facts.get('schema_version')}; expected {SCHEMA_VERSION}"
                    )
                return cls({name: file.get_tensor(name) for name in _TABLES}, facts)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not readable as a trie: {error}") from None

    def to(self, device: Any) -> "Trie":
        """Return the trie on a device."""
        return Trie({name: table.to(device) for name, table in self._tables.items()}, self._facts)

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
        leaf = torch.empty_like(self.leaf_item)
        leaf[self.leaf_item.long()] = torch.arange(
            self.items, dtype=torch.int32, device=leaf.device
        )
        return leaf

    def path_nodes(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the node of each level on the way to some items, int32 [items, depth].

        Args:
            rows: the items' rows in the index, int64 [items].
        """
        wanted, nodes = self.leaf_of[rows], []
        for level in range(1, self.depth):
            start, end = self.level_start[level], self.level_start[level + 1]
            # The leaves below a node lie side by side: the last node that begins at or before the leaf.
            nodes.append(
                torch.searchsorted(self.first_leaf[start:end], wanted, right=True) - 1 + start
            )
        nodes.append(wanted + self.level_start[self.depth])
        return torch.stack([node.int() for node in nodes], dim=1)

    def children(self, nodes: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return child nodes [..., widest] of nodes [...] of a level, and which of them exist.

        Where a child does not exist, some other node of the same level stands in for it.
        """
        offset = torch.arange(self.widest[level], dtype=torch.int32, device=nodes.device)
        child = self.first_child[nodes][..., None] + offset
        exists = child < self.first_child[nodes + 1][..., None]
        return child.clamp_(max=self.level_start[level + 2] - 1), exists


def _slice_or_ids(tokens: torch.Tensor) -> slice | torch.Tensor:
    low, high = int(tokens[0]), int(tokens[-1]) + 1
    return slice(low, high) if high - low == len(tokens) else tokens


def paths_digest(item_tokens: np.ndarray) -> str:
    """Return a SHA-256 that names the paths int64 [items, levels]."""
    digest = hashlib.sha256(repr(item_tokens.shape).encode())
    digest.update(item_tokens.astype("<i8").tobytes())
    return digest.hexdigest()


def _labels(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number a level's tokens: each item's label, and the token id of each label, rising."""
    low = tokens.min()
    used = np.zeros(tokens.max() - low + 1, dtype=bool)
    used[tokens - low] = True
    return (np.cumsum(used) - 1)[tokens - low], np.flatnonzero(used) + low


def _order(columns: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Return the order that sorts the paths: by one packed key where 63 bits hold it (tenfold faster)."""
    bits = [max(1, (size - 1).bit_length()) for size in sizes]
    if sum(bits) > 63:
        return np.lexsort(columns[::-1])
    key = np.zeros(len(columns[0]), dtype=np.int64)
    for column, width in zip(columns, bits, strict=True):
        key = (key << width) | column
    return np.argsort(key)
