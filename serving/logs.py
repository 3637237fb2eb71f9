"""The log: one JSON object a line, each with the id of its request."""

import atexit
import logging
import sys
import time
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from eager_llm.core.short_text import shortened
from serving.errors import request_id

FIELDS = {
    "asctime": "time",
    "levelname": "level",
    "name": "logger",
    "message": "message",
    "exc_info": "exception",
}
# BentoML and Python 3.12 add these to every record; no reader of the log needs them.
# Lines that may wait for their writer, and the characters of a field of one.
MAX_LINES = 4096
LONGEST_FIELD = 8000
OMITTED = ("taskName", "levelname_bracketed", "component", "trace_msg", "service_name")


class UtcJsonFormatter(JsonFormatter):
    """Writes a record and its `extra` as JSON; the time is UTC in ISO 8601, by the millisecond."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03d+00:00"

    def __init__(self) -> None:
        super().__init__(
            ["asctime", "levelname", "name", "message"],
            rename_fields=FIELDS,
            reserved_attrs=[*RESERVED_ATTRS, *OMITTED],
            json_default=str,
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Shorten the texts of a line."""
        for name, value in log_data.items():
            if isinstance(value, str):
                log_data[name] = shortened(value, LONGEST_FIELD)
        return log_data


class RequestIdFilter(logging.Filter):
    """Adds the id of the request in progress to a record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if request_id.get():
            record.request_id = request_id.get()
        return True


class BoundedQueueHandler(QueueHandler):
    """Queues lines for their writer; what does not fit is left out, and counted by the next line.

    Args:
        lines: with a bound: a reader of standard output that stands still must not take the memory.
    """

    def __init__(self, lines: "Queue[Any]") -> None:
        super().__init__(lines)
        self.left_out = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return the line of a record, with the number of lines that were left out before it."""
        if self.left_out:
            record.lines_left_out = self.left_out
        prepared: logging.LogRecord = super().prepare(record)
        return prepared

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it."""
        try:
            self.queue.put_nowait(record)
        except Full:
            self.left_out += 1
            return
        self.left_out = 0


def configure_logs(level: str) -> None:
    """Send everything of this process to its standard output as JSON lines.

    A thread writes the lines: a writer waits for the interpreter's lock afterwards, and the event
    loop must not wait.
    """
    lines: Queue[Any] = Queue(MAX_LINES)
    handler = BoundedQueueHandler(lines)
    handler.setFormatter(UtcJsonFormatter())
    handler.addFilter(RequestIdFilter())
    writer = QueueListener(lines, logging.StreamHandler(sys.stdout))
    writer.start()
    atexit.register(writer.stop)
    for name in ("bentoml", "uvicorn.error", "uvicorn", "circus", "eager_llm"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("eager_llm").setLevel(level)
    logging.getLogger("bentoml").setLevel(level)
