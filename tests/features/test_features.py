"""Training reads histories as of a moment, serving reads them online: the two must agree."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, plain_examples

from eager_llm.core.errors import UserError
from eager_llm.data.splits import assign_splits, targets
from eager_llm.data.tables import Tables
from eager_llm.features.feature_store import JUST_BEFORE, Features
from eager_llm.features.online_history import microseconds_of

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
    past = Tables(
        shop.events[shop.events["timestamp"] <= moment].reset_index(drop=True), shop.items
    )
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
    asked = targets(assign_splits(shop, settings.data), settings.data.max_history)
    found, expected = store.histories(asked), plain_examples(shop, settings)
    assert found["history"].tolist() == expected["history"].tolist()
    assert found[["user_id", "item_id", "split"]].equals(expected[["user_id", "item_id", "split"]])


def test_a_target_never_stands_in_its_own_history(features, shop):
    moments = shop.events.rename(columns={"timestamp": "moment"})
    found = features.histories(moments)
    times = {
        (u, t): i
        for u, i, t in shop.events[["user_id", "item_id", "timestamp"]].itertuples(index=False)
    }
    assert len(times) == len(shop.events)
    first = ~moments["user_id"].duplicated()
    assert all(history == [] for history in found.loc[first.to_numpy(), "history"])
    lengths = moments.groupby("user_id").cumcount().clip(upper=5).tolist()
    assert found["history"].map(len).tolist() == lengths


def test_users_and_items_nobody_has_seen(features):
    assert features.online_history("nobody") is None
    never = pd.DataFrame({"user_id": ["nobody"], "moment": [pd.Timestamp("2030-01-01", tz="UTC")]})
    assert features.histories(never)["history"].tolist() == [[]]


def test_on_demand_features_agree_offline_and_online_with_the_obvious(features, shop):
    asked_at = shop.events["timestamp"].max() + pd.Timedelta(days=2)
    users = [*sorted(shop.events["user_id"].unique()), "nobody"]
    rows = pd.DataFrame(
        {"user_id": users, "event_timestamp": asked_at, "asked_at": microseconds_of(asked_at)}
    )
    names = ["history_length", "recency_days", "repeat_share"]
    wanted = [f"user_request:{name}" for name in names]
    offline = (
        features.store.get_historical_features(rows, features=wanted).to_df().set_index("user_id")
    )
    assert set(offline.index) == set(users)
    logs = dict(iter(shop.events.groupby("user_id")))
    for user in users:
        online = features.request_features(user, asked_at)
        if user == "nobody":
            assert online == {"history_length": 0, "recency_days": None, "repeat_share": 0.0}
            assert offline.loc[user, "history_length"] == 0
            continue
        items = logs[user]["item_id"].tolist()[-5:]
        days = (asked_at - logs[user]["timestamp"].max()) / pd.Timedelta(days=1)
        assert online["history_length"] == offline.loc[user, "history_length"] == len(items)
        assert online["recency_days"] == offline.loc[user, "recency_days"] == pytest.approx(days)
        assert (
            online["repeat_share"]
            == offline.loc[user, "repeat_share"]
            == 1 - len(set(items)) / len(items)
        )


def test_every_model_version_has_a_feature_service_and_the_tokens_of_its_time(features, shop):
    item = shop.items["item_id"].iat[0]
    before = [service["name"] for service in features.services()]
    assert features.publish_index([item], [["<a_1>", "<b_2>"]], "v1-abc") == "recommender_v1-abc"
    features.publish_index([item], [["<a_1>", "<b_2>"]], "v1-abc")
    features.publish_index([item], [["<a_7>", "<b_8>"]], "v2-def")
    row = features.online_item(item)
    assert (row["tokens"], row["index_version"]) == (["<a_7>", "<b_8>"], "v2-def")
    assert row["title"] == shop.items["title"].iat[0]
    # Published again from the log, what was made of the versions stays.
    features.publish(shop, max_history=5)
    found = [service for service in features.services() if service["name"] not in before]
    assert [service["name"] for service in found] == ["recommender_v1-abc", "recommender_v2-def"]
    service = features.store.get_feature_service("recommender_v1-abc")
    user, first = shop.events["user_id"].iat[0], pd.Timestamp(found[0]["published"])
    asked = {"user_id": user, "item_id": item, "asked_at": microseconds_of(first)}
    then = features.store.get_historical_features(
        pd.DataFrame([{**asked, "event_timestamp": first}]), service
    ).to_df()
    assert list(then["tokens"][0]) == ["<a_1>", "<b_2>"]
    assert then["history_length"][0] == 5
    now = features.store.get_online_features(service, [asked]).to_dict()
    assert now["items"][0] == features.online_history(user) == list(then["items"][0])


def test_what_has_outlived_its_view_is_gone_offline_and_online(features, shop):
    last = shop.events["timestamp"].max()
    items = sorted(shop.events["item_id"].unique())[::8]
    for moment in (last, last + pd.Timedelta(days=45), last + pd.Timedelta(days=91)):
        asked = pd.DataFrame({"item_id": items, "event_timestamp": moment})
        offline = features.store.get_historical_features(
            asked, features=["item_activity:events"]
        ).to_df()
        offline = offline.set_index("item_id")["events"]
        online = {item: features.online_item(item, moment)["events"] for item in items}
        assert {
            item: None if pd.isna(offline[item]) else int(offline[item]) for item in items
        } == online
    assert set(online.values()) == {None}
    assert features.online_item(items[0])["title"]


def test_an_older_publication_gets_the_features_it_lacks(shop, tmp_path):
    """A folder from before a view had a feature is brought up by publishing again."""
    features = Features(REPOSITORY, tmp_path)
    features.publish(shop, 5)
    file = tmp_path / "user_history.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["moments"]), file)
    assert features.publish(shop, 5)["user_history"] == len(shop.events)
    assert "moments" in pq.read_schema(file).names


def test_a_folder_without_definitions_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no feature_store\.yaml there"):
        Features(Path(tmp_path), tmp_path)
