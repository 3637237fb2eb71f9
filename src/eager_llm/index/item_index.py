"""The item index: the one place that maps items to tokens and back, and that saves and loads them."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eager_llm.errors import UserError
from eager_llm.files import whole_file

SCHEMA_VERSION = 1
_METADATA_KEY = b"eager_llm_item_index"


@dataclass(frozen=True)
class ItemIndex:
    """Items and their paths.

    Attributes:
        item_ids: the items, in the order of `codes`.
        codes: int64 [items, levels], a path an item; levels of the first source come first.
        sources: the source of each level, such as ("semantic", "semantic", "behaviour").
        branching: labels of a level.
        centroids: for each level its codebook, float32 [k, dim of the source].
    """

    item_ids: list[str]
    codes: np.ndarray
    sources: tuple[str, ...]
    branching: int
    centroids: list[np.ndarray] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if len(set(self.item_ids)) != len(self.item_ids):
            raise UserError("the item index names an item twice")
        if self.codes.shape != (len(self.item_ids), len(self.sources)):
            raise UserError(f"the item index has paths {self.codes.shape}; expected one of {len(self.sources)} an item")
        if len(self.codes) and not (self.codes.min() >= 0 and self.codes.max() < self.branching):
            raise UserError(f"the item index has a label outside 0..{self.branching - 1}")
        if len(np.unique(self.codes, axis=0)) != len(self.codes):
            raise UserError("two items of the item index share a path")

    @property
    def levels(self) -> int:
        """Tokens of an item."""
        return len(self.sources)

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each item."""
        return {item: row for row, item in enumerate(self.item_ids)}

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every index token, level by level: `<a_0>`, ..., `<b_0>`, ...; [levels * branching]."""
        return [f"<{letters(level)}_{label}>" for level in range(self.levels) for label in range(self.branching)]

    def tokens(self, item_id: str) -> list[str]:
        """Return the tokens of an item. Raises KeyError for an unknown one."""
        return [f"<{letters(level)}_{label}>" for level, label in enumerate(self.codes[self.rows[item_id]])]

    def item(self, tokens: list[str]) -> str | None:
        """Return the item of a path of tokens, or None where no item has it."""
        return self._by_path.get(tuple(tokens))

    @cached_property
    def _by_path(self) -> dict[tuple[str, ...], str]:
        return {tuple(self.tokens(item)): item for item in self.item_ids}

    def save(self, path: Path) -> None:
        """Write one Parquet: a row an item, and a row a centroid."""
        items = [
            {"item_id": item, "tokens": self.tokens(item), "codes": codes.tolist()}
            for item, codes in zip(self.item_ids, self.codes, strict=True)
        ]
        nodes = [
            {"level": level, "source": self.sources[level], "label": label, "vector": vector.tolist()}
            for level, codebook in enumerate(self.centroids)
            for label, vector in enumerate(codebook)
        ]
        schema = pa.schema(
            [
                ("item_id", pa.string()),
                ("tokens", pa.list_(pa.string())),
                ("codes", pa.list_(pa.int32())),
                ("level", pa.int32()),
                ("source", pa.string()),
                ("label", pa.int32()),
                ("vector", pa.list_(pa.float32())),
            ]
        )
        facts = {"schema_version": SCHEMA_VERSION, "branching": self.branching, "sources": self.sources}
        table = pa.Table.from_pylist([*items, *nodes], schema=schema)
        table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(facts).encode()})
        with whole_file(path) as draft:
            pq.write_table(table, draft)

    @classmethod
    def load(cls, path: Path) -> "ItemIndex":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, no item index, of another version, or inconsistent.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: not readable as an item index: {error}") from None
        facts = json.loads((table.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
        if facts.get("schema_version") != SCHEMA_VERSION:
            raise UserError(f"{path}: item index version {facts.get('schema_version')}; expected {SCHEMA_VERSION}")
        frame = table.to_pandas()
        items = frame[frame["item_id"].notna()]
        nodes = frame[frame["item_id"].isna()]
        codes = np.stack(items["codes"].to_list()).astype(np.int64)
        centroids = [np.stack(part["vector"].to_list()) for _, part in nodes.groupby("level")]
        return cls(items["item_id"].tolist(), codes, tuple(facts["sources"]), facts["branching"], centroids)


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
