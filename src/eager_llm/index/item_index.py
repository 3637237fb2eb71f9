"""The item index: the one place that maps items to tokens and back, and that saves and loads them.

Shapes: N items, L levels, K labels of a level, D dimensions of a source's embedding.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.index.index_file import (
    IndexArrays,
    read_index_arrays,
    read_index_metadata,
    write_index,
)
from eager_llm.index.paths import path_keys, path_tokens, token


@dataclass(frozen=True)
class ItemIndex:
    """Items and their paths.

    Attributes:
        item_ids: the items, in the order of `codes`.
        codes: a path an item, int32 [N, L]; levels of the first source come first.
        sources: the source of each level, such as ("semantic", "semantic", "behaviour").
        branching: labels of a level, K.
        centroids: for each level its codebook, float32 [K, D]; the sum of a path's centroids over
            the levels of a source is the path's point in that source.
        errors: squared distance of an item from its path's point after each level, when it got its
            path, float32 [N, L].
        version: 1 for a build, one more for each change.
        parent: checksum of the version before, empty for a build.
        keeps: checksums of the versions before, oldest first, whose paths this one keeps: no item
            has another path than it had there. A version that moves items begins anew.
        change: what made this version, such as {"action": "assign", "added": 12}.

    Raises:
        UserError: items, paths and labels contradict one another.
    """

    item_ids: list[str]
    codes: np.ndarray
    sources: tuple[str, ...]
    branching: int
    centroids: list[np.ndarray] = field(default_factory=list, repr=False)
    errors: np.ndarray | None = field(default=None, repr=False)
    version: int = 1
    parent: str = ""
    keeps: tuple[str, ...] = ()
    change: dict[str, Any] = field(default_factory=lambda: {"action": "build"})

    def __post_init__(self) -> None:
        if len(set(self.item_ids)) != len(self.item_ids):
            raise UserError("the item index names an item twice")
        shape = (len(self.item_ids), len(self.sources))
        if self.codes.shape != shape:
            raise UserError(
                f"the item index has paths {self.codes.shape}; "
                f"expected one of {len(self.sources)} an item"
            )
        last_label = self.branching - 1
        if len(self.codes) and not 0 <= self.codes.min() <= self.codes.max() <= last_label:
            raise UserError(f"the item index has a label outside 0..{last_label}")
        for source, levels in self.levels_of.items():
            keys = path_keys(self.codes[:, levels], self.branching)
            if len(np.unique(keys)) != len(keys):
                raise UserError(f"two items of the item index share a {source} path")

    @property
    def levels(self) -> int:
        """Tokens of an item."""
        return len(self.sources)

    @cached_property
    def levels_of(self) -> dict[str, slice]:
        """The levels of each source, in the order of the sources."""
        names = list(dict.fromkeys(self.sources))
        starts = [self.sources.index(name) for name in names]
        stops = [*starts[1:], self.levels]
        levels = {}
        for name, start, stop in zip(names, starts, stops, strict=True):
            levels[name] = slice(start, stop)
        return levels

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each item."""
        return {item: row for row, item in enumerate(self.item_ids)}

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every index token, level by level: `<a_0>`, ..., `<b_0>`, ...; [L * K]."""
        tokens: list[str] = []
        for level in range(self.levels):
            tokens.extend(token(level, label) for label in range(self.branching))
        return tokens

    @property
    def token_numbers(self) -> np.ndarray:
        """The position in the vocabulary of each token of each item, int [N, L]."""
        return self.codes + np.arange(self.levels) * self.branching

    def tokens(self, item_id: str) -> list[str]:
        """Return the tokens of an item. Raises KeyError for an unknown one."""
        return path_tokens(self.codes[self.rows[item_id]])

    def item(self, tokens: list[str]) -> str | None:
        """Return the item of a path of tokens, or None where no item has it."""
        return self._item_of_path.get(tuple(tokens))

    @cached_property
    def _item_of_path(self) -> dict[tuple[str, ...], str]:
        return {tuple(self.tokens(item)): item for item in self.item_ids}

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of everything that the index says, in hexadecimal."""
        metadata = json.dumps(self._metadata(), sort_keys=True)
        digest = hashlib.sha256(metadata.encode())
        digest.update("\0".join(self.item_ids).encode())
        errors = np.zeros(0) if self.errors is None else self.errors
        arrays = (self.codes.astype(np.int32), errors.astype(np.float32), *self.centroids)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def version_name(self) -> str:
        """Names this version and no other, such as `v1-0123456789ab`."""
        return f"v{self.version}-{self.checksum[:12]}"

    def successor(self, moved: bool = False, **changes: Any) -> "ItemIndex":
        """Return the next version, which names this one as its parent.

        Args:
            moved: whether an item of this version has another path in the next.
            changes: attributes that differ.
        """
        keeps = () if moved else (*self.keeps, self.checksum)
        return replace(
            self,
            version=self.version + 1,
            parent=self.checksum,
            keeps=keeps,
            **changes,
        )

    def continues(self, checksum: str) -> bool:
        """Tell whether this is the version of a checksum, or a later one that moved no item."""
        return checksum in (self.checksum, *self.keeps)

    def save(self, path: Path) -> None:
        """Write one Parquet: a row an item, and a row a centroid."""
        write_index(
            path,
            arrays=IndexArrays(self.item_ids, self.codes, self.errors, self.centroids),
            sources=self.sources,
            vocabulary=self.vocabulary,
            metadata={"checksum": self.checksum, **self._metadata()},
        )

    @classmethod
    def load(cls, path: Path) -> "ItemIndex":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, no item index, of another version, inconsistent, or not
                what its checksum says.
        """
        metadata = read_index_metadata(path)
        arrays = read_index_arrays(path, len(metadata["sources"]))
        index = cls(
            item_ids=arrays.item_ids,
            codes=arrays.codes,
            sources=tuple(metadata["sources"]),
            branching=metadata["branching"],
            centroids=arrays.centroids,
            errors=arrays.errors,
            version=metadata["version"],
            parent=metadata["parent"],
            keeps=tuple(metadata.get("keeps", ())),
            change=metadata["change"],
        )
        if index.checksum != metadata["checksum"]:
            raise UserError(
                f"{path}: the item index is not what its checksum says; build or copy it again"
            )
        return index

    def _metadata(self) -> dict[str, Any]:
        """Return what the index says of itself beside its arrays."""
        metadata: dict[str, Any] = {
            "branching": self.branching,
            "sources": self.sources,
            "version": self.version,
            "parent": self.parent,
            "change": self.change,
        }
        # Left out where empty: indices from before `keeps` existed keep their checksum.
        if self.keeps:
            metadata["keeps"] = list(self.keeps)
        return metadata


def prefix_purity(
    index: ItemIndex,
    items: pd.DataFrame,
    column: str,
) -> dict[str, float]:
    """Return how often two items under one first-level node share a field, for each source.

    A quick look at what the index separates: the mean share of the commonest value of a node.

    Args:
        items: with the columns item_id and `column`.
    """
    values = items.set_index("item_id")[column].reindex(index.item_ids)
    purity = {}
    for source, levels in index.levels_of.items():
        first_labels = index.codes[:, levels.start]
        nodes = pd.Series(values.to_numpy()).groupby(first_labels)
        purity[source] = float(nodes.agg(_commonest_share).mean())
    return purity


def _commonest_share(values: pd.Series) -> float:
    return values.value_counts(normalize=True).max()
