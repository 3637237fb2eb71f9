"""What a client may not do to the service, nor to another client."""

import json
import logging
import queue
import time
from threading import Event, Thread

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import Service
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.testclient import TestClient

from eager_llm.bundle.bundle import Bundle
from eager_llm.core.errors import UserError
from eager_llm.features.feature_store import Features
from serving.logs import LONGEST_FIELD, BoundedQueueHandler, UtcJsonFormatter
from serving.middleware import MAX_HEADERS, WRONG_KEYS, RequestIdMiddleware
from serving.schemas.requests import MAX_FILTER_VALUES
from serving.settings import VARIABLES, ServiceSettings

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def bundle(run):
    return Bundle.load(run.folder / "bundle")


@pytest.fixture(scope="module")
def features(run):
    return Features(ROOT / "feature_repo", run.folder / "features")


@pytest.fixture(scope="module")
def service(bundle):
    with Service(bundle) as started:
        yield started


def code_of(answer):
    return answer.status_code, answer.json()["error"]["code"]


BODIES = {
    "/recommend": {"user_id": "u"},
    "/search": {"words": "trowel", "items": ["a"]},
    "/describe": {"item_id": "a"},
    "/similar": {"item_id": "a", "source": "b", "filters": [{"column": "c", "any_of": ["d"]}]},
    "/events": {"user_id": "u", "item_id": "a", "timestamp": "2026-01-01T00:00:00Z"},
}


@given(path=st.sampled_from(sorted(BODIES)), data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_half_a_character_in_any_text_is_refused(service, path, data):
    half = chr(data.draw(st.integers(0xD800, 0xDFFF)))
    text = json.dumps(BODIES[path])
    places = [place for place, character in enumerate(text) if character == '"']
    place = data.draw(st.sampled_from(places[1::2]))
    escape = json.dumps(half)[1:-1]
    body = text[:place] + escape + text[place:]
    answer = service.client.post(path, content=body.encode(), headers=JSON)
    assert code_of(answer) == (400, "invalid_json"), body


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[" * 100_000, b'{"a":' * 50_000, b'{"items": ["\xff"]}', b'{"items": ["\xed\xa0\x80"]}',
        b'{"k": ' + b"9" * 5000 + b"}", b'{"k": NaN}', b'{"k": -Infinity}', b'\xef\xbb\xbf{"items": []}', b"\x00",
    ],
)  # fmt: skip
def test_what_is_no_json_is_called_so(service, body):
    answer = service.client.post("/recommend", content=body, headers=JSON)
    assert code_of(answer) == (400, "invalid_json")
    assert len(answer.content) < 500


def test_pairs_of_escapes_are_whole_characters(service):
    body = b'{"items": ["\\ud83d\\ude00"]}'
    answer = service.client.post("/recommend", content=body, headers=JSON)
    assert answer.json()["ignored_items"] == ["\U0001f600"]


def test_refusals_do_not_grow_with_what_was_sent(service, bundle):
    long = "x" * 200_000
    for body in (
        {"items": [], long: 1},
        {"items": [], "filters": [{"column": "price", "any_of": [long]}]},
        {"items": [], "filters": [{"column": "item_id", "any_of": ["ghost"] * 2 + [long]}]},
        {"items": [], "filters": [{"column": "brand", "any_of": [None] * 1000}] * 100},
    ):
        began = time.monotonic()
        answer = service.client.post("/recommend", json=body)
        assert answer.status_code == 400
        assert len(answer.content) < 4000
        assert time.monotonic() - began < 1
    item = bundle.recommender.index.item_ids[0]
    many = [{"column": "brand", "any_of": [f"{long[:900]}{n}" for n in range(500)]}]
    found = service.ask(items=[item], filters=many)
    assert found["items"] == []
    assert 0 < len(found["shortfall"]) < 1000


def test_the_values_of_all_filters_have_a_bound(service):
    condition = {"column": "brand", "any_of": [str(n) for n in range(1000)]}
    several = MAX_FILTER_VALUES // 1000
    fitting = {"items": [], "filters": [condition] * several}
    assert service.client.post("/recommend", json=fitting).status_code == 200
    answer = service.client.post(
        "/recommend", json={"items": [], "filters": [condition] * (several + 1)}
    )
    assert code_of(answer) == (400, "invalid_request")
    assert answer.json()["error"]["field"] == "filters"


def test_a_deny_list_may_name_items_that_the_bundle_does_not_know(service, bundle):
    item, other = bundle.recommender.index.item_ids[:2]
    denied = [{"column": "item_id", "any_of": [other, "not here yet"], "deny": True}]
    for items in ([item], []):
        found = service.ask(items=items, k=20, filters=denied)["items"]
        assert len(found) == 20
        assert other not in [row["item_id"] for row in found]


@pytest.mark.parametrize("value", ["", " ", "\t\n"])
def test_a_blank_key_does_not_open_the_service(monkeypatch, value):
    monkeypatch.setenv(VARIABLES["api_key"], value)
    monkeypatch.setenv(VARIABLES["bundle"], "b")
    with pytest.raises(UserError, match=f"{VARIABLES['api_key']}.*is set, but blank"):
        ServiceSettings.read()


def test_wrong_keys_are_limited_and_the_right_one_passes(bundle):
    with Service(bundle, api_key="let me in") as service:
        codes = []
        for number in range(WRONG_KEYS + 10):
            headers = {"X-API-Key": str(number), "X-Forwarded-For": f"10.0.0.{number}"}
            codes.append(service.client.get("/info", headers=headers))
        assert [answer.status_code for answer in codes[:WRONG_KEYS]] == [401] * WRONG_KEYS
        assert code_of(codes[-1]) == (429, "rate_limited")
        assert int(codes[-1].headers["Retry-After"]) >= 1
        right = {"X-API-Key": "let me in"}
        assert service.client.get("/info", headers=right).status_code == 200


def test_long_targets_and_headers_are_refused_on_open_paths_too(service):
    for path in ("/info", "/ui", "/docs.json"):
        many = {f"x-{number}": "y" for number in range(MAX_HEADERS)}
        assert code_of(service.client.get(path, headers=many)) == (431, "headers_too_large")
        large = {"x": "y" * 20_000}
        assert code_of(service.client.get(path, headers=large)) == (431, "headers_too_large")
        target = service.client.get(f"{path}?{'x' * 20_000}")
        assert code_of(target) == (414, "target_too_long")


def slow(seconds):
    def work(*_, **__):
        time.sleep(seconds)
        return []

    return work


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/items", None),
        ("/similar", {"k": 3}),
        ("/recommend", {"filters": [{"column": "price", "most": 1.5}], "items": []}),
        ("/search", {"words": "x", "filters": [{"column": "price", "most": 1.25}]}),
    ],
)
def test_what_the_catalogue_answers_keeps_the_deadline(bundle, monkeypatch, path, body):
    item = bundle.recommender.index.item_ids[0]
    if path == "/similar":
        body = {**body, "item_id": item}
    with Service(bundle, deadline_ms=300) as service:
        assert service.ask(items=[item])["source"] == "model"
        monkeypatch.setattr(bundle.keyword_search, "find", slow(1.5))
        monkeypatch.setattr(bundle.nearest_items, "nearest", slow(1.5))
        monkeypatch.setattr(bundle.recommender.columns, "_matches", slow(1.5))
        began = time.monotonic()
        answer = service.client.get(path) if body is None else service.client.post(path, json=body)
        assert time.monotonic() - began < 0.9
        assert code_of(answer) == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
        # The thread still works at it: whoever asks for something else is answered.
        began = time.monotonic()
        assert service.ask(items=[])["reason"] == "empty_history"
        assert service.ask(items=[item])["items"]
        assert time.monotonic() - began < 0.9


def test_an_answer_goes_without_explanations_that_take_too_long(bundle, monkeypatch):
    item = bundle.recommender.index.item_ids[0]
    with Service(bundle, deadline_ms=1000) as service:
        assert service.ask(items=[item], explain=True)["items"][0]["why"]
        monkeypatch.setattr("serving.answers._explanations", slow(2))
        began = time.monotonic()
        found = service.ask(items=[item], explain=True)
        assert time.monotonic() - began < 1.5
        assert found["source"] == "model"
        assert found["items"][0]["why"] is None


def test_a_slow_catalogue_has_a_bounded_queue(bundle, monkeypatch):
    gate = Event()
    with Service(bundle, deadline_ms=2000, queue=3) as service:
        monkeypatch.setattr(bundle.keyword_search, "find", lambda *_: gate.wait(5) and [])
        answers = []

        def one():
            answers.append(service.client.get("/items"))

        threads = [Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        refused = [code_of(answer) for answer in answers]
        gate.set()
        for thread in threads:
            thread.join()
    assert refused == [(503, "overloaded")] * 4
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 4


@pytest.mark.parametrize(
    ("response", "status", "code"),
    [
        (PlainTextResponse("no", 503), 503, "overloaded"),
        (JSONResponse({"error": "Too many requests"}, 429), 429, "rate_limited"),
        (JSONResponse({"error": "slow"}, 504), 503, "overloaded"),
        (JSONResponse({"detail": "no"}, 404), 404, "not_found"),
        (RedirectResponse("http://evil.example/info"), 404, "not_found"),
        (RedirectResponse("//evil.example/info"), 404, "not_found"),
    ],
)
def test_what_stands_below_answers_in_the_one_shape(response, status, code):
    client = TestClient(RequestIdMiddleware(response), raise_server_exceptions=False)
    for path in ("/recommend", "/livez"):
        assert code_of(client.get(path, follow_redirects=False)) == (status, code)


def test_lines_of_the_log_that_find_no_room_are_counted():
    lines = queue.Queue(2)
    handler = BoundedQueueHandler(lines)
    handler.setFormatter(UtcJsonFormatter())
    for number in range(5):
        handler.emit(logging.makeLogRecord({"msg": f"line {number} \ud800", "path": "x" * 10**6}))
    kept = json.loads(lines.get().msg)
    assert kept["message"] == "line 0 \ud800"
    assert len(kept["path"]) == LONGEST_FIELD + 1
    handler.emit(logging.makeLogRecord({"msg": "after them"}))
    lines.get()
    assert json.loads(lines.get().msg)["lines_left_out"] == 3
