"""What one worker does of an import: read a file, or clean the events of a range of users.

Rows move by Parquet files in a folder that all workers reach; in and out of a task go names and
counts only. A task depends on nothing but its files and writes its own whole, so that a lost
worker's task is simply done again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from eager_llm.core.duckdb_engine import engine, list_literal, literal, run
from eager_llm.core.files import whole_file
from eager_llm.data.cleaning import (
    EVENTS_OUT,
    QUARANTINE_OUT,
    LogCounts,
    core_counts,
    drop_events,
    order_events,
    view_merged_events,
)
from eager_llm.data.importing.column_mapping import ColumnMapping
from eager_llm.data.importing.row_checks import read_source_table
from eager_llm.data.importing.source_table import SourceTable
from eager_llm.settings import DataSettings

EVENT_FIELDS = "user_id, item_id, us, event_type, weight"
# Between dropping and ordering, a shard's events wait in files of these tables.
SHARD_TABLES = ("users", "log", "orphans", "quarantine")


@dataclass(frozen=True)
class Shard:
    """The users of a range of ids, and where files about them lie.

    Attributes:
        folder: that all workers reach.
        number: of the shard, in the order of the ids.
        first: the least id; None: there is no bound.
        end: the id after the last one; None: there is no bound.
    """

    folder: Path
    number: int
    first: str | None
    end: str | None

    def file(self, kind: str) -> Path:
        """Return the file of a kind of rows."""
        return self.folder / f"{kind}-{self.number}.parquet"

    @property
    def condition(self) -> str:
        """SQL for whether a row is of these users."""
        bounds = []
        if self.first is not None:
            bounds.append(f"user_id >= {literal(self.first)}")
        if self.end is not None:
            bounds.append(f"user_id < {literal(self.end)}")
        return " AND ".join(bounds) or "true"


def read_file(
    source_table: SourceTable, mapping: ColumnMapping, memory_gb: float, rows: Path, faults: Path
) -> int:
    """Read a source table of one file.

    Args:
        memory_gb: that the engine may take.
        rows: file for the readable rows.
        faults: file for why others are not readable.

    Returns:
        How many rows there were.

    Raises:
        UserError: the file is empty, not readable at all, or lacks a column.
    """
    with engine(memory_gb, threads=1) as connection:
        count = read_source_table(connection, source_table, mapping)
        write_rows(connection, f"SELECT {EVENT_FIELDS} FROM {source_table.table}_raw", rows)
        write_rows(connection, "SELECT * FROM source_faults", faults)
    return count


def drop_shard_events(shard: Shard, files: list[Path], settings: DataSettings) -> LogCounts:
    """Drop what is dropped by user, and write the shard's tables.

    Args:
        files: the events of all users, as they were read.
    """
    with _shard_engine(shard, settings, "items", "catalogued", "merges") as connection:
        events = f"SELECT * FROM {rows_of(files)} WHERE {shard.condition}"
        connection.execute(f"CREATE VIEW events_in AS {events}")
        view_merged_events(connection)
        counts = drop_events(connection, settings)
        for table in SHARD_TABLES:
            write_rows(connection, f"SELECT * FROM {table}", shard.file(table))
    return counts


def count_shard_events(shard: Shard, settings: DataSettings) -> None:
    """Write the counts of a round of the k-core."""
    with _shard_engine(shard, settings, "rare") as connection:
        log = rows_of([shard.file("log")])
        connection.execute(f"CREATE VIEW log AS SELECT u, i FROM {log}")
        write_rows(connection, core_counts(settings.min_interactions), shard.file("counts"))


def order_shard_events(shard: Shard, counts: LogCounts, settings: DataSettings) -> LogCounts:
    """Write the clean events in order, and what was dropped.

    Returns:
        `counts`, with those of the clean events.
    """
    with _shard_engine(shard, settings, "items", "rare") as connection:
        for table in SHARD_TABLES:
            _load_table(connection, table, shard.file(table))
        counts = order_events(connection, settings, counts)
        events = f"{EVENTS_OUT} ORDER BY user_id, timestamp"
        write_rows(connection, events, shard.file("events"))
        write_rows(connection, QUARANTINE_OUT, shard.file("dropped"))
    return counts


@contextmanager
def _shard_engine(
    shard: Shard, settings: DataSettings, *tables: str
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an engine with tables that all shards have in common."""
    with engine(settings.memory_gb, threads=1) as connection:
        for table in tables:
            _load_table(connection, table, shard.folder / f"{table}.parquet")
        yield connection


def _load_table(connection: duckdb.DuckDBPyConnection, table: str, file: Path) -> None:
    connection.execute(f"CREATE TABLE {table} AS SELECT * FROM {rows_of([file])}")


def rows_of(files: Sequence[Path]) -> str:
    """Return SQL of the rows of Parquet files."""
    return f"read_parquet({list_literal([str(file) for file in files])})"


def write_rows(connection: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    """Write the rows of a query as Parquet, whole or not at all."""
    with whole_file(file) as draft:
        copy = f"COPY ({query}) TO {literal(str(draft))} (FORMAT parquet)"
        run(connection, f"writing {file.name}", copy)
