"""Which events are trained on, validated on and tested on.

A target is an item that a user chose at a moment. What the model may see for it is the user's
history before that moment, which the feature store returns point-in-time; nothing here looks at
histories, so nothing here can leak them.
"""

import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.data.tables import Tables
from eager_llm.settings import DataSettings

SPLITS = ("train", "validation", "test")
# The split of a late event that is no target: its user has no history.
NO_TARGET = "no_target"
# In the tables' metadata: the last moment of the log that the running bundle was made from.
KNOWN_UNTIL = "known_until"
# Users with fewer events are trained on only, where each user's last ones are left out.
LEAST_EVENTS = 3


def assign_splits(tables: Tables, settings: DataSettings) -> pd.DataFrame:
    """Return the events with a column `split`: one of `SPLITS`, or `NO_TARGET`.

    Raises:
        UserError: a temporal or refresh split of a log that has an order but no clock, or a split
            would be empty.
    """
    events = tables.events
    known_until = None
    if settings.split == "refresh":
        known_until = tables.metadata.get(KNOWN_UNTIL)
    if settings.split == "temporal" or known_until:
        if tables.metadata.get("ordinal_time"):
            source = tables.metadata.get("source", "the log")
            raise UserError(
                f"data.split = {settings.split!r}: {source} has an order but no timestamps; "
                "use leave_one_out"
            )
        splits = _temporal(events, settings, known_until)
    else:
        splits = _leave_one_out(events)
    empty = [split for split in SPLITS if not (splits == split).any()]
    if empty:
        raise UserError(
            f"the {settings.split} split leaves no event in: {', '.join(empty)}; bring more events"
        )
    return events.assign(split=splits)


def targets(events: pd.DataFrame, max_history: int) -> pd.DataFrame:
    """Return the targets: `user_id`, `item_id`, `moment`, `split`.

    Every validation and test event is a target. In training one target ends each trajectory: a
    user's last training event, the one `max_history` events before it, and so on, so that
    trajectories of `max_history` + 1 items cover the training split.

    Args:
        events: what `assign_splits` returns.
        max_history: items that a history keeps.
    """
    from_end = events.groupby(["user_id", "split"]).cumcount(ascending=False)
    ends_trajectory = from_end % max_history == 0
    is_target = events["split"].isin(SPLITS) & ((events["split"] != "train") | ends_trajectory)
    result = events.loc[is_target, ["user_id", "item_id", "timestamp", "split"]]
    return result.rename(columns={"timestamp": "moment"}).reset_index(drop=True)


def _leave_one_out(events: pd.DataFrame) -> pd.Series:
    """Return the splits where a user's last event is test and the one before is validation."""
    by_user = events.groupby("user_id")
    from_end = by_user.cumcount(ascending=False)
    has_enough = by_user["item_id"].transform("size") >= LEAST_EVENTS
    splits = pd.Series("train", index=events.index)
    splits[has_enough & (from_end == 0)] = "test"
    splits[has_enough & (from_end == 1)] = "validation"
    return splits


def _temporal(
    events: pd.DataFrame, settings: DataSettings, known_until: str | None = None
) -> pd.Series:
    """Return the splits by cuts in time for everyone: nothing trained on is later than the cut.

    Args:
        events: the log.
        settings: the shares of validation and test.
        known_until: the cuts go through the events after this moment, in ISO form; None: through
            all.

    Raises:
        UserError: no event is later.
    """
    moments = events["timestamp"]
    increment = moments
    if known_until is not None:
        increment = moments[moments > pd.Timestamp(known_until)]
    if increment.empty:
        raise UserError(
            f"no event is later than {pd.Timestamp(known_until)}, "
            "the end of the log that the running bundle was made from"
        )
    test_share = settings.test_share
    test_from = increment.quantile(1 - test_share, interpolation="higher")
    validation_from = increment.quantile(
        1 - test_share - settings.validation_share, interpolation="higher"
    )
    splits = pd.Series("train", index=events.index)
    splits[moments >= validation_from] = "validation"
    splits[moments >= test_from] = "test"
    if known_until is not None:
        # A new user's first event has no history to be predicted from.
        splits[_first_events(events) & (splits != "train")] = NO_TARGET
    return splits


def _first_events(events: pd.DataFrame) -> pd.Series:
    """Return for each event whether it is its user's first, bool [events]."""
    by_time = events.sort_values("timestamp", kind="stable")
    repeated = by_time.duplicated("user_id").reindex(events.index)
    return ~repeated
