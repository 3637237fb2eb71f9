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
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(f"SET memory_limit = '{memory_gb:.2f}GB'")
            connection.execute(f"SET temp_directory = {literal(str(Path(folder) / 'spill'))}")
            connection.execute("SET preserve_insertion_order = false")
            if threads:
                connection.execute(f"SET threads = {threads:d}")
            connection.execute(
                "SET enable_progress_bar = true; SET enable_progress_bar_print = false"
            )
            yield connection
        except duckdb.OutOfMemoryException as error:
            raise UserError(
                f"{memory_gb:g} GB of memory are not enough for this log: raise data.memory_gb ({str(error).splitlines()[0]})"
            ) from None
        finally:
            connection.close()


def run(connection: duckdb.DuckDBPyConnection, label: str, sql: str) -> None:
    """Execute `sql`; a bar in per cent shows where it takes longer than a moment."""
    done = threading.Event()

    def watch() -> None:
        if done.wait(PATIENCE_SECONDS):
            return
        with progress(total=100, desc=label, unit="%") as bar:
            while not done.wait(0.5):
                bar.update(max(0, round(connection.query_progress()) - bar.n))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        connection.execute(sql)
    finally:
        done.set()
        watcher.join()


def one(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """Return the first value of the first row."""
    row = connection.execute(sql).fetchone()
    return None if row is None else row[0]


def view_file(
    connection: duckdb.DuckDBPyConnection, name: str, file: Path, where: str = "true"
) -> None:
    """Make a Parquet file known under a name."""
    connection.execute(
        f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM read_parquet({literal(str(file))}) WHERE {where}"
    )


def literal(text: str) -> str:
    """Quote text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def name(text: str) -> str:
    """Quote text as a SQL identifier."""
    return '"' + text.replace('"', '""') + '"'


def listed(texts: Sequence[str]) -> str:
    """Return a SQL list of strings."""
    return "[" + ", ".join(map(literal, texts)) + "]"
