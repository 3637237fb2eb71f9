"""From an imported log to a clean one: rules, duplicates out, time in order, k-core; in the engine.

The log in the engine is numbers (`u`, `i`, microseconds), so that its size is bounded by rows, not
by how long people's ids are. What a rule drops is kept in `set_aside` with the rule's name.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from eager_llm.core.duckdb_engine import engine, literal, one, run
from eager_llm.core.errors import UserError
from eager_llm.data.attributes import spread
from eager_llm.data.importing.importer import stage_tables
from eager_llm.data.tables import Tables, write_metadata
from eager_llm.settings import DataSettings

if TYPE_CHECKING:
    from eager_llm.data.importing.on_ray import Workers

DAY_US = 86_400_000_000
EVENTS_OUT = (
    "SELECT user_id, item_id, make_timestamptz(stamp) AS timestamp, event_type, weight, session, "
    "CASE WHEN stamp <> us THEN make_timestamptz(us) END AS recorded_at FROM ordered JOIN users USING (u) JOIN items USING (i)"
)
ASIDE_OUT = (
    "SELECT user_id, item_id, make_timestamptz(us) AS timestamp, event_type, weight, reason FROM quarantine "
    "JOIN users USING (u) JOIN items USING (i)"
)


def prepare(tables: Tables, min_interactions: int) -> Tables:
    """Clean tables in memory: `clean` for logs that fit there."""
    with engine() as connection:
        stage_tables(connection, tables)
        dated = not tables.metadata.get("ordinal_time")
        metadata = clean(connection, DataSettings(min_interactions=min_interactions), dated)
        events = connection.execute(
            f"SELECT {_columns(connection)} FROM events_out ORDER BY user_id, timestamp"
        ).df()
        items = connection.execute("SELECT * FROM items_out ORDER BY ALL").df()
        wishes = connection.execute("SELECT * FROM intentions_out ORDER BY ALL").df()
    for column in ("timestamp", "recorded_at"):
        if column in events:
            events[column] = events[column].dt.as_unit("us")
    return Tables(events, items, wishes if len(wishes) else None, {**tables.metadata, **metadata})


def clean(
    connection: duckdb.DuckDBPyConnection,
    settings: DataSettings,
    dated: bool = True,
    workers: "Workers | None" = None,
) -> dict[str, Any]:
    """Turn `events_in`, `items_in` and `intentions_in` into `events_out`, `items_out` and `intentions_out`.

    Events of items that the catalogue lacks are carried along untouched, whatever their number, so
    that the validation gate sees and names them.

    Args:
        dated: times are dates, not positions.
        workers: do what is by user, each for some of them; None: this process does.

    Returns:
        What was read, dropped and kept.
    """
    merged = _merge_items(connection, settings)
    _number_items(connection)
    found = workers.clean(connection) if workers else _clean_here(connection, settings)
    _out(connection)
    items = one(connection, "SELECT count(*) FROM items_out_ids")
    catalogue = one(connection, "SELECT count(*) FROM catalogue")
    metadata = {
        "events_read": found.read,
        "duplicate_events_dropped": found.read - found.unique,
        "simultaneous_events": found.simultaneous,
        "events_outside_core_dropped": found.unique - found.types - found.bots - found.kept,
        "users_outside_core_dropped": found.users - found.kept_users,
        "min_interactions": settings.min_interactions,
        "events": found.kept, "users": found.kept_users, "items": items,
        "items_without_events_dropped": catalogue - one(connection, "SELECT count(*) FROM items_out"),
    }  # fmt: skip
    if found.first is not None and found.last is not None and dated:
        metadata |= {"first_event": _date(found.first), "last_event": _date(found.last)}
    optional = {
        "items_merged": merged, "events_of_other_types_dropped": found.types, "events_of_bots_dropped": found.bots,
    }  # fmt: skip
    return {**metadata, **{key: value for key, value in optional.items() if value}}


@dataclass
class Found:
    """Counts of some users' events: read, without duplicates, dropped by a rule, kept; and the moments of the kept."""

    read: int
    unique: int
    users: int
    types: int
    bots: int
    kept: int = 0
    kept_users: int = 0
    simultaneous: int = 0
    first: int | None = None
    last: int | None = None


def _clean_here(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> Found:
    found = sift(connection, settings)
    core = core_counts(settings.min_interactions)
    find_rare(
        connection,
        settings.min_interactions,
        lambda: run(connection, "counting", f"CREATE OR REPLACE TABLE counts AS {core}"),
    )
    found = order(connection, settings, found)
    connection.execute(
        f"CREATE VIEW events_out AS {EVENTS_OUT}; CREATE VIEW aside_out AS {ASIDE_OUT}"
    )
    return found


def sift(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> Found:
    """Fill `log` from `merged`: no duplicates, no other types, no bots; what is dropped is in `quarantine`."""
    read = one(connection, "SELECT count(*) FROM merged")
    run(
        connection,
        "numbering the users",
        _numbered("users", "u", "user_id", "SELECT DISTINCT user_id FROM merged"),
    )
    connection.execute(
        "CREATE TABLE quarantine (u INTEGER, i INTEGER, us BIGINT, event_type VARCHAR, weight DOUBLE, reason VARCHAR)"
    )
    run(connection, "dropping duplicates", _unique_log())
    unique = one(connection, "SELECT count(*) FROM log")
    users = one(connection, "SELECT count(DISTINCT u) FROM log")
    types = _weigh(connection, settings)
    bots = _drop_bots(connection, settings)
    connection.execute(
        "CREATE TABLE orphans AS SELECT * FROM log ANTI JOIN known USING (i);"
        "DELETE FROM log WHERE i NOT IN (SELECT i FROM known)"
    )
    return Found(read, unique, users, types, bots)


def core_counts(k: int) -> str:
    """Return SQL for the events of each item that is not `rare`, by users with `k` or more such events."""
    return (
        "WITH common AS (SELECT u, i FROM log ANTI JOIN rare USING (i)) SELECT i, count(*) AS n FROM common "
        f"SEMI JOIN (SELECT u FROM common GROUP BY u HAVING count(*) >= {k}) USING (u) GROUP BY i"
    )


def find_rare(connection: duckdb.DuckDBPyConnection, k: int, count: Callable[[], None]) -> None:
    """Fill `rare` with the items outside the k-core, round by round, until every other item has `k` events or more.

    The items settle it: a user is in the core who has `k` events of items that are.

    Args:
        count: makes `counts` (i, n) anew, by `core_counts`.
    """
    connection.execute("CREATE TABLE rare (i INTEGER)")
    before = -1
    while (found := int(one(connection, "SELECT count(*) FROM rare"))) > before:
        before = found
        count()
        connection.execute(
            "INSERT INTO rare SELECT i FROM known ANTI JOIN rare USING (i) "
            f"ANTI JOIN (SELECT i FROM counts GROUP BY i HAVING sum(n) >= {k}) USING (i)"
        )


def order(connection: duckdb.DuckDBPyConnection, settings: DataSettings, found: Found) -> Found:
    """Set quarantine what lies outside the core, and make `ordered` of the rest; return the counts with those of the kept."""
    k = settings.min_interactions
    for where in (
        "i IN (SELECT i FROM rare)",
        f"u IN (SELECT u FROM log GROUP BY u HAVING count(*) < {k})",
    ):
        _set_aside(connection, where, f"outside the {k}-core")
    run(connection, "ordering the log", _ordered(settings))
    row = connection.execute(
        "SELECT count(*), count(DISTINCT u), count(*) FILTER (stamp <> us), min(stamp), max(stamp) FROM ordered"
    ).fetchone()
    kept, users, simultaneous, first, last = row or (0, 0, 0, None, None)
    return replace(
        found, kept=kept, kept_users=users, simultaneous=simultaneous, first=first, last=last
    )


def _date(us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat()


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
    quarantine = folder / "dropped"
    quarantine.mkdir()
    queries = {
        folder / "events.parquet": f"SELECT {_columns(connection)} FROM events_out"
        + ("" if in_order else " ORDER BY user_id, timestamp"),
        folder / "items.parquet": "SELECT * FROM items_out ORDER BY ALL",
        quarantine
        / "events.parquet": "SELECT * FROM aside_out ORDER BY user_id, timestamp, item_id, event_type",
        quarantine
        / "items.parquet": f"SELECT {spread(connection, 'catalogue')} FROM catalogue ANTI JOIN items_out_ids USING (item_id) ORDER BY ALL",
        quarantine / "rows.parquet": "SELECT * FROM faults ORDER BY ALL",
    }
    if one(connection, "SELECT count(*) FROM intentions_out"):
        queries[folder / "intentions.parquet"] = "SELECT * FROM intentions_out ORDER BY ALL"
    lost = "SELECT DISTINCT w.* FROM intentions_in w ANTI JOIN events_out USING (user_id, item_id)"
    if one(connection, f"SELECT count(*) FROM ({lost})"):
        queries[quarantine / "intentions.parquet"] = f"{lost} ORDER BY ALL"
    # Without effect on what is sorted anyway.
    connection.execute(f"SET preserve_insertion_order = {str(in_order).lower()}")
    for file, query in queries.items():
        run(
            connection,
            f"writing {file.name}",
            f"COPY ({query}) TO {literal(str(file))} (FORMAT parquet, COMPRESSION zstd)",
        )
    write_metadata(folder, metadata)


def _columns(connection: duckdb.DuckDBPyConnection) -> str:
    """Name the columns that say something: optional ones that are empty throughout are left out."""
    optional = [
        column for column in ("event_type", "weight", "session", "recorded_at")
        if one(connection, f"SELECT count({column}) FROM events_out")
    ]  # fmt: skip
    return ", ".join(["user_id", "item_id", "timestamp", *optional])


def _merge_items(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> int:
    """Bring items that are one, by alias or by equal text, to one id: the least; return how many went."""
    key = " || chr(0) || ".join(f"lower({column})" for column in settings.merge_items_by) or "NULL"
    filled = " AND ".join(f"{column} <> ''" for column in settings.merge_items_by) or "false"
    connection.execute(
        "CREATE TABLE same AS SELECT item_id, first FROM (SELECT item_id, min(item_id) OVER (PARTITION BY k) AS first FROM "
        f"(SELECT item_id, {key} AS k FROM items_in ANTI JOIN aliases USING (item_id) WHERE {filled})) WHERE item_id <> first"
    )
    connection.execute(
        "CREATE TABLE merges AS SELECT DISTINCT a.item_id, coalesce(s.first, a.same_as) AS into_id "
        "FROM (SELECT * FROM aliases UNION ALL SELECT item_id, item_id FROM same) a LEFT JOIN same s ON s.item_id = a.same_as"
    )
    count = int(one(connection, "SELECT count(*) FROM merges"))
    if count:
        connection.execute(
            "UPDATE intentions_in SET item_id = m.into_id FROM merges m WHERE intentions_in.item_id = m.item_id"
        )
        connection.execute("DELETE FROM items_in WHERE item_id IN (SELECT item_id FROM merges)")
    view_merged(connection)
    return count


def view_merged(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `merged`: the events as read, those of an item that was merged under its new id."""
    source = "events_in"
    if one(connection, "SELECT count(*) FROM merges"):
        source = "(SELECT e.* REPLACE (coalesce(into_id, item_id) AS item_id) FROM events_in e LEFT JOIN merges USING (item_id))"
    connection.execute(f"CREATE VIEW merged AS SELECT * FROM {source}")


def _number_items(connection: duckdb.DuckDBPyConnection) -> None:
    """Number the items, and note which of them the catalogue knows (`known`)."""
    run(
        connection, "numbering the items",
        _numbered("items", "i", "item_id", "SELECT DISTINCT coalesce(into_id, item_id) AS item_id FROM "
                  "(SELECT DISTINCT item_id FROM events_in) LEFT JOIN merges USING (item_id)"),
    )  # fmt: skip
    connection.execute(
        "CREATE TABLE catalogue AS SELECT DISTINCT * FROM items_in;"
        "CREATE TABLE known AS SELECT i FROM items SEMI JOIN catalogue USING (item_id)"
    )


def _numbered(table: str, letter: str, column: str, ids: str) -> str:
    """Return SQL that numbers ids in their order, with a hash each for drawing lots."""
    return (
        f"CREATE TABLE {table} AS SELECT (row_number() OVER (ORDER BY {column}))::INTEGER AS {letter}, {column}, "
        f"md5_number_lower({column}) AS lot FROM ({ids})"
    )


def _unique_log() -> str:
    return (
        "CREATE TABLE log AS SELECT u, i, us, event_type, max(weight) AS weight FROM merged "
        "JOIN users USING (user_id) JOIN items USING (item_id) GROUP BY u, i, us, event_type"
    )


def _set_aside(connection: duckdb.DuckDBPyConnection, where: str, reason: str) -> int:
    """Move the rows of `log` that `where` names to `quarantine`; return how many."""
    before = one(connection, "SELECT count(*) FROM quarantine")
    connection.execute(f"INSERT INTO quarantine SELECT *, {literal(reason)} FROM log WHERE {where}")
    connection.execute(f"DELETE FROM log WHERE {where}")
    return int(one(connection, "SELECT count(*) FROM quarantine") - before)


def _weigh(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> int:
    """Keep the event types that were asked for, each with its weight; return how many events went."""
    weights = {}
    for entry in settings.event_types:
        kind, separator, weight = entry.partition("=")
        try:
            weights[kind.strip()] = float(weight) if separator else 1.0
        except ValueError:
            raise UserError(
                f"data.event_types: {entry!r}: write it as type=weight, such as purchase=5"
            ) from None
    if not weights:
        return 0
    rows = ", ".join(f"({literal(kind)}, {weight!r}::DOUBLE)" for kind, weight in weights.items())
    connection.execute(f"CREATE TABLE wanted AS SELECT * FROM (VALUES {rows}) AS t(kind, w)")
    kept = "event_type IS NOT NULL AND event_type IN (SELECT kind FROM wanted WHERE w > 0)"
    dropped = _set_aside(connection, f"NOT ({kept})", "event type not kept")
    connection.execute(
        "UPDATE log SET weight = w * coalesce(weight, 1) FROM wanted WHERE event_type = kind"
    )
    return dropped


def _drop_bots(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> int:
    """Set users quarantine who had more events on one day (UTC) than a person has; return their events."""
    if not settings.max_daily_events:
        return 0
    connection.execute(
        f"CREATE TABLE bots AS SELECT DISTINCT u FROM (SELECT u FROM log GROUP BY u, us // {DAY_US} "
        f"HAVING count(*) > {settings.max_daily_events})"
    )
    return _set_aside(
        connection,
        "u IN (SELECT u FROM bots)",
        f"user with over {settings.max_daily_events} events on a day",
    )


def _ordered(settings: DataSettings) -> str:
    """Order the log so that time strictly rises within a user.

    Simultaneous events of a user have no order; file order could leak (exports are often sorted by
    item), so theirs is drawn by lot and spelt out in microseconds: an event is at least one
    microsecond later than the one before. With n the rank, that is n + max over earlier (us - n).
    """
    gap = int(settings.session_gap_minutes * 60_000_000)
    session = (
        f"1 + sum(CASE WHEN us - before > {gap} THEN 1 ELSE 0 END) OVER (PARTITION BY u ORDER BY n ROWS UNBOUNDED PRECEDING)"
        if gap else "NULL"
    )  # fmt: skip
    return (
        f"CREATE TABLE ordered AS SELECT u, i, us, n + max(us - n) OVER (PARTITION BY u ORDER BY n ROWS UNBOUNDED PRECEDING) "
        f"AS stamp, event_type, weight, CAST({session} AS INTEGER) AS session FROM "
        "(SELECT u, i, us, event_type, weight, row_number() OVER w AS n, lag(us) OVER w AS before "
        "FROM (SELECT * FROM log UNION ALL SELECT * FROM orphans) JOIN users USING (u) JOIN items USING (i) "
        "WINDOW w AS (PARTITION BY u ORDER BY us, xor(users.lot, items.lot), event_type))"
    )


def _out(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        "CREATE TABLE items_out_ids AS SELECT item_id FROM items SEMI JOIN known USING (i) ANTI JOIN rare USING (i);"
        f"CREATE VIEW items_out AS SELECT {spread(connection, 'catalogue')} FROM catalogue SEMI JOIN items_out_ids USING (item_id);"
        "CREATE VIEW intentions_out AS SELECT DISTINCT w.* FROM intentions_in w SEMI JOIN events_out USING (user_id, item_id)"
    )
