import numpy as np
import pandas as pd
import pytest
from conftest import plain_examples

from eager_llm.core.errors import UserError
from eager_llm.data.prepare import prepare
from eager_llm.data.splits import assign_splits
from eager_llm.data.tables import Tables
from eager_llm.encoders.behaviour import behaviour_embedding
from eager_llm.evaluation.evaluate import training_histories
from eager_llm.settings import DataSettings, Settings


def log(rows):
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    return events.assign(
        timestamp=pd.to_datetime(events["timestamp"], unit="s", utc=True).dt.as_unit("us")
    )


def with_items(events):
    items = pd.DataFrame({"item_id": sorted(events["item_id"].unique())})
    return Tables(events, items.assign(title="", description="", brand="", categories=""))


def test_k_core_is_iterated_to_the_end():
    # i3 falls for want of users; then u3 falls for want of events.
    rows = [
        (u, i, n)
        for n, (u, i) in enumerate(
            [("u1", "i1"), ("u1", "i2"), ("u2", "i1"), ("u2", "i2"), ("u3", "i1"), ("u3", "i3")]
        )
    ]
    assert set(prepare(with_items(log(rows)), 2).events["user_id"]) == {"u1", "u2"}


def test_preparing_twice_changes_nothing(shop):
    again = prepare(shop, 3)
    pd.testing.assert_frame_equal(again.events, shop.events)
    pd.testing.assert_frame_equal(again.items, shop.items)


def test_simultaneous_events_are_ordered_whatever_the_file_order():
    events = log([("u", f"i{n}", 5) for n in range(6)])
    first, second = prepare(with_items(events), 1), prepare(with_items(events.iloc[::-1]), 1)
    assert first.metadata["simultaneous_events"] == 5
    assert first.events["timestamp"].is_unique
    assert first.events["item_id"].tolist() != sorted(first.events["item_id"])
    pd.testing.assert_frame_equal(first.events, second.events)


def test_an_order_that_is_spelt_out_never_runs_into_the_next_moment():
    """Three at one moment and one a microsecond later: four times that rise."""
    start = pd.Timestamp("2024-01-01", tz="UTC")
    moments = [start, start, start, start + pd.Timedelta(microseconds=1)]
    events = pd.DataFrame(
        {"user_id": "u", "item_id": list("abcd"), "timestamp": pd.Series(moments).dt.as_unit("us")}
    )
    found = prepare(with_items(events), 1).events
    assert found["timestamp"].diff().dropna().gt(pd.Timedelta(0)).all()
    assert found["item_id"].iat[-1] == "d"


def test_leave_one_out_parts(shop, settings):
    parted = assign_splits(shop, settings.data)
    for _, rows in parted.groupby("user_id"):
        assert rows["split"].tolist()[-2:] == ["validation", "test"]
        assert set(rows["split"].tolist()[:-2]) == {"train"}


def test_the_temporal_split_has_one_cut_for_all(shop):
    parted = assign_splits(shop, DataSettings(split="temporal"))
    moments = parted.groupby("split")["timestamp"]
    assert moments.max()["train"] < moments.min()["validation"]
    assert moments.max()["validation"] < moments.min()["test"]


def test_the_temporal_split_needs_a_clock(shop):
    ordinal = Tables(shop.events, shop.items, None, {"ordinal_time": True, "source": "x.json"})
    with pytest.raises(UserError, match=r"x\.json has an order but no timestamps"):
        assign_splits(ordinal, DataSettings(split="temporal"))


def test_trajectories_cover_the_training_part_once(shop):
    settings = Settings.read(None, ["data.max_history=3"])
    found = training_histories(plain_examples(shop, settings))
    parted = assign_splits(shop, settings.data)
    expected = [
        rows["item_id"].tolist()
        for _, rows in parted[parted["split"] == "train"].groupby("user_id")
    ]
    assert found == expected


def test_nothing_trained_on_changes_with_the_future(shop, settings):
    """Replace every validation and test item: training examples and embeddings stay the same."""
    parted = assign_splits(shop, settings.data)
    future = parted["split"] != "train"
    other = shop.events.copy()
    other.loc[future, "item_id"] = np.random.default_rng(0).permutation(
        other.loc[future, "item_id"].to_numpy()
    )
    before = plain_examples(shop, settings)
    after = plain_examples(Tables(other, shop.items, None, shop.metadata), settings)
    for column in ("user_id", "item_id", "history"):
        assert (
            before[before["split"] == "train"][column].tolist()
            == after[after["split"] == "train"][column].tolist()
        )
    rows = {item: n for n, item in enumerate(shop.items["item_id"])}
    tables = [
        behaviour_embedding(
            [[rows[i] for i in h] for h in training_histories(e)], len(rows), settings.behaviour, 0
        )
        for e in (before, after)
    ]
    np.testing.assert_array_equal(*tables)
