"""DuckDB as the engine for logs larger than memory: one file on disk, a bound, progress."""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from eager_llm.core.errors import UserError
from eager_llm.core.progress import progress

DEFAULT_MEMORY_GB = 2.0
# Short queries need no bar.
PATIENCE_SECONDS = 2.0
POLL_SECONDS = 0.5


@contextmanager
def engine(
    memory_gb: float = DEFAULT_MEMORY_GB, scratch: Path | None = None, threads: int = 0
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a DuckDB over a database of its own, which is gone when the block ends.

    Args:
        memory_gb: what its buffers may take; beyond it DuckDB spills to disk.
        scratch: folder for that disk space; default: the system's.
        threads: that it computes with; 0: a thread a core.

    Raises:
        UserError: what has to be in memory at a time does not fit.
    """
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".stage-", dir=scratch) as folder:
        connection = duckdb.connect(str(Path(folder) / "stage.duckdb"))
        try:
            _configure(connection, memory_gb, Path(folder) / "spill", threads)
            yield connection
        except duckdb.OutOfMemoryException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{memory_gb:g} GB of memory are not enough for this log: "
                f"raise data.memory_gb ({reason})"
            ) from None
        finally:
            connection.close()


def _configure(
    connection: duckdb.DuckDBPyConnection, memory_gb: float, spill: Path, threads: int
) -> None:
    """Set the bounds of a connection, and let its progress be asked for."""
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET memory_limit = '{memory_gb:.2f}GB'")
    connection.execute(f"SET temp_directory = {literal(str(spill))}")
    connection.execute("SET preserve_insertion_order = false")
    if threads:
        connection.execute(f"SET threads = {threads:d}")
    connection.execute("SET enable_progress_bar = true")
    connection.execute("SET enable_progress_bar_print = false")


def run(connection: duckdb.DuckDBPyConnection, label: str, sql: str) -> None:
    """Execute `sql`; a bar in per cent shows where it takes longer than a moment.

    Args:
        connection: the engine.
        label: what the bar is called.
        sql: one statement or several.
    """
    done = threading.Event()

    def watch() -> None:
        """Draw a bar until the statement is done."""
        if done.wait(PATIENCE_SECONDS):
            return
        with progress(total=100, desc=label, unit="%") as bar:
            while not done.wait(POLL_SECONDS):
                percent = round(connection.query_progress())
                bar.update(max(0, percent - bar.n))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        connection.execute(sql)
    finally:
        done.set()
        watcher.join()


def first_value(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """Return the first value of a query's first row, or None where it has no row."""
    row = connection.execute(sql).fetchone()
    if row is None:
        return None
    return row[0]


def view_file(
    connection: duckdb.DuckDBPyConnection, name: str, file: Path, where: str = "true"
) -> None:
    """Make the rows of a Parquet file available under a name.

    Args:
        connection: the engine.
        name: name of the view; it replaces another of that name.
        file: the Parquet file.
        where: SQL condition on its rows.
    """
    rows = f"SELECT * FROM read_parquet({literal(str(file))}) WHERE {where}"
    connection.execute(f"CREATE OR REPLACE VIEW {name} AS {rows}")


def literal(text: str) -> str:
    """Quote text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(text: str) -> str:
    """Quote text as a SQL identifier."""
    return '"' + text.replace('"', '""') + '"'


def list_literal(texts: Sequence[str]) -> str:
    """Return a SQL list of strings."""
    quoted = ", ".join(map(literal, texts))
    return f"[{quoted}]"
