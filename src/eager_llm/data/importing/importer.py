"""Bring people's logs into the engine, row by row checked; what is refused is kept with its reason."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from eager_llm.core.duckdb_engine import engine, first_value
from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.data.attributes import clean_attributes, item_columns
from eager_llm.data.importing.column_mapping import ColumnMapping
from eager_llm.data.importing.formats import recognise
from eager_llm.data.importing.lcrec import lcrec_frames
from eager_llm.data.importing.row_checks import read_source_table
from eager_llm.data.importing.source_table import LogFormat, SourceTable
from eager_llm.data.importing.streams import Stream
from eager_llm.data.staging import create_staging_tables, stage_frames, stage_items_of_events
from eager_llm.data.tables import INTENTION_COLUMNS, ITEM_COLUMNS, TEXT_COLUMNS, Tables
from eager_llm.data.text_cleaning import LONGEST, clean_text
from eager_llm.settings import DataSettings

NAMED_FAULTS = 5
ITEM_BATCH = 5_000
# Columns of items and intentions that people wrote.
CLEANED_TEXTS = (*TEXT_COLUMNS, "intention", "preference")
# Reads the files of the events, so that `events_in` shows them; returns how many rows there were.
EventReader = Callable[[duckdb.DuckDBPyConnection, SourceTable, ColumnMapping], int]


def import_path(
    path: Path, mapping: ColumnMapping | None = None, settings: DataSettings | None = None
) -> Tables:
    """Read a folder in a known format into memory; for logs that fit there.

    Raises:
        UserError: nothing there has a known format, or a file is broken; file, row and field named.
    """
    settings = settings or DataSettings()
    with engine() as connection:
        metadata = stage(connection, str(path), settings, mapping)
        events = connection.execute(
            "SELECT user_id, item_id, make_timestamptz(us) AS timestamp, event_type, weight "
            "FROM events_in ORDER BY user_id, us, item_id"
        ).df()
        columns = item_columns(connection, "items_in")
        items = connection.execute(f"SELECT {columns} FROM items_in ORDER BY ALL").df()
        intentions = connection.execute("SELECT * FROM intentions_in ORDER BY ALL").df()
    for column in ("event_type", "weight"):
        if events[column].isna().all():
            events = events.drop(columns=column)
    events["timestamp"] = events["timestamp"].dt.as_unit("us")
    if intentions.empty:
        intentions = None
    return Tables(events, items, intentions, metadata)


def stage(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    settings: DataSettings,
    mapping: ColumnMapping | None = None,
    read_events: EventReader | None = None,
) -> dict[str, Any]:
    """Create the staging tables and fill them from a folder or a database.

    Args:
        read_events: reads the files of the events; None: this process does.

    Returns:
        Where it comes from, and how many rows were refused or changed.

    Raises:
        UserError: the source is broken, or more of its rows than `data.bad_rows` allows.
    """
    create_staging_tables(connection)
    log_format = recognise(source, mapping)
    _stage_log(connection, log_format, settings, read_events)
    aliases = log_format.mapping.item_aliases
    if aliases:
        _stage_aliases(connection, Path(source) / aliases)
    if not first_value(connection, "SELECT count(*) FROM events_in"):
        raise UserError(f"{source}: no row of the log is readable")
    has_items = any(table.table == "items" for table in log_format.tables)
    if log_format.lcrec is None and not has_items:
        stage_items_of_events(connection)
    return {
        "source": log_format.source,
        "form": log_format.name,
        "ordinal_time": log_format.lcrec is not None,
        "rows_refused": first_value(connection, "SELECT count(*) FROM faults WHERE NOT kept"),
        "texts_cut": first_value(connection, "SELECT count(*) FROM faults WHERE kept"),
    }


def _stage_log(
    connection: duckdb.DuckDBPyConnection,
    log_format: LogFormat,
    settings: DataSettings,
    read_events: EventReader | None,
) -> None:
    """Read every table of a log."""
    mapping = log_format.mapping
    if log_format.lcrec is not None:
        events, items = lcrec_frames(log_format.lcrec)
        stage_frames(connection, events, items)
    for source_table in log_format.tables:
        table = source_table.table
        if read_events and table == "events" and source_table.files:
            rows = read_events(connection, source_table, mapping)
            _report_faults(connection, table, rows, settings)
            continue
        rows = read_source_table(connection, source_table, mapping)
        _report_faults(connection, table, rows, settings)
        if table == "events":
            connection.execute("INSERT INTO events_local BY NAME SELECT * FROM events_raw")
            connection.execute("DROP TABLE events_raw")
        else:
            _stage_texts(connection, source_table, settings.clean_markup)


def _report_faults(
    connection: duckdb.DuckDBPyConnection, table: str, rows: int, settings: DataSettings
) -> None:
    """Note the broken rows of a table in `faults`.

    Raises:
        UserError: they are more than `data.bad_rows` of all rows.
    """
    broken = first_value(connection, "SELECT count(*) FROM source_faults")
    if not broken:
        return
    if broken > settings.bad_rows * rows:
        names = _named_faults(connection, broken)
        raise UserError(
            f"{names}\n"
            f"  {broken} of {rows} rows of the {table} are broken; mend them, or let a share "
            f"of them go into the report with data.bad_rows (now {settings.bad_rows:g})"
        )
    connection.execute(
        f"INSERT INTO faults SELECT '{table}', file, row, reason, false FROM source_faults"
    )
    say(f"{table}: {broken} of {rows} rows refused; they are named in dropped/rows.parquet")


def _named_faults(connection: duckdb.DuckDBPyConnection, broken: int) -> str:
    """Name the first broken rows, one a line, and how many more there are."""
    rows = connection.execute(
        f"SELECT file, unit, row, reason FROM source_faults ORDER BY file, row LIMIT {NAMED_FAULTS}"
    ).fetchall()
    lines = [f"{file}: {unit} {row}: {reason}" for file, unit, row, reason in rows]
    more = broken - len(lines)
    if more:
        lines.append(f"and {more} more")
    return "\n  ".join(lines)


def _stage_texts(
    connection: duckdb.DuckDBPyConnection, source_table: SourceTable, markup: bool
) -> None:
    """Clean the texts of items or intentions, batch by batch, and note which of them were cut."""
    table = source_table.table
    columns: tuple[str, ...] = INTENTION_COLUMNS
    if table == "items":
        columns = (*ITEM_COLUMNS, "attributes")
    cursor = connection.cursor()
    rows = cursor.execute(f"SELECT {', '.join(columns)} FROM {table}_raw")
    batches = _clean_batches(
        rows.to_arrow_reader(ITEM_BATCH),
        source_table.field_columns,
        markup,
    )
    schema = pa.schema([(column, pa.string()) for column in columns])
    stream = Stream(schema, batches)
    connection.register("cleaned", stream.reader)
    connection.execute(f"INSERT INTO {table}_in SELECT * FROM cleaned")
    stream.check()
    connection.unregister("cleaned")
    cursor.close()
    for column in columns:
        if column in CLEANED_TEXTS:
            _note_cut_texts(connection, table, column)
    connection.execute(f"DROP TABLE {table}_raw")


def _clean_batches(
    batches: Iterator[pa.RecordBatch],
    field_columns: frozenset[str],
    markup: bool,
) -> Iterator[pa.RecordBatch]:
    """Yield batches with clean texts and attributes.

    Args:
        field_columns: lower-case names of columns that are no attributes.
        markup: take HTML out of texts.
    """
    for batch in batches:
        names = batch.schema.names
        arrays = []
        for column in names:
            values = batch.column(column).to_pylist()
            if column in CLEANED_TEXTS:
                values = [clean_text(value, markup) for value in values]
            elif column == "attributes":
                values = [clean_attributes(value, field_columns, markup) for value in values]
            arrays.append(pa.array(values, pa.string()))
        yield pa.record_batch(arrays, names)


def _note_cut_texts(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> None:
    """Note the texts of a column that are longer than is kept."""
    connection.execute(
        f"INSERT INTO faults SELECT '{table}', NULL, row, "
        f"'{column} of item ' || item_id[:60] || ' cut from ' || length({column}) || "
        f"' to {LONGEST} characters', true FROM {table}_raw WHERE length({column}) > {LONGEST}"
    )


def _stage_aliases(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Read the items that are one, each with the item that it stands for."""
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        aliases = table[["item_id", "same_as"]]
    except FileNotFoundError:
        raise UserError(f"{file}: no such file, as item_aliases says") from None
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: not readable as a CSV of item_id, same_as: {error}") from None
    merged = aliases["item_id"]
    both = sorted(set(merged) & set(aliases["same_as"]))
    if both or merged.duplicated().any():
        raise UserError(
            f"{file}: an item stands for another once, and not for one that is merged itself: "
            f"{', '.join(both[:5])}"
        )
    connection.register("frame_in", aliases)
    connection.execute("INSERT INTO aliases SELECT item_id, same_as FROM frame_in")
