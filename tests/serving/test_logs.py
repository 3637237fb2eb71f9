"""The lines of the log: the fields that its readers rely on."""

import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from serving.errors import request_id
from serving.logs import RequestIdFilter, UtcJsonFormatter


def line_of(record):
    assert RequestIdFilter().filter(record)
    text = UtcJsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


@pytest.fixture
def record():
    fields = {"name": "eager_llm.access", "levelname": "INFO", "msg": "hello %s", "args": ("é",)}
    return logging.makeLogRecord({**fields, "created": 1767225600.25, "msecs": 250.0})


def test_a_line_has_time_level_logger_and_message(record):
    # BentoML's additions to every record stay out.
    record.component, record.taskName = "service", "Task-1"
    line = line_of(record)
    moment = datetime.fromisoformat(line.pop("time"))
    assert moment == datetime(2026, 1, 1, 0, 0, 0, 250000, tzinfo=UTC)
    assert line == {"level": "INFO", "logger": "eager_llm.access", "message": "hello é"}


def test_extra_fields_the_request_id_and_an_exception_are_in_the_line(record):
    record.status, record.ms, record.path = 200, 1.5, "/a\nb"
    try:
        raise ValueError("broken")
    except ValueError:
        record.exc_info = sys.exc_info()
    token = request_id.set("some-id")
    try:
        line = line_of(record)
    finally:
        request_id.reset(token)
    assert (line["status"], line["ms"], line["path"]) == (200, 1.5, "/a\nb")
    assert line["request_id"] == "some-id"
    assert line["exception"].endswith("ValueError: broken")
