"""Importing by several workers: the same reading and cleaning, a file or a range of users a task.

Users are shared out in ranges of their ids, each with about as many events, so that what the
workers write is in order one after the other. What is of all users stays in this process: items,
their merging and numbering, and the sums of the k-core.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb

from eager_llm.cluster.local_ray import ray_running
from eager_llm.core.duckdb_engine import first_value, literal
from eager_llm.core.errors import UserError
from eager_llm.core.progress import progress
from eager_llm.data.cleaning import LogCounts, find_rare
from eager_llm.data.importing.column_mapping import ColumnMapping
from eager_llm.data.importing.row_checks import SOURCE_FAULTS
from eager_llm.data.importing.shard_tasks import (
    EVENT_FIELDS,
    Shard,
    count_shard_events,
    drop_shard_events,
    order_shard_events,
    read_file,
    rows_of,
    write_rows,
)
from eager_llm.data.importing.source_table import SourceTable
from eager_llm.settings import DataSettings

# Events whose users tell where to cut the ids.
SAMPLE = 20_000
RETRIES = 3
# Tables that every shard needs.
COMMON_TABLES = ("items", "catalogued", "merges")
# View → the kind of files of the shards that it shows.
SHARD_OUTPUTS = {"events_out": "events", "quarantine_out": "dropped"}
# Calls a function with each of some arguments, in any order and maybe elsewhere; returns the
# results in the order of the calls. The label is for people.
TaskRunner = Callable[[str, Callable[..., Any], Sequence[tuple]], list[Any]]


class Workers:
    """Workers for one import.

    Args:
        folder: that all of them reach, empty, and gone afterwards.
        run_tasks: who does the tasks.
    """

    def __init__(self, folder: Path, settings: DataSettings, run_tasks: TaskRunner) -> None:
        self.folder = folder
        self._settings = settings
        self._run_tasks = run_tasks
        # Files of events as they were read.
        self._event_files: list[Path] = []

    def read(
        self,
        connection: duckdb.DuckDBPyConnection,
        source_table: SourceTable,
        mapping: ColumnMapping,
    ) -> int:
        """Read the files of the events, a file a task.

        `events_in` shows the readable rows, `source_faults` names the others.

        Returns:
            How many rows there were.

        Raises:
            UserError: a file is empty, not readable at all, or lacks a column.
        """
        calls, fault_files = [], []
        for number, file in enumerate(source_table.files):
            table = replace(source_table, files=(file.resolve(),))
            memory_gb = self._settings.memory_gb
            rows = self.folder / f"read-{number}.parquet"
            faults = self.folder / f"faults-{number}.parquet"
            calls.append((table, mapping, memory_gb, rows, faults))
            self._event_files.append(rows)
            fault_files.append(faults)
        counts = self._run_tasks("reading", read_file, calls)
        connection.execute(SOURCE_FAULTS)
        for file, faults in zip(source_table.files, fault_files, strict=True):
            # The file as this process names it, not as the worker does.
            connection.execute(
                f"INSERT INTO source_faults SELECT {literal(str(file))}, row, unit, reason "
                f"FROM {rows_of([faults])}"
            )
        self._show_events(connection)
        return sum(counts)

    def clean(self, connection: duckdb.DuckDBPyConnection) -> LogCounts:
        """Clean the log in `events_in`, a range of users a task.

        The result is `events_out`, `quarantine_out` and `rare`.
        """
        self._share_local_events(connection)
        for table in COMMON_TABLES:
            self._share_table(connection, table)
        shards = self._shards(connection)
        settings = self._settings
        drop_calls = [(shard, self._event_files, settings) for shard in shards]
        counts = self._run_tasks("dropping duplicates", drop_shard_events, drop_calls)
        self._find_rare(connection, shards)
        order_calls = []
        for shard, shard_counts in zip(shards, counts, strict=True):
            call = (shard, shard_counts, settings)
            order_calls.append(call)
        counts = self._run_tasks("ordering the log", order_shard_events, order_calls)
        for view, kind in SHARD_OUTPUTS.items():
            rows = _shard_rows(shards, kind)
            connection.execute(f"CREATE VIEW {view} AS SELECT * FROM {rows}")
        return LogCounts.total(counts)

    def _find_rare(self, connection: duckdb.DuckDBPyConnection, shards: list[Shard]) -> None:
        """Fill `rare`, and share it; the shards count, this process adds up."""
        calls = [(shard, self._settings) for shard in shards]
        rounds = 0

        def count_events() -> None:
            """Have `counts` show the shards' counts of a round."""
            nonlocal rounds
            rounds += 1
            self._share_table(connection, "rare")
            self._run_tasks(f"k-core, round {rounds}", count_shard_events, calls)
            rows = _shard_rows(shards, "counts")
            connection.execute(f"CREATE OR REPLACE VIEW counts AS SELECT * FROM {rows}")

        find_rare(connection, self._settings.min_interactions, count_events)
        self._share_table(connection, "rare")

    def _share_local_events(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Share what this process has read itself: a database, or tables that are added to."""
        if not first_value(connection, "SELECT count(*) FROM events_local"):
            return
        file = self.folder / "local.parquet"
        write_rows(connection, f"SELECT {EVENT_FIELDS} FROM events_local", file)
        self._event_files.append(file)
        connection.execute("DELETE FROM events_local")
        self._show_events(connection)

    def _share_table(self, connection: duckdb.DuckDBPyConnection, table: str) -> None:
        """Write a table for all shards."""
        file = self.folder / f"{table}.parquet"
        write_rows(connection, f"SELECT * FROM {table}", file)

    def _show_events(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Have `events_in` show the events of all files."""
        connection.execute(
            f"CREATE OR REPLACE VIEW events_in AS SELECT {EVENT_FIELDS} FROM events_local "
            f"UNION ALL SELECT {EVENT_FIELDS} FROM {rows_of(self._event_files)}"
        )

    def _shards(self, connection: duckdb.DuckDBPyConnection) -> list[Shard]:
        """Cut the ids into ranges with about as many events each, by a sample of the events."""
        rows = connection.execute(
            f"SELECT user_id FROM events_in USING SAMPLE reservoir({SAMPLE} ROWS)"
        ).fetchall()
        # DuckDB compares text by its bytes.
        ids = sorted((str(user) for (user,) in rows), key=str.encode)
        workers = self._settings.workers
        cuts = []
        for number in range(1, workers):
            position = len(ids) * number // workers
            cuts.append(ids[position])
        # An id with many events is cut at once only.
        bounds = [None, *dict.fromkeys(cuts), None]
        shards = []
        for number, (first, end) in enumerate(pairwise(bounds)):
            shard = Shard(self.folder, number, first, end)
            shards.append(shard)
        return shards


def _shard_rows(shards: list[Shard], kind: str) -> str:
    """Return SQL of the rows of a kind, of all shards in their order."""
    return rows_of([shard.file(kind) for shard in shards])


@contextmanager
def import_workers(settings: DataSettings, out: Path) -> Iterator[Workers | None]:
    """Yield the Ray workers that `data.workers` asks for, or None for none.

    Their files lie in `data.shared_folder`, or beside `out`, and are gone when the block ends.
    """
    if settings.workers == 0:
        yield None
        return
    if settings.shared_folder:
        shared = Path(settings.shared_folder).resolve()
    else:
        shared = out.resolve().parent
    shared.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".import-", dir=shared) as folder,
        ray_running(settings.workers),
    ):
        yield Workers(Path(folder), settings, run_on_ray)


def run_on_ray(label: str, function: Callable[..., Any], calls: Sequence[tuple]) -> list[Any]:
    """Call a function with each of `calls` on Ray's workers, a processor a task.

    Raises:
        UserError: a task raised it (of several, the first by order), or lost its worker over and
            over.
    """
    import ray

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_outcome)
    references = [task.remote(function, call) for call in calls]
    results: list[Any] = []
    try:
        for reference in progress(references, desc=label, unit=" tasks", delay=2):
            result, mistake = ray.get(reference)
            if mistake is not None:
                raise UserError(mistake)
            results.append(result)
    except ray.exceptions.RayTaskError:
        raise  # our own fault: with its traceback
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{label}: a Ray worker was lost {RETRIES + 1} times at task {len(results) + 1} of "
            f"{len(calls)}, and nothing was written; has it memory for data.memory_gb? ({reason})"
        ) from None
    finally:
        _cancel(references[len(results) :])
    return results


def _cancel(references: list[Any]) -> None:
    """End tasks, and wait for them: else one would write where the folder is about to go."""
    import ray

    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references))


def _outcome(function: Callable[..., Any], call: tuple) -> tuple[Any, str | None]:
    """Return what a function returns, and what is wrong with its input, or None."""
    try:
        return function(*call), None
    except UserError as error:
        return None, str(error)
