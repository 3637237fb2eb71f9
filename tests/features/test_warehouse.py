"""The same definitions on PostgreSQL as on DuckDB: the same histories, increments, pushes and erasure."""

import importlib.util
import json
import tempfile
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
from conftest import ROOT, plain_examples
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st
from postgres import PASSWORD, USER, postgres, program
from test_online_stores import DATA, REPOSITORY, latest, redis_url, typed  # noqa: F401, redis_url is a fixture
from typer.testing import CliRunner

from eager_llm.cli.main import app
from eager_llm.core.errors import UserError
from eager_llm.data.importing.importer import import_path
from eager_llm.data.prepare import prepare
from eager_llm.data.splits import assign_splits, targets
from eager_llm.data.tables import Tables
from eager_llm.features.feast_repository import ONLINE_VARIABLE, REGISTRY_VARIABLE
from eager_llm.features.feature_store import JUST_BEFORE, Features
from eager_llm.features.online_history import microseconds_of
from eager_llm.features.postgres_store import OFFLINE_VARIABLE, Warehouse
from eager_llm.release.erasure import erase


@pytest.fixture(scope="module")
def server():
    if (
        program("postgres") is None
        or program("initdb") is None
        or importlib.util.find_spec("psycopg") is None
    ):
        pytest.skip("no PostgreSQL server, or no psycopg: the warehouse is not tested here")
    with postgres() as port:
        yield f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"


@pytest.fixture
def warehouse(server, request, monkeypatch):
    """An empty schema of the server, as the setting names it."""
    schema = f"t{abs(hash(request.node.name))}"
    url = f"{server}?schema={schema}&sslmode=disable"
    monkeypatch.setenv(OFFLINE_VARIABLE, url)
    return url


def both(tables, tmp_path, monkeypatch, longest=5):
    """The same tables published to the warehouse and to Parquet."""
    there = Features(REPOSITORY, tmp_path / "there")
    there.publish(tables, longest)
    monkeypatch.delenv(OFFLINE_VARIABLE)
    here = Features(REPOSITORY, tmp_path / "here")
    here.publish(tables, longest)
    return there, here


def test_every_history_of_every_user_is_the_same_as_on_duckdb_and_online(
    warehouse, shop, settings, tmp_path, monkeypatch
):
    there, here = both(shop, tmp_path, monkeypatch, settings.data.max_history)
    assert not list((tmp_path / "there").glob("*.parquet"))
    asked = targets(assign_splits(shop, settings.data), settings.data.max_history)
    found, expected = there.histories(asked), plain_examples(shop, settings)
    assert found.equals(here.histories(asked))
    assert found["history"].tolist() == expected["history"].tolist()
    at_each = shop.events.rename(columns={"timestamp": "moment"})
    assert (
        there.histories(at_each)["history"].tolist() == here.histories(at_each)["history"].tolist()
    )
    now = latest(there, shop)
    assert len(now) == shop.events["user_id"].nunique()
    for user, history in zip(now["user_id"], now["history"], strict=True):
        assert there.online_history(user) == here.online_history(user) == history != []
    assert there.some_users(3) == here.some_users(3) == sorted(now["user_id"])[:3]


def test_every_user_of_scientific_agrees(warehouse, tmp_path):
    if not (DATA / "scientific").is_dir():
        pytest.skip(
            f"no real data: {DATA / 'scientific'} is missing; name its parent by EAGER_LLM_DATA"
        )
    tables = prepare(import_path(DATA / "scientific"), 5)
    features = Features(REPOSITORY, tmp_path)
    features.publish(tables, 20)
    offline = latest(features, tables)
    obvious = tables.events.groupby("user_id")["item_id"].agg(list)
    assert len(offline) == tables.events["user_id"].nunique() == len(obvious)
    for user, history in zip(offline["user_id"], offline["history"], strict=True):
        assert features.online_history(user) == history == obvious[user][-20:]


@trials(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.sampled_from(["u", "ü 1", 'q"{},\\']), st.sampled_from(["a", "b'", "c,}", "d\\"]), st.integers(1, 4)),
        min_size=1, max_size=30,
    ),
    st.integers(1, 3),
)  # fmt: skip
def test_histories_equal_the_obvious_reconstruction(warehouse, rows, longest):
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    events["timestamp"] = pd.to_datetime(events["timestamp"], unit="s", utc=True).dt.as_unit("us")
    items = pd.DataFrame({"item_id": sorted(events["item_id"].unique())})
    clean = prepare(
        Tables(events, items.assign(title="", description="", brand="", categories="")), 1
    )
    with tempfile.TemporaryDirectory() as folder:
        features = Features(ROOT / "feature_repo", Path(folder))
        features.publish(clean, longest)
        moments = (
            clean.events[["timestamp"]].drop_duplicates().rename(columns={"timestamp": "moment"})
        )
        asked = clean.events[["user_id"]].drop_duplicates().merge(moments, how="cross")
        # Twice each: an answer a row, whatever is asked.
        found = features.histories(pd.concat([asked, asked], ignore_index=True))
    for user, moment, history in found[["user_id", "moment", "history"]].itertuples(index=False):
        past = clean.events[
            (clean.events["user_id"] == user) & (clean.events["timestamp"] < moment)
        ]
        assert history == past["item_id"].tolist()[-longest:]


def test_times_to_live_lists_and_services_are_the_same(warehouse, shop, tmp_path, monkeypatch):
    there, here = both(typed(shop), tmp_path, monkeypatch)
    last = shop.events["timestamp"].max()
    items, users = (
        sorted(shop.events["item_id"].unique())[::8],
        sorted(shop.events["user_id"].unique())[::9],
    )
    for days in (0, 45, 91, 400):
        asked = pd.DataFrame({"item_id": items, "event_timestamp": last + pd.Timedelta(days=days)})
        wanted = ["item_activity:events", "item_activity:events_30_days", "item_catalogue:title"]
        who = pd.DataFrame({"user_id": users, "event_timestamp": last + pd.Timedelta(days=days)})
        theirs = [
            "user_activity:events",
            "user_activity:distinct_items",
            "user_activity:pause_days",
        ]
        typed_ones = [f"user_type_history:{name}" for name in ("items", "moments")]
        for rows, names in (
            (asked, wanted),
            (who, theirs),
            (who.assign(event_type="buy"), typed_ones),
        ):
            answers = [
                store.store.get_historical_features(rows, features=names).to_df()
                for store in (there, here)
            ]
            keys = [column for column in rows if column != "event_timestamp"]
            plain = [
                table.sort_values(keys)[[*keys, *(n.split(":")[1] for n in names)]].to_json()
                for table in answers
            ]
            kept = [json.loads(text) for text in plain]
            assert [list(column.values()) for column in kept[0].values()] == [
                list(column.values()) for column in kept[1].values()
            ]
            assert len(answers[0]) == len(rows)
    for store in (there, here):
        store.publish_index([items[0]], [["<a_1>", "<b_2>"]], "v1")
        first = pd.Timestamp(store.services()[-1]["published"])
        store.publish_index([items[0]], [["<a_7>", "<b_8>"]], "v2")
        assert store.online_item(items[0])["tokens"] == ["<a_7>", "<b_8>"]
        asked = {
            "user_id": users[0],
            "item_id": items[0],
            "asked_at": microseconds_of(first),
            "event_timestamp": first,
        }
        service = store.store.get_feature_service("recommender_v1")
        then = store.store.get_historical_features(pd.DataFrame([asked]), service).to_df()
        assert list(then["tokens"][0]) == ["<a_1>", "<b_2>"]
        assert then["history_length"][0] == 5


def test_keys_that_read_the_same_in_a_row_are_not_mixed_up(warehouse, tmp_path, monkeypatch):
    moment = pd.Timestamp("2025-01-01", tz="UTC").as_unit("us")
    users, kinds = ["u1", "u12"], ["2x", "x"]
    events = pd.DataFrame(
        {"user_id": users, "item_id": ["a", "b"], "timestamp": moment, "event_type": kinds}
    )
    items = pd.DataFrame({"item_id": ["a", "b"]}).assign(
        title="", description="", brand="", categories=""
    )
    asked = pd.DataFrame({"user_id": users, "event_type": kinds, "event_timestamp": moment})
    for store in both(Tables(events, items), tmp_path, monkeypatch):
        found = store.store.get_historical_features(
            asked, features=["user_type_history:items"]
        ).to_df()
        assert {user: list(items) for user, items in zip(found["user_id"], found["items"], strict=True)} == {
            "u1": ["a"], "u12": ["b"],
        }  # fmt: skip
        assert len(found) == 2


def test_a_log_that_grows_writes_and_brings_online_only_what_is_new(warehouse, shop, tmp_path):
    whole = typed(shop)
    users = sorted(whole.events["user_id"].unique())
    late = whole.events["user_id"].isin(users[:20]) & whole.events["user_id"].duplicated(
        keep="last"
    )
    features = Features(REPOSITORY, tmp_path / "first")
    features.publish(
        Tables(whole.events[~late].reset_index(drop=True), whole.items, None, whole.metadata), 5
    )
    changed = features.publish(whole, 5)
    assert 0 < changed["user_history"] <= whole.events["user_id"].isin(users[:20]).sum()
    assert features.publish(whole, 5) == {}
    for user, history in latest(features, whole)[["user_id", "history"]].itertuples(index=False):
        assert features.online_history(user) == history
    # From an older folder, and with fewer events than before: the table is as published, nothing of before is left.
    fewer = Tables(whole.events[~late].reset_index(drop=True), whole.items, None, whole.metadata)
    features.publish(fewer, 5)
    assert len(features.tables.read("user_history")) == len(fewer.events)
    pushed = features.push(
        users[0], "new", shop.events["timestamp"].max() + pd.Timedelta(days=1), 5, "buy"
    )
    assert pushed[1] == "added"
    assert features.online_history(users[0])[-1] == "new"


def test_a_publication_that_fails_leaves_the_table_as_it_was(warehouse, shop, tmp_path):
    features = Features(REPOSITORY, tmp_path)
    features.publish(shop, 5)
    before = features.tables.read("item_catalogue")
    twice = pd.concat([shop.items.assign(title="new"), shop.items.head(1)], ignore_index=True)
    with pytest.raises(
        UserError, match=r"schema t\d+: duplicate key .* \(item_id, event_timestamp\)"
    ):
        features.publish(Tables(shop.events, twice), 5)
    assert features.tables.read("item_catalogue").equals(before)
    with pytest.raises(UserError, match="0x00 CONTEXT:  COPY incoming, line 1, column title"):
        features.publish(Tables(shop.events, shop.items.assign(title="a\x00b")), 5)
    assert features.tables.read("item_catalogue").equals(before)


def test_the_password_stands_in_no_file_and_the_service_needs_none(
    warehouse, shop, tmp_path, monkeypatch
):
    features = Features(REPOSITORY, tmp_path)
    features.publish(shop, 5)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes()
    user = shop.events["user_id"].iat[0]
    expected = features.online_history(user)
    monkeypatch.delenv(OFFLINE_VARIABLE)
    serving = Features(REPOSITORY, tmp_path)
    assert serving.online_history(user) == expected != []
    assert serving.request_features(user, shop.events["timestamp"].max())["history_length"] == 5
    assert serving.some_users(3) == []


def test_erasing_looks_into_every_table_that_names_users(warehouse, shop, tmp_path):
    run = tmp_path / "runs" / "shop"
    features = Features(REPOSITORY, run / "features")
    features.publish(typed(shop), 5)
    user, other = sorted(shop.events["user_id"].unique())[:2]
    with features.tables._cursor() as cursor:
        cursor.execute("CREATE TABLE feast_entity_df_0 AS SELECT user_id FROM user_history")
    events = int((shop.events["user_id"] == user).sum())
    done = erase([user], [tmp_path / "runs"], REPOSITORY)
    tables = {name.rsplit(" ", 1)[1]: rows for name, rows in done.warehouse.items()}
    names = ("feast_entity_df_0", "user_activity", "user_history", "user_type_history")
    assert tables == dict.fromkeys(names, events)
    assert done.online[run / "features"] >= 1
    fresh = Features(REPOSITORY, run / "features")
    assert fresh.online_history(user) is None
    assert fresh.online_history(other)
    as_of = pd.DataFrame(
        {"user_id": [user, other], "moment": [shop.events["timestamp"].max() + JUST_BEFORE * 2] * 2}
    )
    assert [bool(history) for history in fresh.histories(as_of)["history"]] == [False, True]
    assert fresh.histories(as_of.head(1))["history"].tolist() == [[]]
    said = CliRunner().invoke(app, ["erase", user, "--in", str(tmp_path / "runs")]).output
    assert f"schema {features.tables.schema}, table user_history" in said
    assert "4 tables of a warehouse; removed 0" in said
    assert PASSWORD not in said


def test_erasing_looks_into_a_shared_online_store_that_left_no_file(
    warehouse,
    redis_url,  # noqa: F811
    shop,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setenv(ONLINE_VARIABLE, redis_url)
    monkeypatch.setenv(REGISTRY_VARIABLE, f"sqlite:///{tmp_path / 'registry.sqlite'}")
    features = Features(REPOSITORY, tmp_path / "features")
    features.publish(shop, 5)
    assert not [path for path in (tmp_path / "features").rglob("*") if path.is_file()]
    user = shop.events["user_id"].iat[0]
    assert features.online_history(user)
    done = erase([user], [tmp_path / "features"], REPOSITORY)
    assert done.online == {tmp_path / "features": 1}
    assert features.online_history(user) is None


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("mysql://u:s3cret@h/d", "choose duckdb, or postgresql://"),
        ("postgresql://h/d", "names no user"),
        ("postgresql://u:s3cret@h/", "no database"),
        ("postgresql://u:s3cret@h:port/d", "not readable as a URL"),
        ("postgresql://u:s3cret@h/d?schema=A-B", "lower-case letters"),
        ("postgresql://u:s3cret@h/d?verbose=1", "unknown verbose"),
    ],
)
def test_a_setting_that_names_no_warehouse_is_refused(tmp_path, monkeypatch, setting, said):
    monkeypatch.setenv(OFFLINE_VARIABLE, setting)
    with pytest.raises(UserError, match=said) as refused:
        Features(REPOSITORY, tmp_path)
    assert "s3cret" not in str(refused.value)


def test_a_wrong_password_is_told_and_may_come_from_its_own_variable(
    server, shop, tmp_path, monkeypatch
):
    place = server.split("@")[-1]
    wrong = Warehouse(f"postgresql://{USER}:wr0ng@{place}?sslmode=disable")
    with pytest.raises(UserError, match="password authentication failed") as refused:
        wrong.some_users(1)
    assert "wr0ng" not in str(refused.value)
    with pytest.raises(UserError, match="SSL"):
        Warehouse(server).some_users(1)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert (
        Warehouse(f"postgresql://{USER}@{place}?schema=empty&sslmode=disable").some_users(1) == []
    )
