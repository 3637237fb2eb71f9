"""The splits of a refresh: what is tested on is later than all trained on, and than all known."""

import pandas as pd
import pytest
from conftest import plain_examples
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eager_llm.core.errors import UserError
from eager_llm.data.splits import KNOWN_UNTIL, NO_TARGET, assign_splits
from eager_llm.data.tables import Tables
from eager_llm.settings import DataSettings, Settings
from eager_llm.steps.update_model import fresh_examples

REFRESH = DataSettings(split="refresh", validation_share=0.2, test_share=0.3)
START = pd.Timestamp("2026-01-01", tz="UTC")


def log(moments, users, known, **metadata):
    """One event a minute-number, in the order that tables have: by user, then time."""
    events = pd.DataFrame(
        {
            "user_id": users,
            "item_id": "i",
            "timestamp": [START + pd.Timedelta(minutes=m) for m in moments],
        }
    )
    events = (
        events.sort_values(["user_id", "timestamp"])
        .drop_duplicates(["user_id", "timestamp"])
        .reset_index(drop=True)
    )
    metadata = {**metadata, KNOWN_UNTIL: (START + pd.Timedelta(minutes=known)).isoformat()}
    return Tables(events, pd.DataFrame({"item_id": ["i"]}), None, metadata)


def test_the_cut_goes_through_what_is_new():
    parted = assign_splits(log(range(20), ["a", "b"] * 10, known=9), REFRESH)
    minutes = ((parted["timestamp"] - START).dt.total_seconds() / 60).astype(int)
    by_split = minutes.groupby(parted["split"]).agg(["min", "max"])
    # Of the ten new events 10 to 19 the last three are test, the two before validation.
    assert by_split.loc["test"].tolist() == [17, 19]
    assert by_split.loc["validation"].tolist() == [15, 16]
    assert by_split.loc["train"].tolist() == [0, 14]


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from("abcdef")), min_size=30, max_size=120),
    st.integers(0, 150),
)
def test_nothing_trained_on_is_later_than_what_is_tested_on(events, known):
    try:
        parted = assign_splits(log(*zip(*events, strict=True), known=known), REFRESH)
    except UserError:
        return  # too little is new to make three splits
    moments = {split: group["timestamp"] for split, group in parted.groupby("split")}
    assert moments["train"].max() < moments["validation"].min()
    assert moments["validation"].max() < moments["test"].min()
    assert moments["validation"].min() > START + pd.Timedelta(minutes=known)
    first = parted.loc[parted.groupby("user_id")["timestamp"].idxmin()]
    assert not first["split"].isin(["validation", "test"]).any()


def test_who_is_new_in_the_test_split_is_not_asked_for_what_came_first(shop, settings):
    late = settings.replace(data=REFRESH)
    newest = shop.events["timestamp"].max()
    more = pd.DataFrame({
        "user_id": ["new"] * 3 + ["old"] * 40,
        "item_id": shop.items["item_id"].iloc[:43].tolist(),
        "timestamp": [newest + pd.Timedelta(hours=h) for h in [100, 101, 102, *range(1, 41)]],
    })  # fmt: skip
    events = pd.concat([shop.events[["user_id", "item_id", "timestamp"]], more])
    events = events.sort_values(["user_id", "timestamp"]).reset_index(drop=True)
    tables = Tables(events, shop.items, None, {KNOWN_UNTIL: newest.isoformat()})
    parted = assign_splits(tables, REFRESH)
    assert (parted["split"] == NO_TARGET).sum() == 1
    examples = plain_examples(tables, late)
    assert set(examples["split"]) == {"train", "validation", "test"}
    assert examples.loc[examples["user_id"] == "new", "history"].map(len).tolist() == [1, 2]
    # What the adapter is annealed on is later than what it knows, earlier than what it is judged on.
    fresh = fresh_examples(examples, newest, 0.0, 0)
    assert fresh["moment"].min() > newest
    assert fresh["moment"].max() < examples.loc[examples["split"] != "train", "moment"].min()
    both = fresh_examples(examples, newest, 2.0, 0)
    assert len(both) == 3 * len(fresh)
    with pytest.raises(UserError, match="no training event is later than"):
        fresh_examples(examples, examples["moment"].max(), 1.0, 0)


def test_without_a_clock_or_without_anything_new_there_is_no_refresh():
    with pytest.raises(UserError, match="has an order but no timestamps"):
        assign_splits(log(range(20), ["a", "b"] * 10, known=9, ordinal_time=True), REFRESH)
    with pytest.raises(UserError, match="no event is later than"):
        assign_splits(log(range(20), ["a", "b"] * 10, known=30), REFRESH)


def test_the_first_refresh_leaves_one_out():
    tables = log(range(20), ["a", "b"] * 10, known=0)
    first = assign_splits(Tables(tables.events, tables.items, None, {}), REFRESH)
    plain = assign_splits(Tables(tables.events, tables.items, None, {}), Settings().data)
    assert first["split"].tolist() == plain["split"].tolist()
