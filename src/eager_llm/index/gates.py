"""The gates of an item index: its file and its embeddings as they were written, against the catalogue."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from eager_llm.core.duckdb_engine import engine, view_file
from eager_llm.index.item_index import index_facts
from eager_llm.settings import GateSettings
from eager_llm.validation.expectations import index_gates
from eager_llm.validation.gates import GateResult, judge

ROWS = 1 << 16  # at a time


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
    metadata = index_facts(file)
    with engine(memory_gb) as connection:
        view_file(connection, "items", items)
        view_file(connection, "paths", file, "item_id IS NOT NULL")
        ids = pd.read_parquet(items, columns=["item_id"])["item_id"].tolist()
        vectors, broken = _vectors(ids, embeddings)
        connection.register("vectors", vectors)
        connection.register("broken_vectors", broken)
        gates = index_gates(metadata["sources"], metadata["branching"], even)
        return judge(connection, gates, settings.waived, quarantine)


def _vectors(ids: list[str], embeddings: Mapping[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how many vectors each source has, and those that are not finite or zero."""
    counts, broken = [], []
    for source, file in embeddings.items():
        matrix = np.load(file, mmap_mode="r", allow_pickle=False)
        counts.append((source, len(matrix)))
        for start in range(0, len(matrix), ROWS):
            part = np.asarray(matrix[start : start + ROWS])
            finite = np.isfinite(part).all(axis=1)
            for row in np.flatnonzero(~finite | ~part.any(axis=1)):
                item = ids[start + row] if start + row < len(ids) else ""
                broken.append(
                    (source, item, int(start + row), "zero" if finite[row] else "not finite")
                )
    columns = {"source": "str", "item_id": "str", "row": "int64", "fault": "str"}
    return (
        pd.DataFrame(counts, columns=["source", "vectors"]),
        pd.DataFrame(broken, columns=list(columns)).astype(columns),
    )
