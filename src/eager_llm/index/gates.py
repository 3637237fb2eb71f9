"""The gates of an item index: its file and its embeddings as written, against the catalogue."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from eager_llm.core.duckdb_engine import engine, view_file
from eager_llm.index.index_file import read_index_metadata
from eager_llm.settings import GateSettings
from eager_llm.validation.gate import Gate, GateResult
from eager_llm.validation.suite import run_suite

# Vectors that are in memory at a time.
BLOCK_ROWS = 1 << 16


def run_index_gates(
    file: Path,
    items: Path,
    embeddings: Mapping[str, Path],
    even: bool,
    settings: GateSettings,
    memory_gb: float = 2.0,
    quarantine: Path | None = None,
) -> list[GateResult]:
    """Check an index file against the catalogue's table and the embeddings that it was built from.

    Args:
        embeddings: for each source its .npy, a row an item in the order of the catalogue.
        even: no node may hold more than its even share: see `index_gates`.
        quarantine: folder for the rows that break a gate.

    Raises:
        UserError: the file is no item index.
    """
    metadata = read_index_metadata(file)
    with engine(memory_gb) as connection:
        view_file(connection, "items", items)
        view_file(connection, "paths", file, "item_id IS NOT NULL")
        ids = pd.read_parquet(items, columns=["item_id"])["item_id"].tolist()
        vectors, broken = _vectors(ids, embeddings)
        connection.register("vectors", vectors)
        connection.register("broken_vectors", broken)
        gates = index_gates(metadata["sources"], metadata["branching"], even)
        return run_suite(connection, gates, settings.waived, quarantine)


def _vectors(
    ids: list[str],
    embeddings: Mapping[str, Path],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how many vectors each source has, and those that are not finite or zero.

    Args:
        ids: the items, in the order of the embeddings' rows.
        embeddings: for each source its .npy.
    """
    counts = []
    broken = []
    for source, file in embeddings.items():
        matrix = np.load(file, mmap_mode="r", allow_pickle=False)
        counts.append((source, len(matrix)))
        for row, fault in _broken_rows(matrix):
            item = ids[row] if row < len(ids) else ""
            broken.append((source, item, row, fault))
    broken_types = {"source": "str", "item_id": "str", "row": "int64", "fault": "str"}
    broken_table = pd.DataFrame(broken, columns=list(broken_types))
    return (
        pd.DataFrame(counts, columns=["source", "vectors"]),
        broken_table.astype(broken_types),
    )


def _broken_rows(matrix: np.ndarray) -> Iterator[tuple[int, str]]:
    """Yield each row of an embedding [rows, dim] that is not finite or zero, and its fault."""
    for start in range(0, len(matrix), BLOCK_ROWS):
        block = np.asarray(matrix[start : start + BLOCK_ROWS])
        is_finite = np.isfinite(block).all(axis=1)
        is_zero = ~block.any(axis=1)
        for offset in np.flatnonzero(~is_finite | is_zero):
            fault = "zero" if is_finite[offset] else "not finite"
            yield int(start + offset), fault


def index_gates(sources: Sequence[str], branching: int, even: bool) -> list[Gate]:
    """Return the suite of an item index.

    It reads the views `items` (item_id), `paths` (item_id, codes), `vectors` (source, vectors) and
    `broken_vectors` (source, item_id, row, fault).

    Args:
        sources: the source of each level, in the order of the codes.
        branching: children of a node.
        even: no node holds more than its even share of the items, as a balanced build leaves it;
            else only no more than there are paths below it.
    """
    shared_paths, full_nodes = [], []
    for source in dict.fromkeys(sources):
        first, height = sources.index(source) + 1, sources.count(source)
        shared_paths.append(_shared_paths_sql(source, first, height))
        for depth in range(1, height + 1):
            capacity = f"{branching ** (height - depth)}"
            if even:
                capacity = f"ceil((SELECT count(*) FROM paths) / {branching**depth})"
            full_nodes.append(_full_nodes_sql(source, first, depth, capacity))
    share = "its even share of" if even else "as many as there are paths for"
    return [
        *_path_gates(len(sources), branching),
        Gate(
            name="index-unique",
            table="index",
            rule="no two items share a path of a source",
            rows_sql=" UNION ALL ".join(shared_paths),
        ),
        Gate(
            name="index-capacity",
            table="index",
            rule=f"no node holds more than {share} the items",
            rows_sql=" UNION ALL ".join(full_nodes),
        ),
        Gate(
            name="embeddings-complete",
            table="embeddings",
            rule="every source has one vector an item",
            rows_sql=(
                "SELECT source, vectors FROM vectors WHERE vectors <> (SELECT count(*) FROM items)"
            ),
        ),
        Gate(
            name="embeddings-finite",
            table="embeddings",
            rule="every number of every vector is finite, and no vector is zero",
            rows_sql="SELECT * FROM broken_vectors",
        ),
    ]


def _path_gates(levels: int, branching: int) -> list[Gate]:
    """Return the gates that hold paths and catalogue against each other, an item at a time."""
    return [
        Gate(
            name="index-complete",
            table="index",
            rule="every item of the catalogue has a path",
            rows_sql="SELECT item_id FROM items ANTI JOIN paths USING (item_id)",
        ),
        Gate(
            name="index-known",
            table="index",
            rule="every path is of an item of the catalogue",
            rows_sql="SELECT item_id FROM paths ANTI JOIN items USING (item_id)",
        ),
        Gate(
            name="index-once",
            table="index",
            rule="an item has one path",
            rows_sql=(
                "SELECT item_id, count(*) AS paths FROM paths GROUP BY item_id HAVING count(*) > 1"
            ),
        ),
        Gate(
            name="index-levels",
            table="index",
            rule=f"a path has {levels} labels from 0 to {branching - 1}",
            rows_sql=(
                f"SELECT item_id, codes FROM paths WHERE len(codes) IS DISTINCT FROM {levels} "
                f"OR list_min(codes) < 0 OR list_max(codes) >= {branching}"
            ),
        ),
    ]


def _shared_paths_sql(source: str, first: int, height: int) -> str:
    """Return SQL for the paths of a source that more than one item has.

    Args:
        source: the source.
        first: place of its first code in a path, from 1.
        height: number of its codes.
    """
    path = f"codes[{first}:{first + height - 1}]"
    return (
        f"SELECT '{source}' AS source, {path} AS path, count(*) AS items, "
        "min(item_id) AS first, max(item_id) AS last "
        "FROM paths GROUP BY ALL HAVING count(*) > 1"
    )


def _full_nodes_sql(source: str, first: int, depth: int, capacity: str) -> str:
    """Return SQL for the nodes of a source that hold more items than they may.

    Args:
        source: the source.
        first: place of its first code in a path, from 1.
        depth: number of codes that name a node.
        capacity: SQL for the number of items that a node may hold.
    """
    node = f"codes[{first}:{first + depth - 1}]"
    return (
        f"SELECT '{source}' AS source, {node} AS node, count(*) AS items "
        f"FROM paths GROUP BY ALL HAVING count(*) > {capacity}"
    )
