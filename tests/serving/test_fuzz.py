"""Requests made up from the service's own OpenAPI: whatever is asked, no 500, and only answers it describes.

EAGER_LLM_FUZZ says how many requests in all (`make fuzz-serving`: 5,000).
"""

import os
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from running import serving
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi

REQUESTS = int(os.environ.get("EAGER_LLM_FUZZ", "270"))
# A made-up item is not in the catalogue.
NEEDS_AN_ITEM = ("/similar", "/describe", "/events")
RIGHT, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
CHECKS = [
    checks.not_a_server_error,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
    openapi.status_code_conformance,
]


@pytest.fixture(scope="module")
def client(run):
    with serving(run) as started:
        yield started


def ask(client, operation, mode, count, statuses):
    """Send so many requests and note their statuses."""

    @settings(
        max_examples=count, database=None, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(data=st.data())
    def one(data):
        case = data.draw(operation.as_strategy(generation_mode=mode))
        answer = case.call(base_url=str(client.base_url))
        statuses.append(answer.status_code)
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        # The status is one that the operation names, and the body fits what it says of it.
        case.validate_response(answer, checks=CHECKS)

    try:
        one()
    except Unsatisfiable:  # nothing wrong can be sent where any text is right
        assert operation.method == "get" and mode is WRONG


def test_no_made_up_request_ends_in_a_fault(client):
    schema = schemathesis.openapi.from_url(f"{client.base_url}/docs.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 9
    seen = {}
    for operation in operations:
        statuses = seen.setdefault(operation.path, [])
        for mode in (RIGHT, WRONG):
            ask(client, operation, mode, max(1, REQUESTS // (2 * len(operations))), statuses)
    print({path: Counter(statuses) for path, statuses in seen.items()})
    assert sum(map(len, seen.values())) >= 0.6 * REQUESTS
    for path in ("/recommend", "/search", "/similar", "/describe", "/events"):
        assert {200, 400} <= set(seen[path]) | {200 if path in NEEDS_AN_ITEM else 400}, path
