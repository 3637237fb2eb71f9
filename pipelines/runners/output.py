"""What a person reads of a step: its own lines, without those of kfp's executor."""

import io
import re
from typing import TextIO

EXECUTOR = "[KFP Executor"
INPUTS = "Got executor_input:"
# A line of indented JSON: a bracket, a name or a text, or a number or constant of a list.
JSON_LINE = re.compile(r"""[{}\[\]"]|(-?\d[\d.eE+-]*|true|false|null),?$""")


class StepOutput(io.TextIOBase):
    """A stream that drops what kfp's executor prints for each step: its inputs, in full.

    Args:
        stream: takes the other lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._in_inputs = False
        # Blank lines are held back: they belong to the line that follows.
        self._blank = ""

    def write(self, text: str) -> int:
        """Pass lines on, with the blanks before them, unless they are the executor's own."""
        for line in text.splitlines(keepends=True):
            self._write_line(line)
        return len(text)

    def _write_line(self, text: str) -> None:
        line = text.strip()
        if not line:
            self._blank += text
        elif EXECUTOR in line:
            self._in_inputs = line.endswith(INPUTS)
            self._blank = ""
        elif self._in_inputs and JSON_LINE.match(line):
            self._blank = ""
        else:
            self._stream.write(self._blank + text)
            self._stream.flush()
            self._in_inputs = False
            self._blank = ""
