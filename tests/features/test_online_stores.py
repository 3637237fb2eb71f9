"""Offline and online say the same for every user, under SQLite and under Redis; pushing, growing, erasing."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from eager_llm.core.errors import UserError
from eager_llm.data.importing.importer import import_path
from eager_llm.data.prepare import prepare
from eager_llm.data.tables import Tables
from eager_llm.features.feast_repository import ONLINE_VARIABLE, REGISTRY_VARIABLE
from eager_llm.features.feature_store import JUST_BEFORE, Features
from eager_llm.release.erasure import bundle_source, erase

REPOSITORY = ROOT / "feature_repo"
METADATA = {"source": "shop", "first_event": "2025-01-01", "last_event": "2025-12-31"}
DATA = Path(os.environ.get("EAGER_LLM_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="module")
def redis_url():
    if shutil.which("redis-server") is None or importlib.util.find_spec("redis") is None:
        pytest.skip(
            "no redis-server on the PATH, or no redis client: the Redis store is not tested here"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(params=["sqlite", "redis"])
def store(request, monkeypatch):
    monkeypatch.setenv(
        ONLINE_VARIABLE,
        "sqlite" if request.param == "sqlite" else request.getfixturevalue("redis_url"),
    )
    return request.param


def latest(features, tables):
    """Every user as of just after their last event, offline."""
    last = tables.events.groupby("user_id")["timestamp"].max().rename("moment").reset_index()
    return features.histories(last.assign(moment=last["moment"] + JUST_BEFORE))


def test_every_user_of_scientific_agrees(store, tmp_path):
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
    users = offline["user_id"].tolist()
    # Feast's own read, which the keyed one stands in for.
    feasts = features.store.get_online_features(
        ["user_history:items"], [{"user_id": u} for u in users]
    ).to_dict()
    for user, history, feast in zip(users, offline["history"], feasts["items"], strict=True):
        assert features.online_history(user) == history == feast == obvious[user][-20:]


def typed(shop):
    kinds = ["view" if n % 3 else "buy" for n in range(len(shop.events))]
    return Tables(shop.events.assign(event_type=kinds), shop.items, None, shop.metadata)


def test_a_log_that_grows_brings_only_what_is_new_online(store, shop, tmp_path):
    whole = typed(shop)
    users = sorted(whole.events["user_id"].unique())
    late = whole.events["user_id"].isin(users[:20]) & whole.events["user_id"].duplicated(
        keep="last"
    )
    past = Tables(whole.events[~late].reset_index(drop=True), whole.items, None, whole.metadata)
    features = Features(REPOSITORY, tmp_path / "grown")
    features.publish(past, 5)
    # Twenty users' events ingest_increment late, each before the last that was known: back-filled, none is lost.
    changed = features.publish(whole, 5)
    assert 0 < changed["user_history"] <= whole.events["user_id"].isin(users[:20]).sum()
    assert features.publish(whole, 5) == {}
    for user, history in latest(features, whole)[["user_id", "history"]].itertuples(index=False):
        assert features.online_history(user) == history
    bought = whole.events[
        (whole.events["user_id"] == users[0]) & (whole.events["event_type"] == "buy")
    ]
    answer = features.store.get_online_features(
        ["user_type_history:items"], [{"user_id": users[0], "event_type": "buy"}]
    ).to_dict()
    assert list(answer["items"][0] or []) == bought["item_id"].tolist()[-5:]


def test_a_pushed_event_is_read_at_once_takes_its_place_and_counts_once(store, shop, tmp_path):
    features = Features(REPOSITORY, tmp_path)
    features.publish(shop, 5)
    user = shop.events["user_id"].iat[0]
    before = features.online_history(user)
    moment, second = shop.events["timestamp"].max() + pd.Timedelta(days=1), pd.Timedelta(seconds=1)
    assert features.push(user, "new", moment, 5) == ([*before, "new"][-5:], "added")
    assert features.online_history(user) == [*before, "new"][-5:]
    # Again, in between, and too old to be among the last five.
    assert features.push(user, "new", moment, 5) == ([*before, "new"][-5:], "known")
    assert features.push(user, "between", moment - second / 2, 5) == (
        [*before, "between", "new"][-5:],
        "added",
    )
    assert features.push(user, "between", moment - second / 2, 5) == (
        [*before, "between", "new"][-5:],
        "known",
    )
    assert features.push(user, "ancient", pd.Timestamp(1, tz="UTC"), 5) == (
        [*before, "between", "new"][-5:],
        "late",
    )
    now = [*before, "between", "new", "new"][-5:]
    assert features.push(user, "new", moment + second / 2, 5) == (now, "added")
    # Another process, such as another worker of the service, sees the same.
    assert Features(REPOSITORY, tmp_path).online_histories([user, "nobody"]) == [now, None]
    naive = moment.tz_localize(None)
    assert features.push("nobody yet", "first", naive, 5) == (["first"], "added")
    assert (
        features.push("nobody yet", "first", naive.tz_localize("UTC").tz_convert("Asia/Tokyo"), 5)[
            1
        ]
        == "known"
    )


def test_a_pushed_event_joins_the_history_of_its_type(store, shop, tmp_path):
    features = Features(REPOSITORY, tmp_path)
    features.publish(typed(shop), 5)
    user, moment = (
        shop.events["user_id"].iat[0],
        shop.events["timestamp"].max() + pd.Timedelta(days=1),
    )
    asked = ["user_type_history:items"], [{"user_id": user, "event_type": "buy"}]
    before = features.store.get_online_features(*asked).to_dict()["items"][0]
    assert features.push(user, "new", moment, 5, event_type="buy")[0][-1] == "new"
    assert features.store.get_online_features(*asked).to_dict()["items"][0] == [*before, "new"][-5:]


def test_stores_opened_at_the_same_time_are_each_their_own(monkeypatch, tmp_path):
    monkeypatch.delenv("EAGER_LLM_FEAST_ONLINE", raising=False)
    folders = [tmp_path / str(number) for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda folder: Features(REPOSITORY, folder).store, folders))
    assert [Path(store.config.online_store.path).parent for store in stores] == folders
    assert "EAGER_LLM_FEAST_ONLINE" not in os.environ


def test_pushes_at_the_same_time_all_count(store, shop, tmp_path):
    first = Features(REPOSITORY, tmp_path)
    first.publish(shop, 20)
    moment = shop.events["timestamp"].max() + pd.Timedelta(days=1)

    def push(number):
        mine = Features(REPOSITORY, tmp_path)
        return [
            mine.push("busy", f"{number}-{n}", moment + pd.Timedelta(seconds=n), 20)
            for n in range(4)
        ]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(push, range(4)))
    assert sorted(first.online_history("busy")) == sorted(
        f"{number}-{n}" for number in range(4) for n in range(4)
    )


@pytest.mark.parametrize(
    ("user", "item", "moment", "said"),
    [
        ("", "i", "2025-01-01", "needs a user and an item"), ("u", "", "2025-01-01", "needs a user and an item"),
        ("u", "i", "1969-12-31", "before 1970 or later than tomorrow"), ("u", "i", "2200-01-01", "later than tomorrow"),
    ],
)  # fmt: skip
def test_a_wrong_event_is_refused(shop, tmp_path, user, item, moment, said):
    with pytest.raises(UserError, match=said):
        Features(REPOSITORY, tmp_path).push(user, item, pd.Timestamp(moment), 5)


def test_reading_and_pushing_before_anything_is_published_is_refused(store, tmp_path):
    features = Features(REPOSITORY, tmp_path)
    if store == "sqlite":
        with pytest.raises(UserError, match="nothing has been published"):
            features.online_history("u")
    assert not (tmp_path / "online.db").exists()


def test_erasing_a_user_leaves_nothing_of_them_and_names_the_bundle(store, shop, tmp_path):
    user, other = sorted(shop.events["user_id"].unique())[:2]
    run = tmp_path / "runs" / "shop"
    typed(shop).save(run / "artifacts" / "tables")
    features = Features(REPOSITORY, run / "features")
    features.publish(typed(shop), 5)
    (run / "gates.html").write_text(f"<td>user_id={user}, item_id=a</td><td>user_id={user}0</td>")
    bundle = run / "bundle"
    bundle.mkdir()
    shop.items.to_parquet(bundle / "item_index.parquet")
    (bundle / "manifest.json").write_text(
        json.dumps({"packed_at": "2026-01-02T03:04:05+00:00", "data": METADATA})
    )
    kept = len(shop.events) - (shop.events["user_id"] == user).sum()
    done = erase([user], [tmp_path / "runs"], REPOSITORY)
    assert done.bundles == {bundle: "2026-01-02T03:04:05+00:00"}
    assert bundle_source(bundle) == "shop (2025-01-01 to 2025-12-31)"
    assert done.online == {run / "features": done.online[run / "features"]}
    assert done.online[run / "features"] >= 1
    assert run / "artifacts" / "tables" / "events.parquet" in done.searched
    for file in run.rglob("*.parquet"):
        table = pd.read_parquet(file)
        assert "user_id" not in table or user not in set(table["user_id"])
    assert len(pd.read_parquet(run / "artifacts" / "tables" / "events.parquet")) == kept
    assert (
        run / "gates.html"
    ).read_text() == f"<td>user_id=erased, item_id=a</td><td>user_id={user}0</td>"
    if store == "sqlite":
        assert user.encode() not in (run / "features" / "online.db").read_bytes()
    fresh = Features(REPOSITORY, run / "features")
    assert fresh.online_history(user) is None
    assert fresh.online_history(other)
    as_of = pd.DataFrame(
        {"user_id": [user], "moment": [shop.events["timestamp"].max() + pd.Timedelta(days=1)]}
    )
    assert fresh.histories(as_of)["history"].tolist() == [[]]
    again = erase([user], [tmp_path / "runs"], REPOSITORY)
    assert sum(again.searched.values()) + sum(again.online.values()) == 0
    assert list(again.bundles) == [bundle]
    assert user not in (tmp_path / "runs" / "erasures.jsonl").read_text()


def test_erasing_goes_on_where_a_file_cannot_be_read_and_names_it(shop, tmp_path):
    user = shop.events["user_id"].iat[0]
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "b.html").write_bytes(b"user_id=\xff")
    (tmp_path / "c.csv.gz").write_bytes(b"\x1f\x8b\x08\x00 of no kind that the system writes")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "manifest.json").write_text("{broken")
    shop.items.to_parquet(tmp_path / "d" / "item_index.parquet")
    shop.events.to_parquet(tmp_path / "z.parquet")
    done = erase([user], [tmp_path], REPOSITORY)
    broken = ("a.parquet", "b.html", "c.csv.gz")
    assert set(done.unreadable) == {tmp_path / name for name in broken}
    assert done.searched == {tmp_path / "z.parquet": (shop.events["user_id"] == user).sum()}
    assert done.bundles == {tmp_path / "d": "at an unknown time"}


def test_the_registry_may_be_a_database(shop, tmp_path, monkeypatch):
    monkeypatch.setenv(REGISTRY_VARIABLE, f"sqlite:///{tmp_path / 'registry.sqlite'}")
    features = Features(REPOSITORY, tmp_path / "features")
    features.publish(shop, 5)
    assert not (tmp_path / "features" / "registry.db").exists()
    assert features.online_history(shop.events["user_id"].iat[0])


def test_an_online_store_of_another_kind_is_named(shop, tmp_path, monkeypatch):
    monkeypatch.setenv(ONLINE_VARIABLE, "mysql://me:secret@x")
    with pytest.raises(UserError, match="mysql: choose sqlite, or redis://host:port") as told:
        Features(REPOSITORY, tmp_path).publish(shop, 5)
    assert "secret" not in str(told.value)
