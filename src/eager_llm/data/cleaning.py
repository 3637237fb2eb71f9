"""The stages that clean a log in the engine: items merged, ids numbered, duplicates out, k-core, order.

The log in the engine is numbers (`u`, `i`, microseconds), so that its size is bounded by rows, not
by how long people's ids are. What a rule drops goes into `quarantine` with the rule's name.

What is of all users is done once: `merge_items`, `number_items` and `find_rare`. What is by user,
`drop_events` and `order_events`, may be done for some of the users at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import duckdb

from eager_llm.core.duckdb_engine import first_value, literal, run
from eager_llm.core.errors import UserError
from eager_llm.settings import DataSettings

DAY_US = 86_400_000_000
MINUTE_US = 60_000_000
EVENTS_OUT = (
    "SELECT user_id, item_id, make_timestamptz(stamp) AS timestamp, event_type, weight, session, "
    "CASE WHEN stamp <> us THEN make_timestamptz(us) END AS recorded_at "
    "FROM ordered JOIN users USING (u) JOIN items USING (i)"
)
QUARANTINE_OUT = (
    "SELECT user_id, item_id, make_timestamptz(us) AS timestamp, event_type, weight, reason "
    "FROM quarantine JOIN users USING (u) JOIN items USING (i)"
)


@dataclass
class LogCounts:
    """What became of some users' events.

    Attributes:
        events: events as they were read.
        unique_events: those without exact duplicates.
        users: users of the unique events.
        other_type_events: dropped for their type.
        bot_events: dropped because their user has too many on a day.
        clean_events: left after all rules.
        clean_users: users of the clean events.
        simultaneous_events: clean events that were given a later time, for an order.
        first_us: time of the first clean event, in microseconds since 1970; None: there is none.
        last_us: time of the last one.
    """

    events: int
    unique_events: int
    users: int
    other_type_events: int
    bot_events: int
    clean_events: int = 0
    clean_users: int = 0
    simultaneous_events: int = 0
    first_us: int | None = None
    last_us: int | None = None

    @classmethod
    def total(cls, shares: "Sequence[LogCounts]") -> "LogCounts":
        """Add up the counts of shares of a log; no user is in two of them."""
        sums = {}
        for field in fields(cls):
            if field.name not in ("first_us", "last_us"):
                sums[field.name] = sum(getattr(share, field.name) for share in shares)
        first = [share.first_us for share in shares if share.first_us is not None]
        last = [share.last_us for share in shares if share.last_us is not None]
        return cls(**sums, first_us=min(first, default=None), last_us=max(last, default=None))


def merge_items(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> int:
    """Bring items that are one, by alias or by equal text, to one id: the least.

    Returns:
        How many items went into others.
    """
    columns = settings.merge_items_by
    key = " || chr(0) || ".join(f"lower({column})" for column in columns) or "NULL"
    filled = " AND ".join(f"{column} <> ''" for column in columns) or "false"
    connection.execute(
        "CREATE TABLE same AS SELECT item_id, first FROM "
        "(SELECT item_id, min(item_id) OVER (PARTITION BY k) AS first FROM "
        f"(SELECT item_id, {key} AS k FROM items_in ANTI JOIN aliases USING (item_id) "
        f"WHERE {filled})) WHERE item_id <> first"
    )
    connection.execute(
        "CREATE TABLE merges AS "
        "SELECT DISTINCT a.item_id, coalesce(s.first, a.same_as) AS into_id "
        "FROM (SELECT * FROM aliases UNION ALL SELECT item_id, item_id FROM same) a "
        "LEFT JOIN same s ON s.item_id = a.same_as"
    )
    merged = int(first_value(connection, "SELECT count(*) FROM merges"))
    if merged:
        connection.execute(
            "UPDATE intentions_in SET item_id = m.into_id FROM merges m "
            "WHERE intentions_in.item_id = m.item_id"
        )
        connection.execute("DELETE FROM items_in WHERE item_id IN (SELECT item_id FROM merges)")
    view_merged_events(connection)
    return merged


def view_merged_events(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `merged`: the events as read, those of an item that was merged under its new id."""
    source = "events_in"
    if first_value(connection, "SELECT count(*) FROM merges"):
        source = (
            "(SELECT e.* REPLACE (coalesce(into_id, item_id) AS item_id) "
            "FROM events_in e LEFT JOIN merges USING (item_id))"
        )
    connection.execute(f"CREATE VIEW merged AS SELECT * FROM {source}")


def number_items(connection: duckdb.DuckDBPyConnection) -> None:
    """Number the items of the events, and note which of them are in the catalogue (`catalogued`)."""
    ids = (
        "SELECT DISTINCT coalesce(into_id, item_id) AS item_id FROM "
        "(SELECT DISTINCT item_id FROM events_in) LEFT JOIN merges USING (item_id)"
    )
    run(connection, "numbering the items", _numbered("items", "i", "item_id", ids))
    connection.execute(
        "CREATE TABLE catalogue AS SELECT DISTINCT * FROM items_in;"
        "CREATE TABLE catalogued AS SELECT i FROM items SEMI JOIN catalogue USING (item_id)"
    )


def _numbered(table: str, letter: str, column: str, ids: str) -> str:
    """Return SQL that numbers ids in their order, with a hash each for drawing lots."""
    return (
        f"CREATE TABLE {table} AS "
        f"SELECT (row_number() OVER (ORDER BY {column}))::INTEGER AS {letter}, {column}, "
        f"md5_number_lower({column}) AS lot FROM ({ids})"
    )


def drop_events(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> LogCounts:
    """Fill `log` from `merged`: no duplicates, no other types, no bots.

    What a rule drops is in `quarantine`. Events of items that the catalogue lacks are in `orphans`.

    Raises:
        UserError: `data.event_types` is not readable.
    """
    events = first_value(connection, "SELECT count(*) FROM merged")
    ids = "SELECT DISTINCT user_id FROM merged"
    run(connection, "numbering the users", _numbered("users", "u", "user_id", ids))
    connection.execute(
        "CREATE TABLE quarantine (u INTEGER, i INTEGER, us BIGINT, event_type VARCHAR, "
        "weight DOUBLE, reason VARCHAR)"
    )
    run(
        connection,
        "dropping duplicates",
        "CREATE TABLE log AS SELECT u, i, us, event_type, max(weight) AS weight FROM merged "
        "JOIN users USING (user_id) JOIN items USING (item_id) GROUP BY u, i, us, event_type",
    )
    unique_events = first_value(connection, "SELECT count(*) FROM log")
    users = first_value(connection, "SELECT count(DISTINCT u) FROM log")
    other_type_events = _drop_other_types(connection, settings)
    bot_events = _drop_bots(connection, settings)
    connection.execute(
        "CREATE TABLE orphans AS SELECT * FROM log ANTI JOIN catalogued USING (i);"
        "DELETE FROM log WHERE i NOT IN (SELECT i FROM catalogued)"
    )
    return LogCounts(events, unique_events, users, other_type_events, bot_events)


def _quarantine(connection: duckdb.DuckDBPyConnection, condition: str, reason: str) -> int:
    """Move the rows of `log` that meet a condition to `quarantine`; return how many."""
    earlier = first_value(connection, "SELECT count(*) FROM quarantine")
    connection.execute(
        f"INSERT INTO quarantine SELECT *, {literal(reason)} FROM log WHERE {condition}"
    )
    connection.execute(f"DELETE FROM log WHERE {condition}")
    return int(first_value(connection, "SELECT count(*) FROM quarantine") - earlier)


def _drop_other_types(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> int:
    """Keep the event types of the settings, each with its weight; return how many events went."""
    weights = _event_weights(settings)
    if not weights:
        return 0
    rows = ", ".join(f"({literal(kind)}, {weight!r}::DOUBLE)" for kind, weight in weights.items())
    connection.execute(f"CREATE TABLE event_weights AS SELECT * FROM (VALUES {rows}) AS t(kind, w)")
    allowed = (
        "event_type IS NOT NULL AND event_type IN (SELECT kind FROM event_weights WHERE w > 0)"
    )
    dropped = _quarantine(connection, f"NOT ({allowed})", "event type not kept")
    connection.execute(
        "UPDATE log SET weight = w * coalesce(weight, 1) FROM event_weights WHERE event_type = kind"
    )
    return dropped


def _event_weights(settings: DataSettings) -> dict[str, float]:
    """Return event type → weight, by `data.event_types`."""
    weights = {}
    for entry in settings.event_types:
        kind, separator, weight = entry.partition("=")
        try:
            weights[kind.strip()] = float(weight) if separator else 1.0
        except ValueError:
            raise UserError(
                f"data.event_types: {entry!r}: write it as type=weight, such as purchase=5"
            ) from None
    return weights


def _drop_bots(connection: duckdb.DuckDBPyConnection, settings: DataSettings) -> int:
    """Drop users with more events on one day (UTC) than a person has; return their events."""
    limit = settings.max_daily_events
    if not limit:
        return 0
    connection.execute(
        "CREATE TABLE bots AS SELECT DISTINCT u FROM "
        f"(SELECT u FROM log GROUP BY u, us // {DAY_US} HAVING count(*) > {limit})"
    )
    return _quarantine(
        connection, "u IN (SELECT u FROM bots)", f"user with over {limit} events on a day"
    )


def core_counts(k: int) -> str:
    """Return SQL for the events of each item that is not `rare`, by users with `k` such or more."""
    return (
        "WITH common AS (SELECT u, i FROM log ANTI JOIN rare USING (i)) "
        "SELECT i, count(*) AS n FROM common "
        f"SEMI JOIN (SELECT u FROM common GROUP BY u HAVING count(*) >= {k}) USING (u) GROUP BY i"
    )


def find_rare(
    connection: duckdb.DuckDBPyConnection, k: int, count_events: Callable[[], None]
) -> None:
    """Fill `rare` with the items outside the k-core, round by round.

    It ends when every other item has `k` events or more. The items settle it: a user is in the
    core who has `k` events of items that are.

    Args:
        count_events: makes `counts` (i, n) anew, by `core_counts`.
    """
    connection.execute("CREATE TABLE rare (i INTEGER)")
    rare_items, earlier = 0, -1
    while rare_items > earlier:
        count_events()
        connection.execute(
            "INSERT INTO rare SELECT i FROM catalogued ANTI JOIN rare USING (i) "
            f"ANTI JOIN (SELECT i FROM counts GROUP BY i HAVING sum(n) >= {k}) USING (i)"
        )
        earlier = rare_items
        rare_items = int(first_value(connection, "SELECT count(*) FROM rare"))


def order_events(
    connection: duckdb.DuckDBPyConnection, settings: DataSettings, counts: LogCounts
) -> LogCounts:
    """Drop what lies outside the core, and make `ordered` of the other events.

    Returns:
        `counts`, with those of the clean events.
    """
    k = settings.min_interactions
    reason = f"outside the {k}-core"
    _quarantine(connection, "i IN (SELECT i FROM rare)", reason)
    small_users = f"SELECT u FROM log GROUP BY u HAVING count(*) < {k}"
    _quarantine(connection, f"u IN ({small_users})", reason)
    run(connection, "ordering the log", _ordered(settings))
    row = connection.execute(
        "SELECT count(*), count(DISTINCT u), count(*) FILTER (stamp <> us), min(stamp), max(stamp) "
        "FROM ordered"
    ).fetchone()
    events, users, simultaneous, first, last = row or (0, 0, 0, None, None)
    return replace(
        counts,
        clean_events=events,
        clean_users=users,
        simultaneous_events=simultaneous,
        first_us=first,
        last_us=last,
    )


def _ordered(settings: DataSettings) -> str:
    """Return SQL that orders the log so that time strictly rises within a user.

    Simultaneous events of a user have no order; file order could leak (exports are often sorted by
    item), so theirs is drawn by lot and spelt out in microseconds: an event is at least one
    microsecond later than the one before. With n the rank, that is n + max over earlier (us - n).
    """
    window = "OVER (PARTITION BY u ORDER BY n ROWS UNBOUNDED PRECEDING)"
    gap = int(settings.session_gap_minutes * MINUTE_US)
    session = "NULL"
    if gap:
        session = f"1 + sum(CASE WHEN us - before > {gap} THEN 1 ELSE 0 END) {window}"
    return (
        f"CREATE TABLE ordered AS SELECT u, i, us, n + max(us - n) {window} AS stamp, "
        f"event_type, weight, CAST({session} AS INTEGER) AS session FROM "
        "(SELECT u, i, us, event_type, weight, row_number() OVER w AS n, lag(us) OVER w AS before "
        "FROM (SELECT * FROM log UNION ALL SELECT * FROM orphans) "
        "JOIN users USING (u) JOIN items USING (i) "
        "WINDOW w AS (PARTITION BY u ORDER BY us, xor(users.lot, items.lot), event_type))"
    )
