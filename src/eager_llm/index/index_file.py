"""The Parquet file of an item index: a row an item, a row a centroid, and metadata.

Shapes: N items, L levels, K labels of a level, D dimensions of a source's embedding.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file

SCHEMA_VERSION = 2
ROW_GROUP = 1 << 20
_METADATA_KEY = b"eager_llm_item_index"
_COLUMNS = ["item_id", "codes", "errors", "level", "vector"]
_CENTROID_SCHEMA = pa.schema([
    ("level", pa.int32()),
    ("source", pa.string()),
    ("label", pa.int32()),
    ("vector", pa.list_(pa.float32())),
])  # fmt: skip


@dataclass(frozen=True)
class IndexArrays:
    """The arrays of an index file.

    Attributes:
        item_ids: the items, in the order of the codes.
        codes: the path of each item, int32 [N, L].
        errors: squared distance of an item from its path's point after each level, float32 [N, L].
        centroids: of each level, float32 [K, D].
    """

    item_ids: list[str]
    codes: np.ndarray
    errors: np.ndarray | None
    centroids: list[np.ndarray]


def write_index(
    path: Path,
    arrays: IndexArrays,
    sources: Sequence[str],
    vocabulary: list[str],
    metadata: dict[str, Any],
) -> None:
    """Write an index file, whole or not at all.

    Args:
        sources: the source of each level.
        vocabulary: every index token, level by level, [L * K].
        metadata: what the index says of itself.
    """
    items = _items_table(arrays, vocabulary)
    centroids = _centroids_table(arrays.centroids, sources)
    table = pa.concat_tables([items, centroids], promote_options="default")
    content = json.dumps({"schema_version": SCHEMA_VERSION, **metadata})
    table = table.replace_schema_metadata({_METADATA_KEY: content.encode()})
    with whole_file(path) as draft:
        pq.write_table(table, draft, row_group_size=ROW_GROUP, compression="zstd")


def read_index_metadata(path: Path) -> dict[str, Any]:
    """Return what an index file says of itself: sources, branching, version and so on.

    Raises:
        UserError: the file is missing, no item index, or of another version.
    """
    try:
        file_metadata = pq.read_schema(path).metadata or {}
        content = file_metadata.get(_METADATA_KEY, b"{}")
        metadata: dict[str, Any] = json.loads(content)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not readable as an item index: {error}") from None
    version = metadata.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: item index version {version}; expected {SCHEMA_VERSION}")
    return metadata


def read_index_arrays(path: Path, levels: int) -> IndexArrays:
    """Read the arrays of an index file.

    Raises:
        UserError: the file is not readable.
    """
    try:
        table = pq.read_table(path, columns=_COLUMNS)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not readable as an item index: {error}") from None
    is_item = table["item_id"].is_valid()
    items = table.filter(is_item)
    nodes = table.filter(pc.invert(is_item))
    errors = None
    if not items["errors"].null_count:
        errors = _matrix(items["errors"], levels, np.float32)
    centroids = []
    node_levels = nodes["level"].to_numpy()
    for level in np.unique(node_levels):
        of_level = pa.array(node_levels == level)
        vectors = nodes["vector"].filter(of_level)
        centroids.append(_codebook(vectors))
    return IndexArrays(
        item_ids=items["item_id"].to_pylist(),
        codes=_matrix(items["codes"], levels, np.int32),
        errors=errors,
        centroids=centroids,
    )


def _items_table(arrays: IndexArrays, vocabulary: list[str]) -> pa.Table:
    """Return a row an item: its id, tokens, codes and errors."""
    items, levels = arrays.codes.shape
    branching = len(vocabulary) // levels
    token_numbers = arrays.codes + np.arange(levels) * branching
    tokens = pa.DictionaryArray.from_arrays(
        token_numbers.astype(np.int32).reshape(-1),
        pa.array(vocabulary),
    )
    errors = pa.nulls(items, pa.list_(pa.float32()))
    if arrays.errors is not None:
        errors = _lists(arrays.errors.astype(np.float32), levels)
    return pa.table({
        "item_id": pa.array(arrays.item_ids, pa.string()),
        "tokens": _lists(tokens, levels),
        "codes": _lists(arrays.codes.astype(np.int32), levels),
        "errors": errors,
    })  # fmt: skip


def _centroids_table(centroids: list[np.ndarray], sources: Sequence[str]) -> pa.Table:
    """Return a row a centroid: its level, source, label and vector."""
    tables = [_CENTROID_SCHEMA.empty_table()]
    for level, codebook in enumerate(centroids):
        clusters, dim = codebook.shape
        table = pa.table({
            "level": pa.array([level] * clusters, pa.int32()),
            "source": pa.array([sources[level]] * clusters, pa.string()),
            "label": pa.array(range(clusters), pa.int32()),
            "vector": _lists(codebook.astype(np.float32), dim),
        })  # fmt: skip
        tables.append(table)
    return pa.concat_tables(tables)


def _lists(values: Any, width: int) -> pa.Array:
    """Return a list column from values that lie row after row, `width` to a row."""
    if not isinstance(values, pa.Array):
        values = pa.array(values.reshape(-1))
    offsets = np.arange(0, len(values) + 1, width, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, values)


def _matrix(
    column: pa.ChunkedArray,
    width: int,
    dtype: type,
) -> np.ndarray:
    """Return a list column as an array [rows, width]."""
    values = _flat_values(column).reshape(-1, width)
    return values.astype(dtype, copy=False)


def _codebook(column: pa.ChunkedArray) -> np.ndarray:
    """Return a list column as a codebook, float32 [rows, D]."""
    rows = _flat_values(column).reshape(len(column), -1)
    return rows.astype(np.float32, copy=False)


def _flat_values(column: pa.ChunkedArray) -> np.ndarray:
    """Return the values of a list column, row after row."""
    return column.combine_chunks().flatten().to_numpy()
