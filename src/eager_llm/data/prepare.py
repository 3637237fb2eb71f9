"""From an imported log to clean tables: every stage of cleaning in turn, then Parquet files."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from eager_llm.core.duckdb_engine import engine, first_value, literal, run
from eager_llm.data.attributes import item_columns
from eager_llm.data.cleaning import (
    EVENTS_OUT,
    QUARANTINE_OUT,
    LogCounts,
    core_counts,
    drop_events,
    find_rare,
    merge_items,
    number_items,
    order_events,
)
from eager_llm.data.staging import stage_tables
from eager_llm.data.tables import EVENT_COLUMNS, Tables, write_metadata
from eager_llm.settings import DataSettings

# Cleans the events in `events_in`, and leaves `events_out`, `quarantine_out` and `rare`.
EventCleaner = Callable[[duckdb.DuckDBPyConnection], LogCounts]
OPTIONAL_EVENT_COLUMNS = ("event_type", "weight", "session", "recorded_at")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def prepare(tables: Tables, min_interactions: int) -> Tables:
    """Clean tables in memory: `clean` for logs that fit there."""
    with engine() as connection:
        stage_tables(connection, tables)
        dated = not tables.metadata.get("ordinal_time")
        metadata = clean(connection, DataSettings(min_interactions=min_interactions), dated)
        columns = _event_columns(connection)
        events = connection.execute(
            f"SELECT {columns} FROM events_out ORDER BY user_id, timestamp"
        ).df()
        items = connection.execute("SELECT * FROM items_out ORDER BY ALL").df()
        intentions = connection.execute("SELECT * FROM intentions_out ORDER BY ALL").df()
    for column in ("timestamp", "recorded_at"):
        if column in events:
            events[column] = events[column].dt.as_unit("us")
    metadata = {**tables.metadata, **metadata}
    return Tables(events, items, intentions if len(intentions) else None, metadata)


def clean(
    connection: duckdb.DuckDBPyConnection,
    settings: DataSettings,
    dated: bool = True,
    clean_events: EventCleaner | None = None,
) -> dict[str, Any]:
    """Turn `events_in`, `items_in`, `intentions_in` into `events_out`, `items_out`, `intentions_out`.

    Events of items that the catalogue lacks are carried along untouched, whatever their number, so
    that the validation gate sees and names them.

    Args:
        dated: times are dates, not positions.
        clean_events: cleans the events elsewhere; None: this process does.

    Returns:
        What was read, dropped and kept.
    """
    merged = merge_items(connection, settings)
    number_items(connection)
    if clean_events is None:
        counts = _clean_events(connection, settings)
    else:
        counts = clean_events(connection)
    _create_outputs(connection)
    metadata = _metadata(connection, settings, counts)
    if counts.first_us is not None and counts.last_us is not None and dated:
        metadata["first_event"] = _date(counts.first_us)
        metadata["last_event"] = _date(counts.last_us)
    optional = {
        "items_merged": merged,
        "events_of_other_types_dropped": counts.other_type_events,
        "events_of_bots_dropped": counts.bot_events,
    }
    for key, value in optional.items():
        if value:
            metadata[key] = value
    return metadata


def _clean_events(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> LogCounts:
    """Clean the events in this process."""
    counts = drop_events(connection, settings)
    query = f"CREATE OR REPLACE TABLE counts AS {core_counts(settings.min_interactions)}"
    find_rare(connection, settings.min_interactions, lambda: run(connection, "counting", query))
    counts = order_events(connection, settings, counts)
    connection.execute(f"CREATE VIEW events_out AS {EVENTS_OUT}")
    connection.execute(f"CREATE VIEW quarantine_out AS {QUARANTINE_OUT}")
    return counts


def _create_outputs(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `items_out` and `intentions_out`, of the items and events that are left."""
    connection.execute(
        "CREATE TABLE items_out_ids AS "
        "SELECT item_id FROM items SEMI JOIN catalogued USING (i) ANTI JOIN rare USING (i)"
    )
    connection.execute(
        f"CREATE VIEW items_out AS SELECT {item_columns(connection, 'catalogue')} "
        "FROM catalogue SEMI JOIN items_out_ids USING (item_id)"
    )
    connection.execute(
        "CREATE VIEW intentions_out AS "
        "SELECT DISTINCT w.* FROM intentions_in w SEMI JOIN events_out USING (user_id, item_id)"
    )


def _metadata(
    connection: duckdb.DuckDBPyConnection, settings: DataSettings, counts: LogCounts
) -> dict[str, Any]:
    """Return the counts by the names that they have beside the tables."""
    ruled_out = counts.other_type_events + counts.bot_events
    catalogue_items = first_value(connection, "SELECT count(*) FROM catalogue")
    clean_items = first_value(connection, "SELECT count(*) FROM items_out")
    return {
        "events_read": counts.events,
        "duplicate_events_dropped": counts.events - counts.unique_events,
        "simultaneous_events": counts.simultaneous_events,
        "events_outside_core_dropped": counts.unique_events - ruled_out - counts.clean_events,
        "users_outside_core_dropped": counts.users - counts.clean_users,
        "min_interactions": settings.min_interactions,
        "events": counts.clean_events,
        "users": counts.clean_users,
        "items": first_value(connection, "SELECT count(*) FROM items_out_ids"),
        "items_without_events_dropped": catalogue_items - clean_items,
    }


def _date(us: int) -> str:
    """Return microseconds since 1970 as an ISO date."""
    return (EPOCH + timedelta(microseconds=us)).isoformat()


def save(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    metadata: dict[str, Any],
    in_order: bool = False,
) -> None:
    """Write the clean tables, and what was dropped beside them, as Parquet into an existing folder.

    Args:
        in_order: the events are by user and time already, as workers leave them.
    """
    (folder / "dropped").mkdir()
    queries = {
        **_output_queries(connection, folder, in_order),
        **_quarantine_queries(connection, folder / "dropped"),
    }
    # Without effect on what is sorted anyway.
    connection.execute(f"SET preserve_insertion_order = {str(in_order).lower()}")
    for file, query in queries.items():
        run(
            connection,
            f"writing {file.name}",
            f"COPY ({query}) TO {literal(str(file))} (FORMAT parquet, COMPRESSION zstd)",
        )
    write_metadata(folder, metadata)


def _output_queries(
    connection: duckdb.DuckDBPyConnection, folder: Path, in_order: bool
) -> dict[Path, str]:
    """Return file → SQL of its rows, for the clean tables."""
    events = f"SELECT {_event_columns(connection)} FROM events_out"
    if not in_order:
        events += " ORDER BY user_id, timestamp"
    queries = {
        folder / "events.parquet": events,
        folder / "items.parquet": "SELECT * FROM items_out ORDER BY ALL",
    }
    if first_value(connection, "SELECT count(*) FROM intentions_out"):
        queries[folder / "intentions.parquet"] = "SELECT * FROM intentions_out ORDER BY ALL"
    return queries


def _quarantine_queries(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[Path, str]:
    """Return file → SQL of its rows, for what was dropped."""
    queries = {
        folder / "events.parquet": "SELECT * FROM quarantine_out "
        "ORDER BY user_id, timestamp, item_id, event_type",
        folder / "items.parquet": f"SELECT {item_columns(connection, 'catalogue')} "
        "FROM catalogue ANTI JOIN items_out_ids USING (item_id) ORDER BY ALL",
        folder / "rows.parquet": "SELECT * FROM faults ORDER BY ALL",
    }
    intentions = (
        "SELECT DISTINCT w.* FROM intentions_in w ANTI JOIN events_out USING (user_id, item_id)"
    )
    if first_value(connection, f"SELECT count(*) FROM ({intentions})"):
        queries[folder / "intentions.parquet"] = f"{intentions} ORDER BY ALL"
    return queries


def _event_columns(connection: duckdb.DuckDBPyConnection) -> str:
    """Name the columns of the events; optional ones that are empty throughout are left out."""
    filled = [
        column
        for column in OPTIONAL_EVENT_COLUMNS
        if first_value(connection, f"SELECT count({column}) FROM events_out")
    ]
    return ", ".join([*EVENT_COLUMNS, *filled])
