"""From an imported log to a clean one: rules, duplicates out, time in order, k-core; in the engine.

The log in the engine is numbers (`u`, `i`, microseconds), so that its size is bounded by rows, not
by how long people's ids are. What a rule drops is kept in `set_aside` with the rule's name.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from eager_llm.catalogue.attributes import spread
from eager_llm.catalogue.engine import engine, literal, one, run
from eager_llm.catalogue.importers import stage_tables
from eager_llm.catalogue.tables import Tables
from eager_llm.errors import UserError
from eager_llm.files import write_json
from eager_llm.settings import DataSettings

DAY_US = 86_400_000_000


def prepare(tables: Tables, min_interactions: int) -> Tables:
    """Clean tables in memory: `clean` for logs that fit there."""
    with engine() as connection:
        stage_tables(connection, tables)
        dated = not tables.facts.get("ordinal_time")
        facts = clean(connection, DataSettings(min_interactions=min_interactions), dated)
        events = connection.execute(f"SELECT {_columns(connection)} FROM events_out ORDER BY user_id, timestamp").df()
        items = connection.execute("SELECT * FROM items_out ORDER BY ALL").df()
        wishes = connection.execute("SELECT * FROM intentions_out ORDER BY ALL").df()
    for column in ("timestamp", "recorded_at"):
        if column in events:
            events[column] = events[column].dt.as_unit("us")
    return Tables(events, items, wishes if len(wishes) else None, {**tables.facts, **facts})


def clean(connection: duckdb.DuckDBPyConnection, settings: DataSettings, dated: bool = True) -> dict[str, Any]:
    """Turn `events_in`, `items_in` and `intentions_in` into `events_out`, `items_out` and `intentions_out`.

    Events of items that the catalogue lacks are carried along untouched, whatever their number, so
    that the validation gate sees and names them.

    Args:
        dated: times are dates, not positions.

    Returns:
        What was read, dropped and kept.
    """
    read = one(connection, "SELECT count(*) FROM events_in")
    merged = _merge_items(connection, settings)
    _number(connection)
    connection.execute(
        "CREATE TABLE aside (u INTEGER, i INTEGER, us BIGINT, event_type VARCHAR, weight DOUBLE, reason VARCHAR)"
    )
    run(connection, "dropping duplicates", _unique_log())
    unique = one(connection, "SELECT count(*) FROM log")
    users = one(connection, "SELECT count(DISTINCT u) FROM log")
    types = _weigh(connection, settings)
    bots = _drop_bots(connection, settings)
    _core(connection, settings.min_interactions)
    run(connection, "ordering the log", _ordered(settings))
    _out(connection)
    kept = one(connection, "SELECT count(*) FROM ordered")
    kept_users = one(connection, "SELECT count(DISTINCT u) FROM ordered")
    items = one(connection, "SELECT count(*) FROM items_out_ids")
    catalogue = one(connection, "SELECT count(*) FROM catalogue")
    rows = one(connection, "SELECT count(*) FROM items_out")
    facts = {
        "events_read": read,
        "duplicate_events_dropped": read - unique,
        "simultaneous_events": one(connection, "SELECT count(*) FROM ordered WHERE stamp <> us"),
        "events_outside_core_dropped": unique - types - bots - kept,
        "users_outside_core_dropped": users - kept_users,
        "min_interactions": settings.min_interactions,
        "events": kept, "users": kept_users, "items": items,
        "items_without_events_dropped": catalogue - rows,
    }  # fmt: skip
    if kept and dated:
        first, last = (one(connection, f"SELECT {which}(stamp) FROM ordered") for which in ("min", "max"))
        facts |= {"first_event": _date(first), "last_event": _date(last)}
    optional = {"items_merged": merged, "events_of_other_types_dropped": types, "events_of_bots_dropped": bots}
    return {**facts, **{key: value for key, value in optional.items() if value}}


def _date(us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat()


def save(connection: duckdb.DuckDBPyConnection, folder: Path, facts: dict[str, Any]) -> None:
    """Write the clean tables, and what was dropped beside them, as Parquet into an existing folder."""
    aside = folder / "dropped"
    aside.mkdir()
    queries = {
        folder / "events.parquet": f"SELECT {_columns(connection)} FROM events_out ORDER BY user_id, timestamp",
        folder / "items.parquet": "SELECT * FROM items_out ORDER BY ALL",
        aside / "events.parquet": (
            "SELECT user_id, item_id, make_timestamptz(us) AS timestamp, event_type, weight, reason FROM aside "
            "JOIN users USING (u) JOIN items USING (i) ORDER BY user_id, us, item_id"
        ),
        aside
        / "items.parquet": f"SELECT {spread(connection, 'catalogue')} FROM catalogue ANTI JOIN items_out_ids USING (item_id) ORDER BY ALL",
        aside / "rows.parquet": "SELECT * FROM faults ORDER BY ALL",
    }
    if one(connection, "SELECT count(*) FROM intentions_out"):
        queries[folder / "intentions.parquet"] = "SELECT * FROM intentions_out ORDER BY ALL"
    lost = "SELECT DISTINCT w.* FROM intentions_in w ANTI JOIN events_out USING (user_id, item_id)"
    if one(connection, f"SELECT count(*) FROM ({lost})"):
        queries[aside / "intentions.parquet"] = f"{lost} ORDER BY ALL"
    for file, query in queries.items():
        run(
            connection,
            f"writing {file.name}",
            f"COPY ({query}) TO {literal(str(file))} (FORMAT parquet, COMPRESSION zstd)",
        )
    write_json(folder / "facts.json", facts)


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
        for table in ("events_in", "intentions_in"):
            connection.execute(
                f"UPDATE {table} SET item_id = m.into_id FROM merges m WHERE {table}.item_id = m.item_id"
            )
        connection.execute("DELETE FROM items_in WHERE item_id IN (SELECT item_id FROM merges)")
    return count


def _number(connection: duckdb.DuckDBPyConnection) -> None:
    """Number users and items in the order of their ids, with a hash each for drawing lots."""
    for table, letter, column in (("users", "u", "user_id"), ("items", "i", "item_id")):
        run(
            connection, f"numbering the {table}",
            f"CREATE TABLE {table} AS SELECT (row_number() OVER (ORDER BY {column}))::INTEGER AS {letter}, {column}, "
            f"md5_number_lower({column}) AS lot FROM (SELECT DISTINCT {column} FROM events_in)",
        )  # fmt: skip
    connection.execute("CREATE TABLE catalogue AS SELECT DISTINCT * FROM items_in")


def _unique_log() -> str:
    return (
        "CREATE TABLE log AS SELECT u, i, us, event_type, max(weight) AS weight FROM events_in "
        "JOIN users USING (user_id) JOIN items USING (item_id) GROUP BY u, i, us, event_type"
    )


def _set_aside(connection: duckdb.DuckDBPyConnection, where: str, reason: str) -> int:
    """Move the rows of `log` that `where` names to `aside`; return how many."""
    before = one(connection, "SELECT count(*) FROM aside")
    connection.execute(f"INSERT INTO aside SELECT *, {literal(reason)} FROM log WHERE {where}")
    connection.execute(f"DELETE FROM log WHERE {where}")
    return int(one(connection, "SELECT count(*) FROM aside") - before)


def _weigh(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> int:
    """Keep the event types that were asked for, each with its weight; return how many events went."""
    weights = {}
    for entry in settings.event_types:
        kind, separator, weight = entry.partition("=")
        try:
            weights[kind.strip()] = float(weight) if separator else 1.0
        except ValueError:
            raise UserError(f"data.event_types: {entry!r}: write it as type=weight, such as purchase=5") from None
    if not weights:
        return 0
    rows = ", ".join(f"({literal(kind)}, {weight!r}::DOUBLE)" for kind, weight in weights.items())
    connection.execute(f"CREATE TABLE wanted AS SELECT * FROM (VALUES {rows}) AS t(kind, w)")
    kept = "event_type IS NOT NULL AND event_type IN (SELECT kind FROM wanted WHERE w > 0)"
    dropped = _set_aside(connection, f"NOT ({kept})", "event type not kept")
    connection.execute("UPDATE log SET weight = w * coalesce(weight, 1) FROM wanted WHERE event_type = kind")
    return dropped


def _drop_bots(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> int:
    """Set users aside who had more events on one day (UTC) than a person has; return their events."""
    if not settings.max_daily_events:
        return 0
    connection.execute(
        f"CREATE TABLE bots AS SELECT DISTINCT u FROM (SELECT u FROM log GROUP BY u, us // {DAY_US} "
        f"HAVING count(*) > {settings.max_daily_events})"
    )
    return _set_aside(
        connection, "u IN (SELECT u FROM bots)", f"user with over {settings.max_daily_events} events on a day"
    )


def _core(connection: duckdb.DuckDBPyConnection, k: int) -> None:
    """Set events aside of users and items with fewer than `k`, until every one left has `k` or more."""
    connection.execute(
        "CREATE TABLE known AS SELECT i FROM items SEMI JOIN catalogue USING (item_id);"
        "CREATE TABLE orphans AS SELECT * FROM log WHERE i NOT IN (SELECT i FROM known);"
        "DELETE FROM log WHERE i NOT IN (SELECT i FROM known)"
    )
    while True:
        rare = [f"{c} IN (SELECT {c} FROM log GROUP BY {c} HAVING count(*) < {k})" for c in ("u", "i")]
        if sum(_set_aside(connection, where, f"outside the {k}-core") for where in rare) == 0:
            return


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
        "CREATE VIEW events_out AS SELECT user_id, item_id, make_timestamptz(stamp) AS timestamp, event_type, weight, "
        "session, CASE WHEN stamp <> us THEN make_timestamptz(us) END AS recorded_at "
        "FROM ordered JOIN users USING (u) JOIN items USING (i);"
        "CREATE TABLE items_out_ids AS SELECT DISTINCT item_id FROM log JOIN items USING (i);"
        f"CREATE VIEW items_out AS SELECT {spread(connection, 'catalogue')} FROM catalogue SEMI JOIN items_out_ids USING (item_id);"
        "CREATE VIEW intentions_out AS SELECT DISTINCT w.* FROM intentions_in w SEMI JOIN events_out USING (user_id, item_id)"
    )
