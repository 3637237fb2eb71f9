"""One progress display for terminals and for logs that are read line by line."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5


class _LineLog:
    """A stream that turns tqdm's carriage returns into lines, for pods and pipeline logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text as a line of its own; nothing where it is empty."""
        line = text.replace("\r", "").strip()
        if line:
            self._stream.write(f"  {line}\n")
        return len(text)

    def flush(self) -> None:
        """Pass on what the stream still holds."""
        self._stream.flush()


def progress(*args: Any, **options: Any) -> Any:
    """Return a tqdm bar: drawn in place on a terminal, a line every few seconds elsewhere."""
    if sys.stderr.isatty():
        return tqdm(*args, **options)
    line_options: dict[str, Any] = {
        "mininterval": SECONDS_BETWEEN_LINES,
        "maxinterval": SECONDS_BETWEEN_LINES,
        "ascii": True,
        "ncols": 100,
        "file": _LineLog(sys.stdout),
    }
    line_options.update(options)
    return tqdm(*args, **line_options)


def say(message: str) -> None:
    """Print a line that is seen at once, also through a pipe."""
    print(message, flush=True)
