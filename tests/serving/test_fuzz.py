"""Requests made up from the service's own OpenAPI, and bytes that mean no good.

Whatever is sent, there is no 500; memory stays flat, and another client is answered in time.
EAGER_LLM_FUZZ says how many requests of either kind (`make fuzz-serving`: 5,000).
"""

import json
import os
import socket
import subprocess
import sys
from collections import Counter, deque
from pathlib import Path

import numpy as np
import psutil
import schemathesis
from hostile_requests import hostile_requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from running import serving
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi

from eager_llm.bundle.bundle import Bundle

REQUESTS = int(os.environ.get("EAGER_LLM_FUZZ", "270"))
RIGHT, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
CHECKS = [
    checks.not_a_server_error,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
    openapi.status_code_conformance,
]


def led_on(case, known, data):
    """Turn a made-up body into one that is let in more often: known items and columns, one of two fields."""
    body = case.body
    if not isinstance(body, dict) or data.draw(st.booleans()):
        return
    if "item_id" in body:
        body["item_id"] = data.draw(st.sampled_from(known.recommender.index.item_ids))
    if data.draw(st.booleans()):
        body.pop("filters", None)
    for condition in body.get("filters") or []:
        condition["column"] = data.draw(st.sampled_from(list(known.items.columns)))
    if body.get("items") is not None:
        body["items"] = data.draw(
            st.lists(st.sampled_from(known.recommender.index.item_ids), max_size=30)
        )
        body.pop("user_id", None)
    elif "words" not in body and "k" in body and body.get("user_id") is None:
        body["items"] = known.recommender.index.item_ids[:3]
    if "timestamp" in body:
        body["timestamp"] = "2026-01-01T00:00:00Z"
    body.pop("bundle", None)
    if body.get("source") is not None:
        body.pop("source")


def ask(client, known, operation, mode, count, statuses):
    """Send so many requests and note their statuses."""

    @settings(
        max_examples=count, database=None, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(data=st.data())
    def one(data):
        case = data.draw(operation.as_strategy(generation_mode=mode))
        if mode is RIGHT:
            led_on(case, known, data)
        answer = case.call(base_url=str(client.base_url))
        statuses.append(answer.status_code)
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        # The status is one that the operation names, and the body fits what it says of it.
        case.validate_response(answer, checks=CHECKS)

    try:
        one()
    except Unsatisfiable:  # nothing wrong can be sent where any text is right
        assert operation.method == "get"
        assert mode is WRONG


def test_no_made_up_request_ends_in_a_fault(service, run):
    known = Bundle.load(run.folder / "bundle")
    schema = schemathesis.openapi.from_url(f"{service.base_url}/docs.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 9
    seen = {}
    for operation in operations:
        statuses = seen.setdefault(operation.path, [])
        for mode in (RIGHT, WRONG):
            # Some operations have not so many different requests: the others get more.
            ask(
                service,
                known,
                operation,
                mode,
                max(1, int(1.4 * REQUESTS / (2 * len(operations)))),
                statuses,
            )
    print({path: Counter(statuses) for path, statuses in seen.items()})
    assert sum(map(len, seen.values())) >= REQUESTS
    for path in ("/recommend", "/search", "/similar", "/describe", "/events"):
        assert {200, 400} <= set(seen[path]), path


DEADLINE_SECONDS = 1.0
FLAT_MB = 100
# Sockets of requests that never end, left open side by side.
HALF_OPEN = 40
# The service closes them by itself: 20 seconds for a body, and some more for a busy machine.
CLOSED_AFTER_SECONDS = 40


class Attacker:
    """Sends bytes, and looks at what comes back."""

    def __init__(self, port):
        self.port = port
        self.statuses = Counter()
        self.left_open = deque()

    def send(self, request, is_whole):
        """Send a request; one that is not whole is left open where nothing comes back at once."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        try:
            connection.sendall(request)
        except OSError:
            self.statuses["closed while it was sent"] += 1
            connection.close()
            return
        if not is_whole:
            connection.settimeout(0.02)
        answer = b""
        try:
            while part := connection.recv(1 << 16):
                answer += part
                connection.settimeout(30)
                if not is_whole:
                    break
        except TimeoutError:
            assert not is_whole, request[:300]
            self.statuses["left open"] += 1
            self.left_open.append(connection)
            if len(self.left_open) > HALF_OPEN:
                self.left_open.popleft().close()
            return
        except ConnectionResetError:
            pass
        connection.close()
        if not answer:
            self.statuses["closed"] += 1
            return
        status = int(answer.split(b" ", 2)[1])
        self.statuses[status] += 1
        assert status < 500 or status == 503, (status, answer[:300], request[:300])
        if status == 503:
            assert b"retry-after" in answer.lower(), answer[:300]
        if is_whole and status >= 400:
            error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
            assert {"code", "message", "request_id"} <= set(error), answer[:300]


def memory_mb(process):
    """The resident memory of the service, in MB."""
    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    return sum(member.memory_info().rss for member in family) / 1e6


def second_client(client, items):
    command = [sys.executable, str(Path(__file__).with_name("second_client.py"))]
    body = json.dumps({"items": items, "k": 10})
    return subprocess.Popen(
        [*command, str(client.base_url), body, "0.05"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_hostile_bytes_cost_no_one_else_anything(run):
    known = Bundle.load(run.folder / "bundle")
    item_ids = known.recommender.index.item_ids
    limits = {"EAGER_LLM_DEADLINE_MS": "1000", "EAGER_LLM_FEATURES_MS": "300"}
    with serving(run, **limits) as client:
        attacker, memory = Attacker(client.base_url.port), []

        @settings(
            max_examples=REQUESTS, database=None, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        )  # fmt: skip
        @given(hostile_requests(item_ids))
        def one(hostile):
            attacker.send(*hostile)
            if len(memory) * 50 < attacker.statuses.total():
                memory.append(memory_mb(client.process))

        beside = second_client(client, item_ids[:4])
        try:
            one()
            memory.append(memory_mb(client.process))
        finally:
            printed, _ = beside.communicate("", timeout=90)
        told = json.loads(printed)
        # The first requests of each kind find memory that the warm-up did not touch.
        first = memory[min(len(memory) - 1, 5)]
        p99 = float(np.quantile(told["seconds"], 0.99))
        print(
            f"{attacker.statuses.total()} requests: {dict(attacker.statuses)}; "
            f"memory {memory[0]:.0f} MB, {first:.0f} MB, at most {max(memory):.0f} MB; second client: "
            f"{len(told['seconds'])} answers, {told['statuses']}, p99 {p99:.3f} s, "
            f"longest {max(told['seconds']):.3f} s"
        )
        assert max(memory) - first <= FLAT_MB
        assert set(told["statuses"]) == {"200"}
        assert p99 <= DEADLINE_SECONDS
        for connection in attacker.left_open:
            connection.settimeout(CLOSED_AFTER_SECONDS)
            while connection.recv(1 << 16):
                pass
