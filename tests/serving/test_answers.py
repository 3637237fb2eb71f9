"""What is answered where a part of the service does not work, is slow, or is asked too much."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, user_of
from in_process import Service
from prometheus_client import REGISTRY

from eager_llm.bundle.bundle import Bundle
from eager_llm.core.errors import UserError
from eager_llm.features.feast_repository import FOLDER_VARIABLE
from eager_llm.features.feature_store import Features
from serving.rate_limiter import RateLimiter
from serving.settings import VARIABLES, ServiceSettings


@pytest.fixture(scope="module")
def bundle(run):
    return Bundle.load(run.folder / "bundle")


@pytest.fixture(scope="module")
def features(run):
    return Features(ROOT / "feature_repo", run.folder / "features")


def fallbacks(cause):
    return REGISTRY.get_sample_value("eager_llm_fallbacks_total", {"cause": cause})


def test_over_its_deadline_the_fallback_answers_and_the_decoder_goes_on(bundle, monkeypatch):
    ids = bundle.recommender.index.item_ids
    with Service(bundle, deadline_ms=300) as service:
        work, slow = service.decoder._batches._work, threading.Event()
        service.decoder._batches._work = lambda jobs: (slow.wait(6), work(jobs))[1]
        before, begun = fallbacks("deadline"), time.monotonic()
        found = service.ask(items=ids[:3], k=4)
        assert 0.25 < time.monotonic() - begun < 5
        assert (found["source"], found["reason"]) == ("fallback", "deadline")
        assert [row["item_id"] for row in found["items"]] == bundle.fallback[:4]
        assert fallbacks("deadline") == before + 1
        described = service.ask("/describe", item_id=ids[0])
        assert (described["source"], described["reason"]) == ("catalogue", "deadline")
        assert described["text"] == bundle.title(ids[0])
        slow.set()
        # On a busy machine the deadline may pass once more before what waited is done.
        asked = (service.ask(items=ids[:3], k=4)["source"] for _ in range(30))
        assert any(source == "model" for source in asked)


def test_a_decoder_that_raises_is_answered_for_and_works_again_when_it_does(bundle, monkeypatch):
    ids, words = (
        bundle.recommender.index.item_ids,
        bundle.title(bundle.recommender.index.item_ids[5]),
    )
    with Service(bundle) as service:

        def broken(*_):
            raise FloatingPointError("the model answered NaN")

        before = fallbacks("decoder_failed")
        with monkeypatch.context() as patch:
            patch.setattr(bundle.recommender, "_decode", broken)
            patch.setattr(bundle.text_recommender, "_decode", broken)
            filters = [{"column": "price", "most": 40}]
            found = service.ask(items=ids[:3], k=3, filters=filters, exclude_history=True)
            assert (found["source"], found["reason"]) == ("fallback", "decoder_failed")
            shut = [
                item
                for item in bundle.fallback
                if bundle.items.at[item, "price"] <= 40 and item not in ids[:3]
            ]
            assert [row["item_id"] for row in found["items"]] == shut[:3]
            searched = service.ask("/search", words=words, k=3)
            assert (searched["source"], searched["reason"]) == ("fallback", "decoder_failed")
            assert searched["items"][0]["title"] == words
        assert fallbacks("decoder_failed") == before + 2
        assert service.ask(items=ids[:3], k=3)["source"] == "model"


def test_a_store_that_is_down_or_slow_costs_the_history_and_no_request(bundle, features, run):
    user = user_of(run)
    features.online_history(user)  # opens it, which takes longer
    with Service(bundle, features, features_ms=300) as service:
        assert service.ask(user_id=user)["source"] == "model"

        def down(*_):
            raise ConnectionError("connection refused")

        service.store.features = SimpleNamespace(online_histories=down, push=down)
        found = service.ask(user_id=user, k=3)
        assert (found["source"], found["reason"]) == ("fallback", "features_unavailable")
        refused = service.client.post("/events", json=event(user, bundle, "2026-01-01T00:00:00Z"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            503,
            "features_unavailable",
        )
        assert int(refused.headers["Retry-After"]) >= 1
        service.store.features = SimpleNamespace(
            online_histories=lambda users: time.sleep(1) or [None] * len(users)
        )
        begun = time.monotonic()
        assert service.ask(user_id=user, k=3)["reason"] == "features_slow"
        assert time.monotonic() - begun < 0.9
        # Words need no history: the model still answers.
        assert service.ask("/search", user_id=user, words="trowel")["source"] == "model"
        service.store.features = features
        time.sleep(1.1)
        assert service.ask(user_id=user)["source"] == "model"


def test_more_than_may_wait_get_503_and_nobody_gets_anothers_answer(bundle):
    ids = bundle.recommender.index.item_ids
    with Service(bundle, queue=4, batch=2) as service:
        work = service.decoder._batches._work
        service.decoder._batches._work = lambda jobs: (time.sleep(0.05), work(jobs))[1]

        def one(n):
            return service.client.post("/recommend", json={"items": ids[n : n + 3], "k": 5})

        with ThreadPoolExecutor(24) as pool:
            found = list(pool.map(one, range(24)))
        codes = [answer.status_code for answer in found]
        assert set(codes) == {200, 503}
        for n, answer in enumerate(found):
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "overloaded"
                assert int(answer.headers["Retry-After"]) >= 1
                continue
            expected = bundle.recommender.recommend([ids[n : n + 3]], 5)[0]
            assert [row["item_id"] for row in answer.json()["items"]] == [
                item for item, _ in expected
            ]


def test_the_key_is_asked_for_everywhere_but_at_the_probes_and_the_page(bundle):
    with Service(bundle, api_key="let me in") as service:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"X-API-Key": "wrong"},
            {"Authorization": "let me in"},
        ):
            for answer in (
                service.client.post("/recommend", json={"items": []}, headers=headers),
                service.client.get("/info", headers=headers),
                service.client.get("/nowhere", headers=headers),
            ):
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        for headers in ({"Authorization": "Bearer let me in"}, {"X-API-Key": "let me in"}):
            assert service.client.get("/info", headers=headers).status_code == 200
        for path in ("/ui", "/ui/app.js", "/docs.json", "/metrics"):
            assert service.client.get(path).status_code == 200


def test_a_client_that_asks_too_often_is_told_when_to_come_back(bundle):
    with Service(bundle, rate=0.5) as service:
        codes = [service.client.get("/items").status_code for _ in range(3)]
        refused = service.client.get("/items")
        assert codes[0] == 200
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
        assert 1 <= int(refused.headers["Retry-After"]) <= 2


def test_buckets_fill_again_and_forget_old_clients():
    limiter = RateLimiter(rate=50, max_clients=2)
    assert [limiter.take("a") for _ in range(100)] == [0] * 100
    assert 0 < limiter.take("a") <= 0.02
    time.sleep(0.05)
    assert limiter.take("a") == 0
    assert limiter.take("b") == limiter.take("c") == 0
    assert len(limiter) == 2


def event(user, bundle, timestamp, number=0):
    return {
        "user_id": user,
        "item_id": bundle.recommender.index.item_ids[number],
        "timestamp": timestamp,
    }


def test_an_event_is_seen_by_the_next_recommendation_and_counts_once(bundle, features):
    user = f"somebody new {uuid.uuid4()}"
    published = (features.folder / "user_history.parquet").read_bytes()
    with Service(bundle, features) as service:
        assert service.ask(user_id=user)["reason"] == "unknown_user"
        first = event(user, bundle, "2026-01-01T10:00:00+02:00", 3)
        added = service.ask("/events", **first)
        assert added == {"status": "added", "history": [first["item_id"]]}
        assert service.ask(user_id=user)["history"] == [first["item_id"]]
        again = {**first, "timestamp": "2026-01-01T08:00:00Z"}  # the same moment, told otherwise
        assert service.ask("/events", **again) == {**added, "status": "known"}
        second = event(user, bundle, "2026-01-01T08:00:00Z", 4)
        assert service.ask("/events", **second)["history"] == [first["item_id"], second["item_id"]]
        assert service.ask("/events", **first)["status"] == "known"
        third = event(user, bundle, "2025-01-01T08:00:00Z", 5)
        earlier = service.ask("/events", **third)
        assert earlier == {
            "status": "added",
            "history": [third["item_id"], first["item_id"], second["item_id"]],
        }
    assert (features.folder / "user_history.parquet").read_bytes() == published


def test_events_of_one_user_at_once_are_all_kept(bundle, features):
    user, ids = f"somebody busy {uuid.uuid4()}", bundle.recommender.index.item_ids
    with Service(bundle, features) as service:

        def one(n):
            return service.ask("/events", **event(user, bundle, "2026-01-01T08:00:00Z", n))

        with ThreadPoolExecutor(8) as pool:
            assert {found["status"] for found in pool.map(one, range(16))} == {"added"}
        assert set(service.ask(user_id=user)["history"]) == set(ids[:16])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"timestamp": "2999-01-01T00:00:00Z"}, "event_in_future"),
        ({"timestamp": "2025-01-01T00:00:00"}, "invalid_request"),
        ({"timestamp": "0001-01-01T00:00:00Z"}, "invalid_request"),
        ({"timestamp": "1970-01-01T00:00:00+05:00"}, "invalid_request"),
        ({"timestamp": "0001-01-01T00:00:00+23:59"}, "invalid_request"),
        ({"timestamp": "9999-12-31T23:59:59-23:59"}, "event_in_future"),
        ({"timestamp": 1767225600}, "invalid_request"),
        ({"timestamp": "1767225600"}, "invalid_request"),
        ({"timestamp": 1e300}, "invalid_request"),
        ({"timestamp": "2026-01-01T00:00:00+25:00"}, "invalid_request"),
        ({"user_id": ""}, "invalid_request"),
        ({"colour": "red"}, "invalid_request"),
    ],
)
def test_an_event_that_cannot_be_is_refused(bundle, features, change, code):
    with Service(bundle, features) as service:
        answer = service.client.post(
            "/events", json={**event("u", bundle, "2026-01-01T08:00:00Z"), **change}
        )
        assert answer.json()["error"]["code"] == code


def test_an_event_of_a_new_item_is_kept_until_a_bundle_knows_it(bundle, features):
    user = f"somebody early {uuid.uuid4()}"
    with Service(bundle, features) as service:
        first = event(user, bundle, "2026-01-01T08:00:00Z", 3)
        newer = {**first, "item_id": "brand new", "timestamp": "2026-01-01T09:00:00Z"}
        assert service.ask("/events", **newer) == {
            "status": "added",
            "history": ["brand new"],
            "unknown_item": "brand new",
        }
        assert service.ask(user_id=user)["reason"] == "no_known_items"
        assert service.ask("/events", **first)["history"] == [first["item_id"], "brand new"]
        found = service.ask(user_id=user)
        assert (found["source"], found["history"]) == ("model", [first["item_id"]])
        assert found["ignored_items"] == ["brand new"]


def test_without_features_and_texts_it_says_what_is_not_offered(bundle):
    with Service(bundle, describe=False) as service:
        item = bundle.recommender.index.item_ids[0]
        for path, body in (
            ("/events", event("u", bundle, "2026-01-01T08:00:00Z")),
            ("/describe", {"item_id": item}),
            ("/search", {"words": "trowel"}),
        ):
            answer = service.client.post(path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_offered")
        answer = service.client.post("/recommend", json={"items": [item], "bundle": "second"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_bundle")


def test_why_an_item_came_adds_up(bundle):
    ids, index = bundle.recommender.index.item_ids, bundle.recommender.index
    with Service(bundle) as service:
        found = service.ask(items=ids[:4], k=5, explain=True, exclude_history=True)["items"]
        assert found == service.ask(items=ids[:4], k=5, explain=True, exclude_history=True)["items"]
    for row in found:
        path = row["why"]["path"]
        assert [token["token"] for token in path] == index.tokens(row["item_id"])
        assert [token["source"] for token in path] == list(index.sources)
        assert np.log([token["probability"] for token in path]).sum() == pytest.approx(
            row["score"], abs=1e-4
        )
        for neighbour in row["why"]["neighbours"]:
            assert neighbour["item_id"] in ids[:4]
        assert [n["source"] for n in row["why"]["neighbours"]] == list(index.levels_of)


def set_environment(monkeypatch, **values):
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(VARIABLES[name], value)


def test_settings_are_read_from_their_variables(monkeypatch):
    assert VARIABLES["features"] == FOLDER_VARIABLE
    set_environment(monkeypatch, bundle=" b ", queue="7", describe="false", rate="", features=" ")
    settings = ServiceSettings.read()
    assert (settings.bundle, settings.queue, settings.describe) == ("b", 7, False)
    assert (settings.rate, settings.features, settings.api_key) == (0, None, None)
    set_environment(monkeypatch, bundle="b", log_level="debug", features="f", api_key="a secret")
    settings = ServiceSettings.read()
    assert (settings.log_level, settings.features) == ("DEBUG", Path("f"))
    assert settings.api_key.get_secret_value() == "a secret"
    assert "a secret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("queue", "0", "greater than or equal to 1"),
        ("deadline_ms", "soon", "a whole number"),
        ("rate", "-1", "greater than or equal to 0"),
        ("rate", "nan", "a finite number"),
        ("describe", "perhaps", "true or false"),
        ("log_level", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_with_its_variable_and_fix(
    monkeypatch, name, value, fix
):
    set_environment(monkeypatch, bundle="b", **{name: value})
    with pytest.raises(UserError, match=f"{VARIABLES[name]}={value}: .*{fix}"):
        ServiceSettings.read()


def test_all_mistakes_of_the_environment_are_reported_at_once(monkeypatch):
    set_environment(monkeypatch, queue="0", batch="many", features_ms="1.5")
    with pytest.raises(UserError) as error:
        ServiceSettings.read()
    mistakes = str(error.value)
    for name in ("bundle", "queue", "batch", "features_ms"):
        assert VARIABLES[name] in mistakes
    assert len(mistakes.splitlines()) == 5


def test_unseen_columns_of_all_kinds_can_be_told(bundle, tmp_path):
    from serving.metadata import to_jsonable

    odd = {
        "a": np.float32("nan"),
        "b": np.array([1, 2]),
        "c": pd.Timestamp("2026-01-01"),
        "d": pd.NA,
        "e": np.bool_(1),
    }
    assert to_jsonable(odd) == {
        "a": None,
        "b": [1, 2],
        "c": "2026-01-01 00:00:00",
        "d": None,
        "e": True,
    }
