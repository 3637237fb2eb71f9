"""The feature tables as queries over the log: one row a moment at which a feature changed.

A row's value includes the event of its moment; nothing later. Retrieval as of just before a moment
therefore never sees the event that happens at it.
"""

from pathlib import Path

import duckdb

from eager_llm.core.duckdb_engine import view_file
from eager_llm.data.tables import ITEM_COLUMNS, Tables, require_tables

_ITEM_CATALOGUE = (
    f"SELECT {', '.join(ITEM_COLUMNS)}, "
    "(SELECT min(timestamp) FROM events) AS event_timestamp FROM items"
)
_USER_ACTIVITY = (
    "SELECT * REPLACE (distinct_items::BIGINT AS distinct_items) FROM ("
    "SELECT user_id, row_number() OVER w AS events, "
    "sum(CASE WHEN first THEN 1 ELSE 0 END) OVER w AS distinct_items, "
    "coalesce(epoch_us(timestamp) - lag(epoch_us(timestamp)) OVER w, 0) / 86400e6 AS pause_days, "
    "timestamp AS event_timestamp FROM (SELECT user_id, timestamp, "
    "row_number() OVER (PARTITION BY user_id, item_id ORDER BY timestamp) = 1 AS first "
    "FROM events) "
    "WINDOW w AS (PARTITION BY user_id ORDER BY timestamp ROWS UNBOUNDED PRECEDING))"
)
_ITEM_ACTIVITY = (
    "SELECT item_id, max(events) AS events, max(recent) AS events_30_days, "
    "timestamp AS event_timestamp FROM ("
    "SELECT item_id, timestamp, "
    "count(*) OVER (PARTITION BY item_id ORDER BY timestamp) AS events, "
    "count(*) OVER (PARTITION BY item_id ORDER BY timestamp RANGE INTERVAL 30 DAY PRECEDING) "
    "AS recent FROM events) GROUP BY ALL"
)


def view_tables(connection: duckdb.DuckDBPyConnection, tables: Tables | Path) -> None:
    """Make `events` and `items` available to the engine, from memory or from a folder."""
    if isinstance(tables, Tables):
        connection.register("events", tables.events.reset_index(drop=True))
        connection.register("items", tables.items.reset_index(drop=True))
        return
    require_tables(tables)
    for name in ("events", "items"):
        view_file(connection, name, tables / f"{name}.parquet")


def view_queries(connection: duckdb.DuckDBPyConnection, max_history: int) -> dict[str, str]:
    """Return for each feature view the query that makes its table.

    `user_type_history` is there only where the log has event types.

    Args:
        connection: holds the views `events` and `items`.
        max_history: items that a history keeps.
    """
    described = connection.execute("DESCRIBE SELECT * FROM events").fetchall()
    columns = {name for name, *_ in described}
    queries = {
        "user_history": _history("user_id", max_history),
        "item_catalogue": _ITEM_CATALOGUE,
        "user_activity": _USER_ACTIVITY,
        "item_activity": _ITEM_ACTIVITY,
    }
    if "event_type" in columns:
        typed = _history("user_id, event_type", max_history)
        queries["user_type_history"] = f"SELECT * FROM ({typed}) WHERE event_type IS NOT NULL"
    return queries


def _history(keys: str, max_history: int) -> str:
    """Return a query for one row an event: the key's last items up to and including it.

    They are listed oldest first, with their moments in microseconds since 1970.
    """
    return (
        f"SELECT {keys}, list(item_id) OVER w AS items, list(epoch_us(timestamp)) OVER w AS moments, "
        f"timestamp AS event_timestamp FROM events "
        f"WINDOW w AS (PARTITION BY {keys} ORDER BY timestamp ROWS {max_history - 1} PRECEDING)"
    )
