"""Who is asked what, when: the moments that are trained on, validated on and tested on.

A target is an item that a user chose at a moment. What the model may see for it is the user's
history before that moment, which the feature store returns point-in-time; nothing here looks at
histories, so nothing here can leak them.
"""

import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.data.tables import Tables
from eager_llm.settings import DataSettings

SPLITS = ("train", "validation", "test")
# In the tables' metadata: the last moment of the log that the running bundle was made from.
KNOWN_UNTIL = "known_until"
UNASKED = "unasked"


def assign_splits(tables: Tables, settings: DataSettings) -> pd.DataFrame:
    """Return the events with a column `part`, one of `SPLITS`, or `UNASKED`.

    Raises:
        UserError: a temporal or refresh split is asked of a log that has an order but no clock, or a
            part would be empty.
    """
    events, known = tables.events, tables.metadata.get(KNOWN_UNTIL)
    if settings.split == "temporal" or (settings.split == "refresh" and known):
        if tables.metadata.get("ordinal_time"):
            raise UserError(
                f"data.split = {settings.split!r}: {tables.metadata.get('source', 'the log')} has an order but no "
                "timestamps; use leave_one_out"
            )
        parts = _temporal(
            events, settings, pd.Timestamp(known) if settings.split == "refresh" else None
        )
    else:
        parts = _leave_one_out(events)
    empty = [part for part in SPLITS if not (parts == part).any()]
    if empty:
        raise UserError(
            f"the {settings.split} split leaves no event in: {', '.join(empty)}; bring more events"
        )
    return events.assign(split=parts)


def _leave_one_out(events: pd.DataFrame) -> pd.Series:
    """Last event test, the one before validation; users with fewer than three events train only."""
    from_end = events.groupby("user_id").cumcount(ascending=False)
    enough = events.groupby("user_id")["item_id"].transform("size") >= 3
    parts = pd.Series("train", index=events.index)
    parts[enough & (from_end == 0)] = "test"
    parts[enough & (from_end == 1)] = "validation"
    return parts


def _temporal(
    events: pd.DataFrame, settings: DataSettings, known_until: pd.Timestamp | None = None
) -> pd.Series:
    """One cut in time for everyone: nothing that is trained on is later than the cut.

    Args:
        known_until: the cut goes through the events after this moment; None: through all.
    """
    moments = events["timestamp"]
    fresh = moments if known_until is None else moments[moments > known_until]
    if fresh.empty:
        raise UserError(
            f"no event is later than {known_until}, the end of the log that the running bundle was made from"
        )
    test_from = fresh.quantile(1 - settings.test_share, interpolation="higher")
    validation_from = fresh.quantile(
        1 - settings.test_share - settings.validation_share, interpolation="higher"
    )
    parts = pd.Series("train", index=events.index)
    parts[moments >= validation_from] = "validation"
    parts[moments >= test_from] = "test"
    if known_until is not None:  # of whom nothing is known nothing can be asked
        first = ~events.sort_values("timestamp", kind="stable").duplicated("user_id").reindex(
            events.index
        )
        parts[first & (parts != "train")] = UNASKED
    return parts


def targets(parted: pd.DataFrame, max_history: int) -> pd.DataFrame:
    """Return the targets: `user_id`, `item_id`, `moment`, `part`.

    Every validation and test event is a target. In training one target ends each trajectory: a
    user's last training event, the one `max_history` events before it, and so on, so that
    trajectories of `max_history` + 1 items cover the training part.
    """
    from_end = parted.groupby(["user_id", "split"]).cumcount(ascending=False)
    chosen = parted["split"].isin(SPLITS) & (
        (parted["split"] != "train") | (from_end % max_history == 0)
    )
    result = parted.loc[chosen, ["user_id", "item_id", "timestamp", "split"]]
    return result.rename(columns={"timestamp": "moment"}).reset_index(drop=True)
