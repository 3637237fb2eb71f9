"""The real service, started by its command, asked over loopback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from conftest import ROOT, seen_user

from eager_llm.bundle import Bundle
from eager_llm.catalogue.features import Features


@contextmanager
def serving(run, *arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "eager_llm.cli",
        "serve",
        "--bundle",
        str(run.folder / "bundle"),
        "--port",
        str(port),
    ]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            deadline = time.monotonic() + 60
            while True:
                assert process.poll() is None, "the service ended"
                assert time.monotonic() < deadline, "the service did not get ready in 60 seconds"
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.2)
            yield client
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def client(run):
    with serving(run) as started:
        yield started


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
    assert [row["score"] for row in found["items"]] == pytest.approx([score for _, score in expected], abs=1e-4)
    assert [row["title"] for row in found["items"]] == [bundle.title(item) for item, _ in expected]
    assert (found["source"], found["reason"]) == ("model", None)


def test_a_user_is_answered_from_the_online_history(client, run, bundle):
    user = seen_user(run)
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
    found = ask(client, items=[item], filters=[{"column": "item_id", "any_of": [item]}], exclude_history=True)
    assert (found["items"], found["source"]) == ([], "model")
    assert found["shortfall"] == f"1 item is in the index with item_id = {item}, 1 of them in the history"
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
        ({"column": "price", "least": 1, "any_of": [1]}, "give either any_of, or least, most or both"),
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
    assert answer.status_code == 400, answer.text
    assert answer.json()["detail"][0]["msg"]


def test_other_forms_of_request_are_refused(client):
    assert client.post("/recommend", content=b"{bad", headers={"content-type": "application/json"}).status_code == 400
    assert client.post("/recommend", content=b"null", headers={"content-type": "application/json"}).status_code == 400
    assert client.post("/recommend", data={"items": "a"}).status_code == 415
    assert client.post("/recommend", json={"items": ["x" * 200] * 9000}).status_code == 413
    assert client.get("/recommend").status_code == 405


def test_many_at_once_get_their_own_answers(client, bundle):
    ids = bundle.recommender.index.item_ids
    histories = [ids[n : n + 1 + n % 5] for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda history: ask(client, items=history, k=5)["items"], histories))
    for history, rows in zip(histories, found, strict=True):
        expected = bundle.recommender.recommend([history], 5)[0]
        assert [row["item_id"] for row in rows] == [item for item, _ in expected]


def test_started_again_it_answers_the_same_and_without_features_it_says_so(client, run, tmp_path):
    before = ask(client, user_id=seen_user(run))
    assert before["source"] == "model"
    with serving(run) as again:
        # The prompt may have been remembered in part before: rounding differs.
        found = ask(again, user_id=seen_user(run))
        assert [row["item_id"] for row in found["items"]] == [row["item_id"] for row in before["items"]]
        assert [row["score"] for row in found["items"]] == pytest.approx(
            [r["score"] for r in before["items"]], abs=1e-4
        )
    with serving(run, "--features", str(tmp_path / "none")) as bare:
        assert ask(bare, user_id=seen_user(run))["reason"] == "features_unavailable"


def test_a_changed_bundle_is_not_served(run, tmp_path):
    shutil.copytree(run.folder / "bundle", tmp_path / "bundle")
    (tmp_path / "bundle" / "generation.json").write_text("{}")
    command = [sys.executable, "-m", "eager_llm.cli", "serve", "--bundle", str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "generation.json has changed" in done.stderr
