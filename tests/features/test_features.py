"""Training reads histories as of a moment, serving reads them online: the two must agree."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, plain_examples

from eager_llm.catalogue.features import JUST_BEFORE, Features
from eager_llm.catalogue.splits import assign_parts, targets
from eager_llm.catalogue.tables import Tables
from eager_llm.errors import UserError

REPOSITORY = ROOT / "feature_repo"


@pytest.fixture(scope="module")
def features(shop, tmp_path_factory):
    store = Features(REPOSITORY, tmp_path_factory.mktemp("features"))
    store.publish(shop, max_history=5)
    return store


def test_offline_and_online_agree_for_every_user_at_the_last_moment(features, shop):
    last = shop.events.groupby("user_id")["timestamp"].max().rename("moment").reset_index()
    # As of just after the last event: what serving would read then.
    offline = features.histories(last.assign(moment=last["moment"] + JUST_BEFORE))
    for user, history in zip(offline["user_id"], offline["history"], strict=True):
        assert features.online_history(user) == history
        assert history


def test_offline_and_online_agree_in_the_middle_of_the_log(shop, tmp_path):
    """A store that was published from the events up to a moment answers as the whole one does for it."""
    moment = shop.events["timestamp"].quantile(0.5)
    past = Tables(shop.events[shop.events["timestamp"] <= moment].reset_index(drop=True), shop.items)
    then = Features(REPOSITORY, tmp_path / "then")
    then.publish(past, 5)
    whole = Features(REPOSITORY, tmp_path / "whole")
    whole.publish(shop, 5)
    users = pd.DataFrame({"user_id": sorted(shop.events["user_id"].unique())})
    offline = whole.histories(users.assign(moment=moment + JUST_BEFORE))
    for user, history in zip(offline["user_id"], offline["history"], strict=True):
        assert (then.online_history(user) or []) == history


def test_point_in_time_histories_equal_the_obvious_loop(shop, settings, tmp_path):
    store = Features(REPOSITORY, tmp_path)
    store.publish(shop, settings.data.max_history)
    asked = targets(assign_parts(shop, settings.data), settings.data.max_history)
    found, expected = store.histories(asked), plain_examples(shop, settings)
    assert found["history"].tolist() == expected["history"].tolist()
    assert found[["user_id", "item_id", "part"]].equals(expected[["user_id", "item_id", "part"]])


def test_a_target_never_stands_in_its_own_history(features, shop):
    moments = shop.events.rename(columns={"timestamp": "moment"})
    found = features.histories(moments)
    times = {(u, t): i for u, i, t in shop.events[["user_id", "item_id", "timestamp"]].itertuples(index=False)}
    assert len(times) == len(shop.events)
    first = ~moments["user_id"].duplicated()
    assert all(history == [] for history in found.loc[first.to_numpy(), "history"])
    lengths = moments.groupby("user_id").cumcount().clip(upper=5).tolist()
    assert found["history"].map(len).tolist() == lengths


def test_users_and_items_nobody_has_seen(features):
    assert features.online_history("nobody") is None
    never = pd.DataFrame({"user_id": ["nobody"], "moment": [pd.Timestamp("2030-01-01", tz="UTC")]})
    assert features.histories(never)["history"].tolist() == [[]]


def test_the_item_index_is_a_feature(features, shop):
    item = shop.items["item_id"].iat[0]
    features.publish_index([item], [["<a_1>", "<b_2>"]])
    row = features.online_item(item)
    assert row["tokens"] == ["<a_1>", "<b_2>"]
    assert row["title"] == shop.items["title"].iat[0]


def test_a_folder_without_definitions_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no feature_store\.yaml there"):
        Features(Path(tmp_path), tmp_path)
