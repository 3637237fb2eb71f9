"""The item index: the one place that maps items to tokens and back, and that saves and loads them."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file

SCHEMA_VERSION = 2
_METADATA_KEY = b"eager_llm_item_index"


@dataclass(frozen=True)
class ItemIndex:
    """Items and their paths.

    Attributes:
        item_ids: the items, in the order of `codes`.
        codes: int32 [items, levels], a path an item; levels of the first source come first.
        sources: the source of each level, such as ("semantic", "semantic", "behaviour").
        branching: labels of a level.
        centroids: for each level its codebook, float32 [k, dim of the source]; the sum of a path's
            centroids over the levels of a source is the path's point in that source.
        errors: float32 [items, levels], squared distance of an item from its path's point after
            each level, when it got its path.
        version: 1 for a build, one more for each change.
        parent: checksum of the version before, empty for a build.
        keeps: checksums of the versions before, oldest first, whose paths this one keeps: no item has another
            path than it had there. A version that moves items begins anew.
        change: what made this version, such as {"action": "assign", "added": 12}.
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
        if self.codes.shape != (len(self.item_ids), len(self.sources)):
            raise UserError(
                f"the item index has paths {self.codes.shape}; expected one of {len(self.sources)} an item"
            )
        if len(self.codes) and not (self.codes.min() >= 0 and self.codes.max() < self.branching):
            raise UserError(f"the item index has a label outside 0..{self.branching - 1}")
        for source, levels in self.levels_of.items():
            path = path_keys(self.codes[:, levels], self.branching)
            if len(np.unique(path)) != len(path):
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
        return {
            name: slice(a, b)
            for name, a, b in zip(names, starts, [*starts[1:], self.levels], strict=True)
        }

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each item."""
        return {item: row for row, item in enumerate(self.item_ids)}

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every index token, level by level: `<a_0>`, ..., `<b_0>`, ...; [levels * branching]."""
        return [
            f"<{letters(level)}_{label}>"
            for level in range(self.levels)
            for label in range(self.branching)
        ]

    @property
    def token_numbers(self) -> np.ndarray:
        """The place in the vocabulary of each token of each item, int [items, levels]."""
        return self.codes + np.arange(self.levels) * self.branching

    def tokens(self, item_id: str) -> list[str]:
        """Return the tokens of an item. Raises KeyError for an unknown one."""
        return [
            f"<{letters(level)}_{label}>"
            for level, label in enumerate(self.codes[self.rows[item_id]])
        ]

    def item(self, tokens: list[str]) -> str | None:
        """Return the item of a path of tokens, or None where no item has it."""
        return self._by_path.get(tuple(tokens))

    @cached_property
    def _by_path(self) -> dict[tuple[str, ...], str]:
        return {tuple(self.tokens(item)): item for item in self.item_ids}

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of everything that the index says, in hexadecimal."""
        digest = hashlib.sha256(json.dumps(self._facts(), sort_keys=True).encode())
        digest.update("\0".join(self.item_ids).encode())
        errors = np.zeros(0) if self.errors is None else self.errors
        for array in (self.codes.astype(np.int32), errors.astype(np.float32), *self.centroids):
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
        """
        keeps = () if moved else (*self.keeps, self.checksum)
        return replace(self, version=self.version + 1, parent=self.checksum, keeps=keeps, **changes)

    def continues(self, checksum: str) -> bool:
        """Tell whether this is the version of a checksum, or one after it that has moved none of its items."""
        return checksum in (self.checksum, *self.keeps)

    def save(self, path: Path) -> None:
        """Write one Parquet: a row an item, and a row a centroid."""
        facts = {"schema_version": SCHEMA_VERSION, "checksum": self.checksum, **self._facts()}
        table = pa.concat_tables(
            [self._items_table(), self._nodes_table()], promote_options="default"
        )
        table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(facts).encode()})
        with whole_file(path) as draft:
            pq.write_table(table, draft, row_group_size=1 << 20, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> "ItemIndex":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, no item index, of another version, inconsistent, or not
                what its checksum says.
        """
        facts = index_facts(path)
        try:
            table = pq.read_table(path, columns=["item_id", "codes", "errors", "level", "vector"])
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: not readable as an item index: {error}") from None
        is_item = table["item_id"].is_valid()
        items, nodes = table.filter(is_item), table.filter(pc.invert(is_item))
        levels = len(facts["sources"])
        node_levels = nodes["level"].to_numpy()
        index = cls(
            items["item_id"].to_pylist(),
            _matrix(items["codes"], levels, np.int32),
            tuple(facts["sources"]),
            facts["branching"],
            [
                _rows(nodes["vector"].filter(pa.array(node_levels == level)))
                for level in np.unique(node_levels)
            ],
            None if items["errors"].null_count else _matrix(items["errors"], levels, np.float32),
            facts["version"],
            facts["parent"],
            tuple(facts.get("keeps", ())),
            facts["change"],
        )
        if index.checksum != facts["checksum"]:
            raise UserError(
                f"{path}: the item index is not what its checksum says; build or copy it again"
            )
        return index

    def _facts(self) -> dict[str, Any]:
        names = ("branching", "sources", "version", "parent", "change")
        facts = {name: getattr(self, name) for name in names}
        # Left out where there are none: indices that were built before versions were kept keep their checksum.
        return {**facts, "keeps": list(self.keeps)} if self.keeps else facts

    def _items_table(self) -> pa.Table:
        numbers = self.token_numbers.astype(np.int32).reshape(-1)
        tokens = pa.DictionaryArray.from_arrays(numbers, pa.array(self.vocabulary))
        columns = {
            "item_id": pa.array(self.item_ids, pa.string()),
            "tokens": _lists(tokens, self.levels),
        }
        columns["codes"] = _lists(self.codes.astype(np.int32), self.levels)
        if self.errors is not None:
            columns["errors"] = _lists(self.errors.astype(np.float32), self.levels)
        else:
            columns["errors"] = pa.nulls(len(self.item_ids), pa.list_(pa.float32()))
        return pa.table(columns)

    def _nodes_table(self) -> pa.Table:
        parts = [
            pa.table({
                "level": pa.array(np.full(len(codebook), level, np.int32)),
                "source": pa.array([self.sources[level]] * len(codebook), pa.string()),
                "label": pa.array(np.arange(len(codebook), dtype=np.int32)),
                "vector": _lists(codebook.astype(np.float32), codebook.shape[1]),
            })
            for level, codebook in enumerate(self.centroids)
        ]  # fmt: skip
        types = [("level", pa.int32()), ("source", pa.string()), ("label", pa.int32())]
        empty = pa.schema([*types, ("vector", pa.list_(pa.float32()))]).empty_table()
        return pa.concat_tables([empty, *parts])


def index_facts(path: Path) -> dict[str, Any]:
    """Return what an index file says of itself: sources, branching, version and so on.

    Raises:
        UserError: the file is missing, no item index, or of another version.
    """
    try:
        facts: dict[str, Any] = json.loads(
            (pq.read_schema(path).metadata or {}).get(_METADATA_KEY, b"{}")
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not readable as an item index: {error}") from None
    if facts.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path}: item index version {facts.get('schema_version')}; expected {SCHEMA_VERSION}"
        )
    return facts


def path_keys(codes: np.ndarray, branching: int) -> np.ndarray:
    """Return a number for each path, int64 [items]; equal paths have equal numbers."""
    keys = np.zeros(len(codes), dtype=np.int64)
    for level in range(codes.shape[1]):
        if (
            keys.max(initial=0) > 2**62 // branching
        ):  # too deep for whole numbers: rank what there is
            keys = np.unique(keys, return_inverse=True)[1]
        keys = keys * branching + codes[:, level]
    return keys


def _lists(values: Any, width: int) -> pa.Array:
    """Return a list column from values that lie row after row, `width` to a row."""
    flat = values if isinstance(values, pa.Array) else pa.array(values.reshape(-1))
    return pa.ListArray.from_arrays(np.arange(0, len(flat) + 1, width, dtype=np.int32), flat)


def _matrix(column: pa.ChunkedArray, width: int, dtype: type) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy().astype(dtype, copy=False).reshape(-1, width)


def _rows(column: pa.ChunkedArray) -> np.ndarray:
    flat = column.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(column), -1).astype(np.float32, copy=False)


def letters(level: int) -> str:
    """Name a level: a, b, ..., z, aa, ab, ..."""
    name = ""
    level += 1
    while level:
        level, digit = divmod(level - 1, 26)
        name = chr(ord("a") + digit) + name
    return name


def prefix_purity(index: ItemIndex, items: pd.DataFrame, column: str) -> dict[str, float]:
    """Return how often two items under one first-level node share a field, for each source.

    A quick look at what the index has understood: the mean share of the commonest value.
    """
    values = items.set_index("item_id")[column].reindex(index.item_ids).to_numpy()
    purity = {}
    for level, source in enumerate(index.sources):
        if source in purity:
            continue
        groups = pd.Series(values).groupby(index.codes[:, level])
        purity[source] = float(groups.agg(lambda g: g.value_counts(normalize=True).max()).mean())
    return purity
