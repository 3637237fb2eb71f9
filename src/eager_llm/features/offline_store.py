"""The published feature tables: Parquet in a folder, or tables of a warehouse, each replaced whole or not at all."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pandas as pd
import pyarrow.parquet as pq

from eager_llm.core.duckdb_engine import engine, identifier, literal, run
from eager_llm.core.files import whole_file

KEYS = ("user_id", "item_id", "event_type")


@dataclass(frozen=True)
class Change:
    """How a view's table differs from the one before: rows, from when, until the end, and whose (not at first)."""

    rows: int
    first: datetime
    last: datetime
    keys: list[dict[str, str]]


class OfflineTables(Protocol):
    """What publishing needs of an offline store."""

    @property
    def feast(self) -> dict[str, Any]:
        """Feast's configuration of the store."""

    def replace(
        self, connection: duckdb.DuckDBPyConnection, view: str, query: str
    ) -> Change | None:
        """Make the query's rows the view's table, and return how it differs from the one before."""

    def read(self, view: str) -> pd.DataFrame | None:
        """Return a view's table, or None where it has not been published."""

    def some_users(self, n: int) -> list[str]:
        """Return some users of the published histories, in the order of their ids."""


class ParquetTables:
    """The embedded store: a Parquet file a view, read by Feast through DuckDB."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def feast(self) -> dict[str, Any]:
        """Feast's configuration of the store."""
        return {"type": "duckdb"}

    def replace(
        self, connection: duckdb.DuckDBPyConnection, view: str, query: str
    ) -> Change | None:
        """Write a view's table anew, and return how it differs from the one before."""
        target = self._file(view)
        with whole_file(target) as draft:
            run(
                connection,
                f"writing {view}",
                f"COPY ({query}) TO {literal(str(draft))} (FORMAT parquet)",
            )
            now = fresh = f"read_parquet({literal(str(draft))})"
            columns = [
                row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {now}").fetchall()
            ]
            keys = [column for column in columns if column in KEYS]
            grown = target.is_file()
            if grown:
                # A late event changes rows in the past: what is new is told by content, not by time.
                # Where a view has got a new feature, every row is.
                known = pq.read_schema(target).names
                same = " AND ".join(
                    f"n.{identifier(column)} IS NOT DISTINCT FROM o.{identifier(column)}"
                    if column in known
                    else "false"
                    for column in columns
                )
                connection.execute(
                    f"CREATE OR REPLACE TEMP TABLE fresh AS SELECT n.* FROM {now} n ANTI JOIN "
                    f"read_parquet({literal(str(target))}) o ON {same}"
                )
                fresh = "fresh"
            # Up to the end of the log, else a user's row inside the range would replace a later one.
            row = connection.execute(
                f"SELECT count(*), min(event_timestamp), (SELECT max(event_timestamp) FROM {now}) FROM {fresh}"
            ).fetchone()
            if row is None or not row[0]:
                return None
            entities = (
                connection.execute(f"SELECT DISTINCT {', '.join(keys)} FROM fresh").fetchall()
                if grown
                else []
            )
            return Change(
                int(row[0]),
                row[1],
                row[2],
                [dict(zip(keys, map(str, e), strict=True)) for e in entities],
            )

    def read(self, view: str) -> pd.DataFrame | None:
        """Return a view's table, or None where it has not been published."""
        return pd.read_parquet(self._file(view)) if self._file(view).is_file() else None

    def some_users(self, n: int) -> list[str]:
        """Return some users of the published histories, in the order of their ids; none where they are elsewhere."""
        table = self._file("user_history")
        if not table.is_file():
            return []
        with engine() as connection:
            query = f"SELECT DISTINCT user_id FROM read_parquet({literal(str(table))}) ORDER BY user_id LIMIT {n:d}"
            return [str(user) for (user,) in connection.execute(query).fetchall()]

    def _file(self, view: str) -> Path:
        return self._folder / f"{view}.parquet"
