"""Requests made up from the service's own OpenAPI: whatever is asked, no 500, and only answers it describes.

EAGER_LLM_FUZZ says how many requests in all (`make fuzz-serving`: 5,000).
"""

import os
from collections import Counter

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
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
