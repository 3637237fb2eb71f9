"""The log: one JSON object a line, each with the id of its request."""

import atexit
import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Any

from serving.errors import request_id

PLAIN = frozenset(vars(logging.makeLogRecord({})))


class JsonLines(logging.Formatter):
    """Writes a record, and what it was given as `extra`, as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": moment, "level": record.levelname, "logger": record.name}
        line["message"] = record.getMessage()
        if request_id.get():
            line["request_id"] = request_id.get()
        line |= {
            name: value
            for name, value in vars(record).items()
            if name not in PLAIN and name[0] != "_"
        }
        for name in ("taskName", "levelname_bracketed", "component", "trace_msg", "service_name"):
            line.pop(name, None)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logs(level: str) -> None:
    """Send everything of this process to its standard output as JSON lines.

    A thread writes them: whoever writes waits for the interpreter's lock afterwards, and that is
    not to be the event loop.
    """
    lines: SimpleQueue[Any] = SimpleQueue()
    handler = QueueHandler(lines)
    handler.setFormatter(JsonLines())
    writer = QueueListener(lines, logging.StreamHandler(sys.stdout))
    writer.start()
    atexit.register(writer.stop)
    for name in ("bentoml", "uvicorn.error", "uvicorn", "circus", "eager_llm", ""):
        logger = logging.getLogger(name)
        logger.handlers = [] if name else [handler]
        logger.propagate = True
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("eager_llm").setLevel(level)
    logging.getLogger("bentoml").setLevel(level)
