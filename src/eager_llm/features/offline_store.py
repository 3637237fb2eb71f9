"""The published feature tables: a protocol, and Parquet in a folder.

A warehouse is in `postgres_store`. Either way a table is replaced whole or not at all.
"""

from collections.abc import Iterable, Sequence
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
    """How a view's table differs from the one before.

    Attributes:
        rows: how many are new or changed.
        first: the earliest event timestamp among them.
        last: the latest event timestamp of the whole table.
        keys: whose rows they are; empty for a first publication.
    """

    rows: int
    first: datetime
    last: datetime
    keys: list[dict[str, str]]


class OfflineTables(Protocol):
    """What publishing needs of an offline store."""

    @property
    def feast(self) -> dict[str, Any]:
        """Feast's configuration of the store."""

    def patch_feast(self) -> None:
        """Correct what Feast does wrong with this store."""

    def replace(
        self, connection: duckdb.DuckDBPyConnection, view: str, query: str
    ) -> Change | None:
        """Make the query's rows the view's table, and return how it differs from the one before.

        Args:
            connection: the engine that the query runs in.
            view: name of the feature view, and of its table.
            query: SQL for the rows.

        Returns:
            None where no row is new or changed.
        """

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

    def patch_feast(self) -> None:
        """Do nothing: Feast reads files as it should."""

    def replace(
        self, connection: duckdb.DuckDBPyConnection, view: str, query: str
    ) -> Change | None:
        """Write a view's table anew; see `OfflineTables`."""
        target = self._file(view)
        with whole_file(target) as draft:
            copy = f"COPY ({query}) TO {literal(str(draft))} (FORMAT parquet)"
            run(connection, f"writing {view}", copy)
            table = f"read_parquet({literal(str(draft))})"
            described = connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
            columns = [name for name, *_ in described]
            is_first = not target.is_file()
            changed = table
            if not is_first:
                changed = _changed_rows(connection, table, target, columns)
            return _change(connection, table, changed, columns, is_first)

    def read(self, view: str) -> pd.DataFrame | None:
        """Return a view's table, or None where it has not been published."""
        file = self._file(view)
        if not file.is_file():
            return None
        return pd.read_parquet(file)

    def some_users(self, n: int) -> list[str]:
        """Return some users of the published histories, in the order of their ids.

        There are none where the tables are elsewhere.
        """
        file = self._file("user_history")
        if not file.is_file():
            return []
        query = (
            f"SELECT DISTINCT user_id FROM read_parquet({literal(str(file))}) "
            f"ORDER BY user_id LIMIT {n:d}"
        )
        with engine() as connection:
            rows = connection.execute(query).fetchall()
        return [str(user) for (user,) in rows]

    def _file(self, view: str) -> Path:
        return self._folder / f"{view}.parquet"


def key_columns(columns: Iterable[str]) -> list[str]:
    """Return those columns that are keys of an entity."""
    return [column for column in columns if column in KEYS]


def entity_keys(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[dict[str, str]]:
    """Return rows of key columns as mappings from column to text."""
    keys = []
    for row in rows:
        values = map(str, row)
        keys.append(dict(zip(columns, values, strict=True)))
    return keys


def _changed_rows(
    connection: duckdb.DuckDBPyConnection, table: str, target: Path, columns: Sequence[str]
) -> str:
    """Make a table of the rows that the file lacks, and return its name.

    A late event changes rows in the past: what is new is told by content, not by time. Where a view
    has got a new feature, every row is new.
    """
    earlier_columns = pq.read_schema(target).names
    conditions = []
    for column in columns:
        if column in earlier_columns:
            name = identifier(column)
            conditions.append(f"n.{name} IS NOT DISTINCT FROM o.{name}")
        else:
            conditions.append("false")
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE changed AS SELECT n.* FROM {table} n "
        f"ANTI JOIN read_parquet({literal(str(target))}) o ON {' AND '.join(conditions)}"
    )
    return "changed"


def _change(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    changed: str,
    columns: Sequence[str],
    is_first: bool,
) -> Change | None:
    """Describe the changed rows of a table, or return None where there are none."""
    # Up to the end of the log, else a user's row inside the range would replace a later one.
    row = connection.execute(
        "SELECT count(*), min(event_timestamp), "
        f"(SELECT max(event_timestamp) FROM {table}) FROM {changed}"
    ).fetchone()
    if row is None or not row[0]:
        return None
    count, first, last = row
    keys: list[dict[str, str]] = []
    if not is_first:
        names = key_columns(columns)
        entities = connection.execute(f"SELECT DISTINCT {', '.join(names)} FROM {changed}")
        keys = entity_keys(names, entities.fetchall())
    return Change(int(count), first, last, keys)
