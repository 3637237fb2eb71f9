"""The real service, started by its command, asked over loopback."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Barrier, Thread

import httpx
import jsonschema
import pytest
from conftest import ROOT, user_of
from running import free_port, serving

from eager_llm.bundle.bundle import Bundle
from eager_llm.decoding.recommender import Request
from eager_llm.features.feature_store import Features


@pytest.fixture(scope="module")
def client(service):
    return service


@pytest.fixture(scope="module")
def bundle(run):
    return Bundle.load(run.folder / "bundle")


def ask(client, **body):
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_history_is_answered_as_the_bundle_answers_it(client, bundle):
    history = bundle.recommender.index.item_ids[:4]
    found = ask(client, items=history, k=7)
    expected = bundle.recommender.recommend([history], 7)[0]
    assert [row["item_id"] for row in found["items"]] == [item for item, _ in expected]
    assert [row["score"] for row in found["items"]] == pytest.approx(
        [score for _, score in expected], abs=1e-4
    )
    assert [row["title"] for row in found["items"]] == [bundle.title(item) for item, _ in expected]
    assert (found["source"], found["reason"]) == ("model", None)


def test_a_user_is_answered_from_the_online_history(client, run, bundle):
    user = user_of(run)
    history = Features(ROOT / "feature_repo", run.folder / "features").online_history(user)
    assert ask(client, user_id=user)["items"] == ask(client, items=history)["items"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"user_id": "nobody"}, "unknown_user"),
        ({"items": []}, "empty_history"),
        ({"items": ["no-such-item"]}, "no_known_items"),
    ],
)
def test_without_a_usable_history_the_fallback_answers_and_says_so(client, bundle, body, reason):
    found = ask(client, **body, k=4)
    assert (found["source"], found["reason"]) == ("fallback", reason)
    assert [row["item_id"] for row in found["items"]] == bundle.fallback[:4]


def test_filters_and_the_history_are_obeyed(client, bundle):
    history = bundle.recommender.index.item_ids[:4]
    brand = bundle.items["brand"].iat[0]
    filters = [{"column": "brand", "any_of": [brand]}, {"column": "price", "most": 40}]
    found = ask(client, items=history, k=5, filters=filters, exclude_history=True)["items"]
    rows = bundle.items.loc[[row["item_id"] for row in found]]
    assert len(found) == 5
    assert (rows["brand"] == brand).all()
    assert (rows["price"] <= 40).all()
    assert not set(rows.index) & set(history)
    denied = ask(client, items=history, k=5, filters=[{**filters[0], "deny": True}])["items"]
    assert not (bundle.items.loc[[row["item_id"] for row in denied], "brand"] == brand).any()


def test_an_answer_that_is_short_says_why(client, bundle):
    item = bundle.recommender.index.item_ids[0]
    found = ask(
        client,
        items=[item],
        filters=[{"column": "item_id", "any_of": [item]}],
        exclude_history=True,
    )
    assert (found["items"], found["source"]) == ([], "model")
    assert (
        found["shortfall"]
        == f"1 item is in the index with item_id = {item}, 1 of them in the history"
    )
    fallback = ask(client, items=[], k=3, filters=[{"column": "item_id", "any_of": [item]}])
    assert [row["item_id"] for row in fallback["items"]] == [item]
    assert fallback["shortfall"]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"column": "colour", "any_of": ["red"]}, "the catalogue has no such column"),
        ({"column": "item_id", "any_of": ["ghost"]}, "not in the index: ghost"),
        ({"column": "brand", "least": 3}, "a range needs numbers"),
        ({"column": "price", "any_of": ["cheap"]}, "'cheap' is not a number"),
        ({"column": "price"}, "give either any_of, or least, most or both"),
        (
            {"column": "price", "least": 1, "any_of": [1]},
            "give either any_of, or least, most or both",
        ),
        ({"column": "price", "at_most": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_filter_that_does_not_fit_gets_a_400_that_says_so(client, bundle, condition, said):
    for items in ([bundle.recommender.index.item_ids[0]], []):
        answer = client.post("/recommend", json={"items": items, "filters": [condition]})
        assert answer.status_code == 400, answer.text
        assert said in answer.text


def test_unknown_items_are_ignored_and_named(client, bundle):
    item = bundle.recommender.index.item_ids[0]
    found = ask(client, items=["gone", item, "gone"], k=3)
    assert found["ignored_items"] == ["gone"]
    assert found["items"] == ask(client, items=[item], k=3)["items"]


@pytest.mark.parametrize(
    "body",
    [
        {"items": ["a"], "k": 0}, {"items": ["a"], "k": 101}, {"items": ["a"], "k": "3"}, {"items": ["a"], "k": 1.5},
        {}, {"user_id": "u", "items": ["a"]}, {"items": ["a"], "beams": 3}, {"items": "a"}, {"items": [1]},
        {"items": [""]}, {"items": ["a"] * 1001}, {"user_id": ""}, {"user_id": 5}, [], "x",
    ],
)  # fmt: skip
def test_bad_requests_get_a_400_that_names_the_field(client, body):
    answer = client.post("/recommend", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_request"), answer.text
    assert error["message"]
    if isinstance(body, dict) and len(body) == 2 and "k" in body:
        assert error["field"] == "k"


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code"),
    [
        ("POST", "/recommend", {"content": b"{bad", "headers": {"content-type": "application/json"}}, 400, "invalid_json"),
        ("POST", "/recommend", {"content": b"null", "headers": {"content-type": "application/json"}}, 400, "invalid_request"),
        ("POST", "/recommend", {"data": {"items": "a"}}, 415, "unsupported_media_type"),
        ("POST", "/recommend", {"content": b"{}", "headers": {"content-type": "application/vnd.bentoml+pickle"}}, 415, "unsupported_media_type"),
        ("POST", "/recommend", {"json": {"items": ["x" * 200] * 9000}}, 413, "body_too_large"),
        ("POST", "/recommend", {"content": iter([b"{}"]), "headers": {"content-type": "application/json"}}, 411, "length_required"),
        ("GET", "/recommend", {}, 405, "method_not_allowed"),
        ("DELETE", "/items/x", {}, 405, "method_not_allowed"),
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("POST", "/nowhere", {"json": {}}, 404, "not_found"),
        ("GET", "/ui/../service.py", {}, 404, "not_found"),
        ("GET", "/items/nothing%2Fsuch", {}, 404, "unknown_item"),
        ("POST", "/similar", {"json": {"item_id": "nothing such"}}, 404, "unknown_item"),
        ("GET", "/items?limit=1000", {}, 400, "invalid_request"),
    ],
)  # fmt: skip
def test_every_refusal_has_one_shape_and_the_id_of_its_request(
    client, method, path, sent, status, code
):
    headers = {**sent.pop("headers", {}), "X-Request-Id": "a-request.1"}
    answer = client.request(method, path, headers=headers, **sent)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["request_id"]) == (code, "a-request.1")
    assert answer.headers["X-Request-Id"] == "a-request.1"
    assert set(error) <= {"code", "message", "field", "request_id"}


def test_a_request_id_that_could_forge_a_log_line_is_replaced(client):
    for given in ("x" * 200, 'a"b', "a b"):
        found = client.get("/items", headers={"X-Request-Id": given}).headers["X-Request-Id"]
        assert found != given
        assert len(found) == 32


def test_openapi_describes_every_answer(client, run, bundle):
    spec = client.get("/docs.json").json()
    item, user = bundle.recommender.index.item_ids[0], user_of(run)
    bodies = {
        "/recommend": [
            {"items": [item], "k": 2, "explain": True},
            {"user_id": user},
            {"user_id": user, "k": 0},
        ],
        "/search": [
            {"words": "trowel", "k": 2},
            {"words": "x", "items": [item], "explain": True},
            {"words": ""},
        ],
        "/describe": [{"item_id": item, "max_tokens": 4}, {"item_id": "nothing such"}],
        "/similar": [{"item_id": item, "k": 2}, {"item_id": item, "source": "colour"}],
        "/events": [
            {"user_id": "u", "item_id": item, "timestamp": "2026-01-01T00:00:00Z"},
            {"user_id": "u"},
        ],
        "/items": [{"words": "pro", "limit": 2}, {"limit": 0}],
        "/items/{item_id}": [{"item_id": item}, {"item_id": "nothing such"}],
        "/users": [{}],
        "/info": [{}],
    }
    assert set(spec["paths"]) == set(bodies)
    for path, asked in bodies.items():
        ((method, operation),) = spec["paths"][path].items()
        for body in asked:
            if method == "post":
                answer = client.post(path, json=body)
            else:
                answer = client.get(path.format(**body), params=body if "{" not in path else {})
            schema = operation["responses"][str(answer.status_code)]["content"]["application/json"][
                "schema"
            ]
            jsonschema.validate(answer.json(), {**schema, "components": spec["components"]})


def test_the_other_questions_are_answered_from_the_bundle(client, bundle):
    ids = bundle.recommender.index.item_ids
    title = bundle.title(ids[3])
    found = client.get("/items", params={"words": title, "limit": 1}).json()["items"]
    assert found[0]["title"] == title
    metadata = client.get(f"/items/{ids[3]}").json()
    assert [token["token"] for token in metadata["path"]] == bundle.recommender.index.tokens(ids[3])
    assert metadata["attributes"]["price"] == bundle.items.at[ids[3], "price"]
    near = client.post("/similar", json={"item_id": ids[3], "k": 4, "source": "semantic"}).json()[
        "items"
    ]
    expected = bundle.nearest_items.nearest(3, 4, "semantic")
    assert [row["item_id"] for row in near] == [ids[one.row] for one in expected]
    searched = client.post("/search", json={"words": "a trowel", "items": ids[:2], "k": 3}).json()
    request = Request(ids[:2], 3, words="a trowel")
    assert [row["item_id"] for row in searched["items"]] == [
        i for i, _ in bundle.text_recommender.answer([request])[0].items
    ]
    text = client.post("/describe", json={"item_id": ids[3], "max_tokens": 5}).json()
    assert (text["text"], text["source"]) == (bundle.text_generator.describe(3, 5), "model")
    info = client.get("/info").json()
    assert (info["first"]["version"], info["second"], info["users"]) == (
        bundle.version,
        info["first"],
        True,
    )
    assert {column["name"] for column in info["first"]["columns"]} == set(bundle.items.columns)


def test_metrics_count_what_happened(client, bundle):
    item = bundle.recommender.index.item_ids[0]
    ask(client, items=[item])
    ask(client, user_id="nobody")
    client.get("/items/some-item-that-is-not-there")
    text = client.get("/metrics").text
    for part in (
        'eager_llm_request_seconds_count{endpoint="recommend",stage="total"}',
        'eager_llm_request_seconds_count{endpoint="recommend",stage="decode"}',
        'eager_llm_request_seconds_count{endpoint="recommend",stage="features"}',
        'eager_llm_fallbacks_total{cause="unknown_user"}',
        "eager_llm_batch_size_count",
        "eager_llm_beams_count",
        "eager_llm_prefix_cache_hits_total",
        "eager_llm_prefix_cache_misses_total",
        "eager_llm_queue_length",
        f'version="{bundle.version}"',
    ):
        assert part in text, part
    # A series for each item that was ever asked for would grow for ever.
    assert "some-item-that-is-not-there" not in text


def test_many_at_once_get_their_own_answers(client, bundle):
    ids = bundle.recommender.index.item_ids
    histories = [ids[n : n + 1 + n % 5] for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda history: ask(client, items=history, k=5)["items"], histories))
    for history, rows in zip(histories, found, strict=True):
        expected = bundle.recommender.recommend([history], 5)[0]
        assert [row["item_id"] for row in rows] == [item for item, _ in expected]


def test_redis_that_dies_costs_the_history_and_spans_are_sent(run, bundle):
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on the PATH: the service is not tested with Redis here")
    port, user, item = free_port(), "a user of redis", bundle.recommender.index.item_ids[0]
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
    redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    spans = []
    collector = HTTPServer(("127.0.0.1", 0), type("Collector", (SpanCollector,), {"spans": spans}))
    Thread(target=collector.serve_forever, daemon=True).start()
    variables = {
        "EAGER_LLM_ONLINE_STORE": f"redis://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    try:
        with serving(run, **variables) as client:
            event = {"user_id": user, "item_id": item, "timestamp": "2026-01-01T00:00:00Z"}
            assert client.post("/events", json=event).json() == {
                "status": "added",
                "history": [item],
            }
            assert client.post("/events", json=event).json()["status"] == "known"
            assert ask(client, user_id=user)["history"] == [item]
            redis.terminate()
            redis.wait(10)
            found = ask(client, user_id=user, k=3)
            assert (found["source"], found["reason"]) == ("fallback", "features_unavailable")
            assert (
                client.post("/events", json=event).json()["error"]["code"] == "features_unavailable"
            )
            assert ask(client, items=[item])["source"] == "model"
            assert client.get("/readyz").status_code == 200
            deadline = time.monotonic() + 10
            while not any(b"recommend decode" in body for body in spans):
                assert time.monotonic() < deadline, "no span was sent"
                time.sleep(0.1)
    finally:
        redis.kill()
        collector.shutdown()


class SpanCollector(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.spans.append(
            gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        )
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_started_without_features_it_says_so_and_told_to_end_it_answers_what_it_has_begun(
    client, run, bundle, tmp_path
):
    ids, together = bundle.recommender.index.item_ids, Barrier(33)
    before = ask(client, items=ids[:3])["items"]
    none = ("--features", str(tmp_path / "none"))
    with (
        (tmp_path / "log").open("w") as log,
        serving(run, *none, log=log, EAGER_LLM_DESCRIBE="0") as client,
    ):
        assert ask(client, user_id=user_of(run))["reason"] == "features_unavailable"
        again = ask(client, items=ids[:3])["items"]
        assert [row["item_id"] for row in again] == [row["item_id"] for row in before]

        def one(n):
            body = {"items": ids[n : n + 5], "k": 100, "explain": True}
            with httpx.Client(base_url=client.base_url, timeout=30) as own:
                own.get("/items")  # the connection is there before the service is told to end
                together.wait()
                return own.post(
                    "/recommend", json=body, headers={"X-Request-Id": f"drain-{n}"}
                ).status_code

        with ThreadPoolExecutor(32) as pool:
            asked = [pool.submit(one, n) for n in range(32)]
            together.wait()
            time.sleep(0.2)
            in_flight = sum(not future.done() for future in asked)
            os.kill(client.process.pid, signal.SIGTERM)
            assert [future.result() for future in asked] == [200] * 32
        assert in_flight
        client.process.wait(30)
    lines = [
        json.loads(line)
        for line in (tmp_path / "log").read_text().splitlines()
        if line.startswith("{")
    ]
    answered = [line for line in lines if line.get("path") == "/recommend"]
    assert {line["request_id"] for line in answered} >= {f"drain-{n}" for n in range(32)}
    assert {"time", "level", "request_id", "status", "ms"} <= set(answered[0])


def test_a_changed_bundle_is_not_served(run, tmp_path):
    shutil.copytree(run.folder / "bundle", tmp_path / "bundle")
    (tmp_path / "bundle" / "generation.json").write_text("{}")
    command = [
        sys.executable,
        "-m",
        "eager_llm.cli.main",
        "serve",
        "--bundle",
        str(tmp_path / "bundle"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "generation.json has changed" in done.stderr
