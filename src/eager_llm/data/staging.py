"""The engine's tables in which a log waits to be cleaned, and how frames and earlier imports fill them.

`events_in`, `items_in` and `intentions_in` hold the rows, `aliases` the items that are one, and
`faults` the rows that an import refused or changed. Times are microseconds since 1970, UTC.
`events_in` is a view: of `events_local`, and of whatever files an import puts beside it.
"""

from pathlib import Path

import duckdb
import pandas as pd

from eager_llm.core.duckdb_engine import literal
from eager_llm.core.errors import UserError
from eager_llm.data.attributes import attributes_object
from eager_llm.data.tables import ITEM_COLUMNS, TEXT_COLUMNS, Tables

SCHEMA = """
CREATE TABLE events_local (row BIGINT, user_id VARCHAR, item_id VARCHAR, us BIGINT,
    event_type VARCHAR, weight DOUBLE, fault VARCHAR);
CREATE VIEW events_in AS SELECT * FROM events_local;
CREATE TABLE items_in (item_id VARCHAR, title VARCHAR, description VARCHAR, brand VARCHAR,
    categories VARCHAR, attributes VARCHAR);
CREATE TABLE intentions_in (user_id VARCHAR, item_id VARCHAR, intention VARCHAR,
    preference VARCHAR);
CREATE TABLE aliases (item_id VARCHAR, same_as VARCHAR);
CREATE TABLE faults ("table" VARCHAR, file VARCHAR, row BIGINT, reason VARCHAR, kept BOOLEAN);
"""


def create_staging_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables, empty."""
    connection.execute(SCHEMA)


def stage_tables(connection: duckdb.DuckDBPyConnection, tables: Tables) -> None:
    """Create the tables and fill them from frames in memory."""
    create_staging_tables(connection)
    stage_frames(connection, tables.events, tables.items, tables.intentions)


def stage_frames(
    connection: duckdb.DuckDBPyConnection,
    events: pd.DataFrame,
    items: pd.DataFrame | None,
    intentions: pd.DataFrame | None = None,
) -> None:
    """Add the rows of frames.

    Args:
        items: None: the items of the events, without text.
    """
    _insert_frame_events(connection, events)
    if items is None:
        stage_items_of_events(connection)
    else:
        connection.register("frame_in", items.reset_index(drop=True))
        connection.execute(f"INSERT INTO items_in {_items_query(connection, 'frame_in')}")
    if intentions is not None:
        connection.register("frame_in", intentions.reset_index(drop=True))
        connection.execute(
            "INSERT INTO intentions_in SELECT user_id, item_id, intention, preference FROM frame_in"
        )


def stage_items_of_events(connection: duckdb.DuckDBPyConnection) -> None:
    """Add every item of the events, without text: for a log that has no catalogue."""
    connection.execute(
        "INSERT INTO items_in SELECT DISTINCT item_id, '', '', '', '', NULL FROM events_in"
    )


def stage_folder(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Add what an earlier import kept and what it dropped, so that a log can grow.

    Raises:
        UserError: `folder` holds no imported tables.
    """
    if not (folder / "events.parquet").is_file():
        raise UserError(
            f"{folder}: holds no events.parquet to add to; import without --append first"
        )
    for source in _earlier_files(folder, "events.parquet"):
        _insert_events(connection, source)
    for source in _earlier_files(folder, "items.parquet"):
        _insert_earlier_items(connection, source)
    for source in _earlier_files(folder, "intentions.parquet"):
        connection.execute(f"INSERT INTO intentions_in SELECT * FROM {source}")


def _earlier_files(folder: Path, file_name: str) -> list[str]:
    """Return SQL for the rows of an earlier import: those it kept, and those it dropped."""
    files = (folder / file_name, folder / "dropped" / file_name)
    return [f"read_parquet({literal(str(file))})" for file in files if file.is_file()]


def _insert_earlier_items(connection: duckdb.DuckDBPyConnection, source: str) -> None:
    """Add items of an earlier import; what is new says more of an item, unless it says nothing."""
    without_text = " AND ".join(f"{column} = ''" for column in TEXT_COLUMNS)
    connection.execute(
        f"DELETE FROM items_in WHERE {without_text} AND attributes IS NULL "
        f"AND item_id IN (SELECT item_id FROM {source})"
    )
    connection.execute(
        f"INSERT INTO items_in SELECT * FROM ({_items_query(connection, source)}) "
        "WHERE item_id NOT IN (SELECT item_id FROM items_in)"
    )


def _items_query(connection: duckdb.DuckDBPyConnection, source: str) -> str:
    """Return SQL for a source's items, columns that are no fields of ours as one object."""
    types = _column_types(connection, source)
    attributes = {column: types[column] for column in types if column not in ITEM_COLUMNS}
    return f"SELECT {', '.join(ITEM_COLUMNS)}, {attributes_object(attributes)} FROM {source}"


def _insert_frame_events(connection: duckdb.DuckDBPyConnection, events: pd.DataFrame) -> None:
    connection.register("frame_in", events.reset_index(drop=True))
    _insert_events(connection, "frame_in")


def _insert_events(connection: duckdb.DuckDBPyConnection, source: str) -> None:
    columns = _column_types(connection, source)
    time, event_type, weight = "timestamp", "NULL", "NULL"
    if "recorded_at" in columns:
        # What was recorded, before simultaneous events were given an order.
        time = "coalesce(recorded_at, timestamp)"
    if "event_type" in columns:
        event_type = "event_type"
    if "weight" in columns:
        weight = "weight"
    connection.execute(
        "INSERT INTO events_local SELECT NULL, user_id, item_id, "
        f"epoch_us(CAST({time} AS TIMESTAMPTZ)), {event_type}, {weight}, NULL FROM {source}"
    )


def _column_types(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """Return column → DuckDB type of a source, in its order."""
    rows = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    return {row[0]: row[1] for row in rows}
