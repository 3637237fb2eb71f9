"""What an accepted run looked like, and how far the next one is from it.

Drift of a distribution is the population stability index (Siddiqi, Credit Risk Scorecards, 2006):
the sum over bins of (p - q) ln(p / q). Below 0.1 is called no shift, above 0.25 a large one.
"""

from pathlib import Path
from typing import Any

import duckdb

from eager_llm.core.duckdb_engine import engine, first_value, literal, view_file
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, write_json
from eager_llm.settings import GateSettings
from eager_llm.validation.expectations import TEXT_SHARE
from eager_llm.validation.gate import Gate

PROFILE = "profile.json"
# The least share of a bin, so that an empty one has a logarithm.
LEAST_SHARE = 1e-4

_SIZES = {
    "events": "SELECT count(*) FROM events",
    "users": "SELECT count(DISTINCT user_id) FROM events",
    "items": "SELECT count(*) FROM items",
}

# Relations of `bin` and `n` over the tables whose names start with a prefix.
_LENGTH = (
    "SELECT floor(log2(count(*)))::INTEGER AS bin, 1 AS n FROM {prefix}events GROUP BY user_id"
)
_TEXT = (
    "SELECT floor(log2(1 + length(concat(title, description, brand, categories))))::INTEGER "
    "AS bin, 1 AS n FROM {prefix}items"
)
_PAUSES = (
    "SELECT floor(log2(greatest(pause, 1) / 3.6e9))::INTEGER AS bin, 1 AS n "
    "FROM {prefix}events WHERE pause IS NOT NULL"
)
# Items in ten classes by their rank in the accepted run, so that a change of who is popular shows.
_POPULARITY = (
    "SELECT coalesce(c.class, 0) AS bin, 1 AS n FROM {prefix}events LEFT JOIN ("
    "SELECT item_id, ntile(10) OVER (ORDER BY count(*) DESC, item_id) AS class "
    "FROM old_events GROUP BY item_id) c USING (item_id)"
)


def profile(connection: duckdb.DuckDBPyConnection) -> dict[str, float]:
    """Return the figures of the views `events` and `items` that thresholds are learned from.

    Returns:
        `events`, `users` and `items`, counted, and `text_share`: the items that have text.
    """
    figures = {table: first_value(connection, query) for table, query in _SIZES.items()}
    figures["text_share"] = first_value(connection, TEXT_SHARE)
    return figures


def profile_folder(folder: Path, memory_gb: float) -> dict[str, float]:
    """Return the profile of the tables in a folder.

    Args:
        folder: holds `events.parquet` and `items.parquet`.
        memory_gb: memory that the engine may take before it spills to disk.
    """
    with engine(memory_gb) as connection:
        for name in ("events", "items"):
            view_file(connection, name, folder / f"{name}.parquet")
        return profile(connection)


def write_profile(folder: Path, figures: dict[str, Any]) -> None:
    """Write an accepted run's profile beside its tables."""
    write_json(folder / PROFILE, figures)


def drift_gates(
    connection: duckdb.DuckDBPyConnection, accepted: Path, settings: GateSettings
) -> list[Gate]:
    """Return gates against an accepted run: sizes from its profile, drift from its tables.

    Args:
        connection: holds the views `events` and `items` of this run.
        accepted: the validated tables of that run.
        settings: the tolerances.

    Raises:
        UserError: `accepted` holds no such run.
    """
    if not (accepted / PROFILE).is_file():
        raise UserError(
            f"gates.baseline: {accepted} holds no {PROFILE}; "
            "name the validated tables of an accepted run"
        )
    accepted_figures = read_json(accepted / PROFILE)
    for name in ("events", "items"):
        view_file(connection, f"old_{name}", accepted / f"{name}.parquet")
    gates = [_size_gate(table, accepted_figures[table], settings) for table in _SIZES]
    gates.append(_catalogue_gate(settings))
    gates.append(
        _drift_gate("popularity", "the items' shares of the events", _POPULARITY, settings)
    )
    gates.append(_drift_gate("length", "events a user", _LENGTH, settings))
    gates.append(_drift_gate("text", "characters of an item's text", _TEXT, settings))
    return gates


def _size_gate(table: str, accepted_size: int, settings: GateSettings) -> Gate:
    """Bound the size of a table by that of the accepted run."""
    least = accepted_size * (1 - settings.size_tolerance)
    most = accepted_size * (1 + settings.size_tolerance)
    return Gate(
        name=f"{table}-size",
        table="drift",
        rule=(
            f"between {least:,.0f} and {most:,.0f} {table}, "
            f"as the accepted run had {accepted_size:,}"
        ),
        figure_sql=_SIZES[table],
        least=least,
        most=most,
    )


def _catalogue_gate(settings: GateSettings) -> Gate:
    """Bound the share of the accepted items that are still in the catalogue."""
    lost = "SELECT item_id FROM old_items ANTI JOIN items USING (item_id)"
    return Gate(
        name="catalogue-drift",
        table="drift",
        rule=f"at least {settings.min_catalogue_kept:.0%} of the accepted catalogue is still there",
        rows_sql=lost,
        figure_sql=(
            f"SELECT 1 - count(*) / (SELECT greatest(count(*), 1) FROM old_items) FROM ({lost})"
        ),
        least=settings.min_catalogue_kept,
        most=None,
    )


def _drift_gate(name: str, subject: str, bins: str, settings: GateSettings) -> Gate:
    """Bound the stability index of a distribution.

    Args:
        name: what drifts, in one word.
        subject: what drifts, in words.
        bins: relation of `bin` and `n`, with a `{prefix}` of the tables.
        settings: the bound.
    """
    return Gate(
        name=f"{name}-drift",
        table="drift",
        rule=f"stability index of {subject} is at most {settings.max_drift:g}",
        figure_sql=_stability_index(bins),
        most=settings.max_drift,
    )


def _stability_index(bins: str) -> str:
    """Return SQL for the population stability index between the old tables and this run's.

    Args:
        bins: relation of `bin` and `n`, with a `{prefix}` of the tables.
    """
    share = "SELECT bin, sum(n) / sum(sum(n)) OVER () AS share FROM ({}) GROUP BY bin"
    old = share.format(bins.format(prefix="old_"))
    new = share.format(bins.format(prefix=""))
    return (
        "SELECT sum((q - p) * ln(q / p)) FROM ("
        f"SELECT greatest(coalesce(a.share, 0), {LEAST_SHARE}) AS p, "
        f"greatest(coalesce(b.share, 0), {LEAST_SHARE}) AS q "
        f"FROM ({old}) a FULL JOIN ({new}) b USING (bin))"
    )


def shift_since(folder: Path, until: str, memory_gb: float) -> dict[str, float]:
    """Return the stability index of the events after a moment against those up to it.

    Args:
        folder: tables.
        until: the moment, in ISO form.
        memory_gb: memory that the engine may take before it spills to disk.

    Returns:
        Nothing where one side is empty, else:
        `popularity`: of the shares of the items, in ten classes by their rank up to the moment;
        later items are left out.
        `pauses`: of the time from a user's event to the next, in doublings of an hour.
    """
    file = literal(str(folder / "events.parquet"))
    with engine(memory_gb) as connection:
        connection.execute(
            "CREATE TABLE all_events AS SELECT *, "
            f"timestamp > TIMESTAMPTZ {literal(until)} AS late, "
            "epoch_us(timestamp) - lag(epoch_us(timestamp)) OVER "
            "(PARTITION BY user_id ORDER BY timestamp) AS pause "
            f"FROM read_parquet({file});"
            "CREATE VIEW old_events AS SELECT * FROM all_events WHERE NOT late;"
            "CREATE VIEW events AS SELECT * FROM all_events WHERE late "
            "AND item_id IN (SELECT item_id FROM old_events)"
        )
        for name in ("old_events", "events"):
            if not first_value(connection, f"SELECT count(*) FROM {name}"):
                return {}
        indices = {}
        for name, bins in (("popularity", _POPULARITY), ("pauses", _PAUSES)):
            index = first_value(connection, _stability_index(bins))
            indices[name] = float(index or 0.0)
        return indices
