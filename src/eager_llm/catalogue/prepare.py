"""From imported tables to a clean log: duplicates out, time in order, k-core."""

import hashlib
from typing import Any

import pandas as pd

from eager_llm.catalogue.tables import Tables


def prepare(tables: Tables, min_interactions: int) -> Tables:
    """Remove duplicates, order the log, and keep its k-core.

    Events of items that the catalogue lacks are carried along untouched, whatever their number,
    so that the validation gate sees and names them.
    """
    events = tables.events.drop_duplicates(["user_id", "item_id", "timestamp"])
    items = tables.items.drop_duplicates()
    ordered, simultaneous = chronological(events)
    known = ordered["item_id"].isin(items["item_id"])
    core = k_core(ordered[known], min_interactions)
    kept = pd.concat([core, ordered[~known]])
    kept, _ = chronological(kept)
    facts: dict[str, Any] = {
        **tables.facts,
        "events_read": len(tables.events),
        "duplicate_events_dropped": len(tables.events) - len(events),
        "simultaneous_events": simultaneous,
        "events_outside_core_dropped": len(events) - len(kept),
        "users_outside_core_dropped": events["user_id"].nunique() - kept["user_id"].nunique(),
        "min_interactions": min_interactions,
        "events": len(kept),
        "users": int(kept["user_id"].nunique()),
        "items": int(core["item_id"].nunique()),
        "items_without_events_dropped": int(len(items) - items["item_id"].isin(core["item_id"]).sum()),
    }
    items = items[items["item_id"].isin(core["item_id"])]
    return Tables(kept, items.reset_index(drop=True), _of_log(tables.intentions, kept), facts)


def chronological(events: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Sort by user and time so that time strictly rises within a user.

    Simultaneous events of a user have no order; file order could leak (exports are often sorted by
    item), so theirs is drawn by a hash and spelt out in microseconds. Returns the sorted events and
    how many were simultaneous.
    """
    drawn = [
        hashlib.blake2b(f"{user}\0{item}".encode(), digest_size=8).digest()
        for user, item in zip(events["user_id"], events["item_id"], strict=True)
    ]
    ordered = events.assign(_drawn=drawn).sort_values(["user_id", "timestamp", "_drawn"]).drop(columns="_drawn")
    rank = ordered.groupby(["user_id", "timestamp"]).cumcount()
    ordered["timestamp"] = ordered["timestamp"] + pd.to_timedelta(rank, unit="us")
    return ordered.reset_index(drop=True), int((rank > 0).sum())


def k_core(events: pd.DataFrame, k: int) -> pd.DataFrame:
    """Drop users and items with fewer than `k` events until every one left has `k` or more."""
    while True:
        enough = (events.groupby("user_id")["item_id"].transform("size") >= k) & (
            events.groupby("item_id")["user_id"].transform("size") >= k
        )
        if enough.all():
            return events
        events = events[enough]


def _of_log(intentions: pd.DataFrame | None, events: pd.DataFrame) -> pd.DataFrame | None:
    """Keep the intentions that belong to an event of the log."""
    if intentions is None:
        return None
    pairs = events[["user_id", "item_id"]].drop_duplicates()
    kept = intentions.merge(pairs, on=["user_id", "item_id"]).drop_duplicates()
    return kept if len(kept) else None
