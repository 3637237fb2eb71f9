"""Importing by several workers: the same reading and cleaning, a file or a range of users a task.

Rows move by Parquet files in a folder that all workers reach; through Ray go names and counts only. A task depends on
nothing but its files and writes its own whole, so that a lost worker's task is simply done again. Users are shared out
in ranges of their ids, each with about as many events, so that what the workers write is in order one after the other.
What is of all users stays with the process that asked: items, their merging and numbering, and the sums of the k-core.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb

from eager_llm.cluster.local_ray import ray_running
from eager_llm.core.duckdb_engine import engine, listed, literal, one, run
from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file
from eager_llm.core.progress import progress
from eager_llm.data.importing.column_mapping import ColumnMapping
from eager_llm.data.importing.formats import SourceTable
from eager_llm.data.importing.importer import PART_FAULTS, read_part
from eager_llm.data.prepare import (
    ASIDE_OUT,
    EVENTS_OUT,
    Found,
    core_counts,
    find_rare,
    order,
    sift,
    view_merged,
)
from eager_llm.settings import DataSettings

SAMPLE = 20_000
RETRIES = 3
EVENT_FIELDS = "user_id, item_id, us, event_type, weight"
# Does a function for every call, in any order and maybe elsewhere; answers in the order of the calls.
Each = Callable[[str, Callable[..., Any], Sequence[tuple]], list[Any]]


@dataclass(frozen=True)
class Shard:
    """The users of a range of ids, `first` to before `last`, and where files about them lie."""

    folder: Path
    number: int
    first: str | None
    last: str | None

    def file(self, kind: str) -> Path:
        """Return the file of a kind."""
        return self.folder / f"{kind}-{self.number}.parquet"

    @property
    def users(self) -> str:
        """SQL for whether a row is of these users."""
        bounds = [f"user_id >= {literal(self.first)}"] if self.first is not None else []
        bounds += [f"user_id < {literal(self.last)}"] if self.last is not None else []
        return " AND ".join(bounds) or "true"


class Workers:
    """Workers for one import.

    Args:
        folder: that all of them reach, empty, and gone afterwards.
        each: who does the tasks.
    """

    def __init__(self, folder: Path, settings: DataSettings, each: Each) -> None:
        self.folder, self._settings, self._each = folder, settings, each
        self._pieces: list[Path] = []

    def read(
        self, connection: duckdb.DuckDBPyConnection, part: SourceTable, mapping: ColumnMapping
    ) -> int:
        """Read a part's files, a file a task; `events_in` shows them, `part_faults` names the broken rows.

        Returns:
            How many rows there were.
        """
        calls = []
        for number, file in enumerate(part.files):
            pieces = (
                self.folder / f"read-{number}.parquet",
                self.folder / f"faults-{number}.parquet",
            )
            calls.append(
                (replace(part, files=(file.resolve(),)), mapping, self._settings.memory_gb, *pieces)
            )
            self._pieces.append(pieces[0])
        rows = self._each("reading", read_file, calls)
        connection.execute(PART_FAULTS)
        for file, call in zip(part.files, calls, strict=True):
            # As whoever asked names the file.
            connection.execute(
                f"INSERT INTO part_faults SELECT {literal(str(file))}, row, unit, reason FROM {_rows([call[-1]])}"
            )
        self._show(connection)
        return sum(rows)

    def clean(self, connection: duckdb.DuckDBPyConnection) -> Found:
        """Clean the log in `events_in`, a range of users a task; the result is `events_out`, `aside_out` and `rare`."""
        if one(connection, "SELECT count(*) FROM events_here"):
            # What this process has read itself: a database, or tables that are added to.
            self._keep(connection, "here", f"SELECT {EVENT_FIELDS} FROM events_here")
            self._pieces.append(self.folder / "here.parquet")
            connection.execute("DELETE FROM events_here")
            self._show(connection)
        for table in ("items", "known", "merges"):
            self._keep(connection, table, f"SELECT * FROM {table}")
        shards = self._shards(connection)
        found = self._each(
            "dropping duplicates", sift_shard, [(s, self._pieces, self._settings) for s in shards]
        )
        rounds = 0

        def count() -> None:
            nonlocal rounds
            rounds += 1
            self._keep(connection, "rare", "SELECT * FROM rare")
            self._each(
                f"k-core, round {rounds}", count_shard, [(s, self._settings) for s in shards]
            )
            connection.execute(
                f"CREATE OR REPLACE VIEW counts AS SELECT * FROM {_rows([s.file('counts') for s in shards])}"
            )

        find_rare(connection, self._settings.min_interactions, count)
        self._keep(connection, "rare", "SELECT * FROM rare")
        calls = [(s, f, self._settings) for s, f in zip(shards, found, strict=True)]
        found = self._each("ordering the log", order_shard, calls)
        for view, kind in (("events_out", "events"), ("aside_out", "dropped")):
            connection.execute(
                f"CREATE VIEW {view} AS SELECT * FROM {_rows([s.file(kind) for s in shards])}"
            )
        return _total(found)

    def _show(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute(
            f"CREATE OR REPLACE VIEW events_in AS SELECT {EVENT_FIELDS} FROM events_here "
            f"UNION ALL SELECT {EVENT_FIELDS} FROM {_rows(self._pieces)}"
        )

    def _keep(self, connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
        _write(connection, query, self.folder / f"{name}.parquet")

    def _shards(self, connection: duckdb.DuckDBPyConnection) -> list[Shard]:
        """Cut the ids into ranges with about as many events each, by a sample of the events."""
        rows = connection.execute(
            f"SELECT user_id FROM events_in USING SAMPLE reservoir({SAMPLE} ROWS)"
        ).fetchall()
        # DuckDB compares text by its bytes.
        ids = sorted((str(user) for (user,) in rows), key=str.encode)
        cuts = list(
            dict.fromkeys(
                ids[len(ids) * n // self._settings.workers]
                for n in range(1, self._settings.workers)
            )
        )
        bounds = [None, *cuts, None]
        return [Shard(self.folder, n, *pair) for n, pair in enumerate(pairwise(bounds))]


@contextmanager
def import_workers(settings: DataSettings, out: Path) -> Iterator[Workers | None]:
    """Yield the Ray workers that `data.workers` asks for, or None for none.

    Their files lie in `data.shared_folder`, or beside `out`, and are gone when the block ends.
    """
    if settings.workers == 0:
        yield None
        return
    shared = (
        Path(settings.shared_folder).resolve() if settings.shared_folder else out.resolve().parent
    )
    shared.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".import-", dir=shared) as folder,
        ray_running(settings.workers),
    ):
        yield Workers(Path(folder), settings, on_ray)


def on_ray(label: str, function: Callable[..., Any], calls: Sequence[tuple]) -> list[Any]:
    """Do a function for every call by Ray's workers, a processor a task.

    Raises:
        UserError: a task raised it (of several, the first by order), or lost its worker over and over.
    """
    import ray

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_answer)
    waiting = [task.remote(function, call) for call in calls]
    answers = []
    try:
        for reference in progress(waiting, desc=label, unit=" tasks", delay=2):
            answer, mistake = ray.get(reference)
            if mistake is not None:
                raise UserError(mistake)
            answers.append(answer)
    except ray.exceptions.RayTaskError:
        raise  # our own fault: with its traceback
    except ray.exceptions.RayError as error:
        raise UserError(
            f"{label}: a Ray worker was lost {RETRIES + 1} times at task {len(answers) + 1} of {len(calls)}, and nothing was "
            f"written; has it memory for data.memory_gb? ({str(error).strip().splitlines()[0]})"
        ) from None
    finally:
        left = waiting[len(answers) :]
        for reference in left:
            ray.cancel(reference)
        if left:  # else one would write where the folder is about to go
            ray.wait(left, num_returns=len(left))
    return answers


def _answer(function: Callable[..., Any], call: tuple) -> tuple[Any, str | None]:
    """Return what the function does, or what is wrong with its input."""
    try:
        return function(*call), None
    except UserError as error:
        return None, str(error)


def read_file(
    part: SourceTable, mapping: ColumnMapping, memory_gb: float, rows: Path, faults: Path
) -> int:
    """Read one file; write its rows that are readable, and why others are not; return how many there were."""
    with engine(memory_gb, threads=1) as connection:
        read = read_part(connection, part, mapping)
        _write(connection, f"SELECT {EVENT_FIELDS} FROM {part.table}_raw", rows)
        _write(connection, "SELECT * FROM part_faults", faults)
    return read


def sift_shard(shard: Shard, pieces: list[Path], settings: DataSettings) -> Found:
    """Drop what is dropped by user, and write what is left."""
    with _engine(shard, settings, "items", "known", "merges") as connection:
        connection.execute(
            f"CREATE VIEW events_in AS SELECT * FROM {_rows(pieces)} WHERE {shard.users}"
        )
        view_merged(connection)
        found = sift(connection, settings)
        for table in ("users", "log", "orphans", "quarantine"):
            _write(connection, f"SELECT * FROM {table}", shard.file(table))
    return found


def count_shard(shard: Shard, settings: DataSettings) -> None:
    """Write the counts of a round of the k-core."""
    with _engine(shard, settings, "rare") as connection:
        connection.execute(f"CREATE VIEW log AS SELECT u, i FROM {_rows([shard.file('log')])}")
        _write(connection, core_counts(settings.min_interactions), shard.file("counts"))


def order_shard(shard: Shard, found: Found, settings: DataSettings) -> Found:
    """Write the clean events in order, and what was set quarantine."""
    with _engine(shard, settings, "items", "rare") as connection:
        for table in ("users", "log", "orphans", "quarantine"):
            connection.execute(
                f"CREATE TABLE {table} AS SELECT * FROM {_rows([shard.file(table)])}"
            )
        found = order(connection, settings, found)
        _write(connection, f"{EVENTS_OUT} ORDER BY user_id, timestamp", shard.file("events"))
        _write(connection, ASIDE_OUT, shard.file("dropped"))
    return found


@contextmanager
def _engine(
    shard: Shard, settings: DataSettings, *tables: str
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an engine with tables that all shards have in common."""
    with engine(settings.memory_gb, threads=1) as connection:
        for table in tables:
            connection.execute(
                f"CREATE TABLE {table} AS SELECT * FROM {_rows([shard.folder / f'{table}.parquet'])}"
            )
        yield connection


def _rows(files: Sequence[Path]) -> str:
    return f"read_parquet({listed([str(file) for file in files])})"


def _write(connection: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    with whole_file(file) as draft:
        run(
            connection,
            f"writing {file.name}",
            f"COPY ({query}) TO {literal(str(draft))} (FORMAT parquet)",
        )


def _total(found: Sequence[Found]) -> Found:
    """Add the counts of shards up; no user is in two."""
    sums = {
        name: sum(getattr(f, name) for f in found)
        for name in Found.__dataclass_fields__
        if name not in ("first", "last")
    }
    first = min((f.first for f in found if f.first is not None), default=None)
    last = max((f.last for f in found if f.last is not None), default=None)
    return Found(**sums, first=first, last=last)
