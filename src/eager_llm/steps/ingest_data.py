"""The step `ingest`: a shop's log and catalogue become clean tables."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from eager_llm.core.duckdb_engine import engine
from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_folder
from eager_llm.core.progress import say
from eager_llm.core.stores import fetch_folder, in_store
from eager_llm.data.demo_shop import demo_shop
from eager_llm.data.importing.column_mapping import ColumnMapping
from eager_llm.data.importing.importer import stage
from eager_llm.data.importing.on_ray import Workers, import_workers
from eager_llm.data.prepare import clean, save
from eager_llm.data.staging import stage_folder, stage_tables
from eager_llm.data.tables import metadata_file
from eager_llm.settings import DataSettings, Settings
from eager_llm.steps.memory import within_memory
from eager_llm.steps.timing import timed

DEMO = "demo"


@timed
@within_memory("ingest_data", "data.memory_gb")
def ingest(
    source: str,
    settings: Settings,
    out: Path,
    mapping: ColumnMapping | None = None,
    append: bool = False,
) -> dict[str, Any]:
    """Import a log with its catalogue, clean it, and write the tables.

    Args:
        source: a folder or its URI, a database, or `demo`, the made-up shop.
        out: folder for the tables.
        mapping: what the source's columns and files are called; None: its import.yaml, or its
            format.
        append: add to the tables in `out`, and to their rejected rows.

    Returns:
        The metadata of the tables.

    Raises:
        UserError: the source cannot be read, no event is left, or `out` holds other files.
    """
    _require_replaceable(out, source)
    with (
        engine(settings.data.memory_gb, out.parent) as connection,
        import_workers(settings.data, out) as workers,
    ):
        origin = _stage_source(connection, source, settings, out, mapping, workers)
        if append:
            stage_folder(connection, out)
        has_clock = not origin.get("ordinal_time")
        clean_events = workers.clean if workers else None
        counts = clean(connection, settings.data, has_clock, clean_events)
        metadata = {**origin, **counts}
        _require_events(source, metadata, settings.data)
        with whole_folder(out) as draft:
            save(connection, draft, metadata, in_order=workers is not None)
    say(
        f"{metadata['source']}: {metadata['events']} events, {metadata['users']} users, "
        f"{metadata['items']} items"
    )
    return metadata


def _stage_source(
    connection: DuckDBPyConnection,
    source: str,
    settings: Settings,
    out: Path,
    mapping: ColumnMapping | None,
    workers: Workers | None,
) -> dict[str, Any]:
    """Read the source into the engine, and return its metadata."""
    if source == DEMO:
        shop = demo_shop(settings.seed)
        stage_tables(connection, shop)
        return shop.metadata
    scratch = workers.folder if workers else out.parent
    read_events = workers.read if workers else None
    with _local_source(source, scratch) as local:
        origin = stage(connection, local, settings.data, mapping, read_events)
    if in_store(source):
        origin["source"] = source
    return origin


@contextmanager
def _local_source(source: str, scratch: Path) -> Iterator[str]:
    """Yield where the log can be read from: the source, or a copy of what lies in a store."""
    if not in_store(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix=".log-", dir=scratch) as folder:
        yield str(fetch_folder(source, Path(folder) / "log", "the log"))


def _require_events(source: str, metadata: dict[str, Any], settings: DataSettings) -> None:
    """Refuse a log of which no event is left.

    Raises:
        UserError: says what left them out.
    """
    if not metadata["events"]:
        raise UserError(
            f"{source}: no event is left after the {settings.min_interactions}-core of "
            f"{metadata['events_read']} events by {metadata['users_outside_core_dropped']} users; "
            "bring more events, or lower data.min_interactions"
        )


def _require_replaceable(out: Path, source: str) -> None:
    """Refuse to replace what no import has written, above all the log itself.

    Raises:
        UserError: `out` holds the source, or other files.
    """
    if source != DEMO and Path(source).resolve().is_relative_to(out.resolve()):
        raise UserError(f"{out}: the log lies there; name another folder for the tables")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder for the tables")
    if out.is_dir() and any(out.iterdir()) and not metadata_file(out).is_file():
        raise UserError(
            f"{out}: holds other files, which an import would replace; name a folder of its own"
        )
