"""What an accepted run looked like, and how far the next one is from it.

Drift of a distribution is the population stability index (Siddiqi, Credit Risk Scorecards, 2006):
the sum over bins of (p - q) ln(p / q). Below 0.1 is called no shift, above 0.25 a large one.
"""

from pathlib import Path
from typing import Any

import duckdb

from eager_llm.core.duckdb_engine import engine, literal, one, view_file
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, write_json
from eager_llm.data.tables import TEXT_COLUMNS
from eager_llm.settings import GateSettings
from eager_llm.validation.expectations import Gate

PROFILE = "profile.json"
SMALL = 1e-4
DRIFT_GATES = (
    "events-size", "users-size", "items-size", "catalogue-drift", "popularity-drift", "length-drift", "text-drift",
)  # fmt: skip


def profile(connection: duckdb.DuckDBPyConnection) -> dict[str, float]:
    """Return the figures of the views `events` and `items` that thresholds are learned from."""
    silent = " AND ".join(f"coalesce({column}, '') = ''" for column in TEXT_COLUMNS)
    return {
        "events": one(connection, "SELECT count(*) FROM events"),
        "users": one(connection, "SELECT count(DISTINCT user_id) FROM events"),
        "items": one(connection, "SELECT count(*) FROM items"),
        "text_share": one(
            connection, f"SELECT 1 - avg(CASE WHEN {silent} THEN 1 ELSE 0 END) FROM items"
        ),
    }


def accepted_profile(folder: Path, memory_gb: float) -> dict[str, float]:
    """Return the profile of the tables in a folder."""
    with engine(memory_gb) as connection:
        for name in ("events", "items"):
            view_file(connection, name, folder / f"{name}.parquet")
        return profile(connection)


def keep_profile(folder: Path, values: dict[str, Any]) -> None:
    """Write an accepted run's profile beside its tables."""
    write_json(folder / PROFILE, values)


def drift_gates(
    connection: duckdb.DuckDBPyConnection, accepted: Path, settings: GateSettings
) -> list[Gate]:
    """Return gates against an accepted run: sizes from its profile, drift from its tables.

    Args:
        connection: holds the views `events` and `items` of this run.
        accepted: the validated tables of that run.

    Raises:
        UserError: `accepted` holds no such run.
    """
    if not (accepted / PROFILE).is_file():
        raise UserError(
            f"gates.baseline: {accepted} holds no {PROFILE}; name the validated tables of an accepted run"
        )
    known = read_json(accepted / PROFILE)
    for name in ("events", "items"):
        view_file(connection, f"old_{name}", accepted / f"{name}.parquet")
    gates = []
    for table in ("events", "users", "items"):
        least, most = (
            known[table] * (1 - settings.size_tolerance),
            known[table] * (1 + settings.size_tolerance),
        )
        figure = (
            "SELECT count(DISTINCT user_id) FROM events"
            if table == "users"
            else f"SELECT count(*) FROM {table}"
        )
        rule = f"between {least:,.0f} and {most:,.0f} {table}, as the accepted run had {known[table]:,}"
        gates.append(Gate(f"{table}-size", "drift", rule, figure=figure, least=least, most=most))
    gone = "SELECT item_id FROM old_items ANTI JOIN items USING (item_id)"
    shared = (
        "SELECT 1 - count(*) / (SELECT greatest(count(*), 1) FROM old_items) FROM (" + gone + ")"
    )
    gates.append(Gate("catalogue-drift", "drift", f"at least {settings.min_catalogue_kept:.0%} of the accepted catalogue is still there",
                      gone, shared, settings.min_catalogue_kept, None))  # fmt: skip
    for name, what, bins in (("popularity", "the items' shares of the events", _POPULARITY), ("length", "events a user", _LENGTH), ("text", "characters of an item's text", _TEXT)):  # fmt: skip
        figure = _psi(bins.format(prefix="old_"), bins.format(prefix=""))
        gates.append(Gate(f"{name}-drift", "drift", f"stability index of {what} is at most {settings.max_drift:g}",
                          figure=figure, most=settings.max_drift))  # fmt: skip
    return gates


_LENGTH = (
    "SELECT floor(log2(count(*)))::INTEGER AS bin, 1 AS n FROM {prefix}events GROUP BY user_id"
)
_TEXT = "SELECT floor(log2(1 + length(concat(title, description, brand, categories))))::INTEGER AS bin, 1 AS n FROM {prefix}items"
_PAUSES = "SELECT floor(log2(greatest(pause, 1) / 3.6e9))::INTEGER AS bin, 1 AS n FROM {prefix}events WHERE pause IS NOT NULL"
# Items in ten classes by their rank in the accepted run, so that a change of who is popular shows.
_POPULARITY = (
    "SELECT coalesce(c.class, 0) AS bin, 1 AS n FROM {prefix}events LEFT JOIN (SELECT item_id, ntile(10) OVER (ORDER BY count(*) "
    "DESC, item_id) AS class FROM old_events GROUP BY item_id) c USING (item_id)"
)


def _psi(old: str, new: str) -> str:
    """Return SQL for the population stability index of two relations of `bin` and `n`."""
    share = "SELECT bin, sum(n) / sum(sum(n)) OVER () AS share FROM ({}) GROUP BY bin"
    return (
        f"SELECT sum((q - p) * ln(q / p)) FROM (SELECT greatest(coalesce(a.share, 0), {SMALL}) AS p, "
        f"greatest(coalesce(b.share, 0), {SMALL}) AS q FROM ({share.format(old)}) a FULL JOIN ({share.format(new)}) b USING (bin))"
    )


def shift_since(folder: Path, until: str, memory_gb: float) -> dict[str, float]:
    """Return the stability index of the events after a moment against those up to it, or nothing where one is empty.

    popularity: the shares of the items, in ten classes by their rank up to the moment; later items are left out.
    pauses: from a user's event to the next, in doublings of an hour.

    Args:
        folder: tables.
        until: the moment, in ISO form.
    """
    with engine(memory_gb) as connection:
        moment = f"TIMESTAMPTZ {literal(until)}"
        events = f"read_parquet({literal(str(folder / 'events.parquet'))})"
        connection.execute(
            f"CREATE TABLE all_events AS SELECT *, timestamp > {moment} AS late, "
            f"epoch_us(timestamp) - lag(epoch_us(timestamp)) OVER (PARTITION BY user_id ORDER BY timestamp) AS pause FROM {events};"
            "CREATE VIEW old_events AS SELECT * FROM all_events WHERE NOT late;"
            "CREATE VIEW events AS SELECT * FROM all_events WHERE late AND item_id IN (SELECT item_id FROM old_events)"
        )
        if not all(
            one(connection, f"SELECT count(*) FROM {name}") for name in ("old_events", "events")
        ):
            return {}
        measures = {"popularity": _POPULARITY, "pauses": _PAUSES}
        return {
            name: float(
                one(connection, _psi(bins.format(prefix="old_"), bins.format(prefix=""))) or 0.0
            )
            for name, bins in measures.items()
        }
