"""JSON lines, and event topics as JSON lines: bounded memory, exact line numbers."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from eager_llm.core.duckdb_engine import list_literal, literal
from eager_llm.core.errors import UserError
from eager_llm.data.attributes import ALL_COLUMNS, json_path
from eager_llm.data.importing.relation import STREAM_VIEW, FileReader, Relation
from eager_llm.data.importing.streams import (
    BATCH_ROWS,
    LONGEST_LINE,
    Stream,
    blocks,
    not_utf8_byte,
    require_content,
)

# `broken`: why the line is not readable, or null.
LINES = pa.schema([("row", pa.int64()), ("line", pa.string()), ("broken", pa.string())])
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# An export tool writes the payload as an object, or as text that holds one.
TOPIC_PAYLOAD = (
    "coalesce(json_extract_string(line, '$.payload'), json_extract_string(line, '$.value'))"
)
# A record's own time, where the payload has none.
TOPIC_TIMES = ("json_extract_string(line, '$.ts')", "json_extract_string(line, '$.timestamp')")
BROKEN = (
    "CASE WHEN broken IS NOT NULL THEN broken "
    "WHEN whole AND v IS NULL THEN 'the record has no JSON payload' "
    "WHEN whole THEN NULL "
    "WHEN ltrim(line)[1] <> '{' THEN 'expected an object, found ' || line[:40] "
    "ELSE 'not valid JSON, near ' || line[:60] END"
)


class JsonReader(FileReader):
    """Reads a file of JSON lines; of an event topic the payloads of its records."""

    def open(self, numbered: bool = False) -> Relation:
        """Return the relation; see `Reader.open`."""
        require_content(self.file)
        stream = json_lines(self.file)
        self.connection.register(STREAM_VIEW, stream.reader)
        paths, cells = self._cells()
        source = self._source(paths)
        sql = self.select(cells, source, "row", "others", BROKEN)
        return Relation(sql, self.origin, stream=stream)

    @property
    def _is_topic(self) -> bool:
        return self.source_table.kind == "topic"

    def _cells(self) -> tuple[list[str], dict[str, str]]:
        """Return the JSON paths to extract into the list `v`, and our field → SQL of its cell."""
        paths: list[str] = []
        cells = {}
        fields = self.source_table.columns
        for field_name, alternatives in fields.items():
            values = []
            for column in alternatives:
                for path in _column_paths(column):
                    paths.append(path)
                    values.append(f"v[{len(paths)}]")
            if self._is_topic and field_name == "timestamp":
                values += TOPIC_TIMES
            cell = values[0]
            if len(values) > 1:
                cell = f"coalesce({', '.join(values)})"
            cells[field_name] = cell
        return paths, cells

    def _source(self, paths: list[str]) -> str:
        """Return SQL of `row`, `line`, `broken`, `whole` (it is an object), `others` and `v`."""
        inside = TOPIC_PAYLOAD if self._is_topic else "line"
        readable = "whole AND json_valid(inside)"
        return (
            f"(SELECT row, line, broken, whole, "
            f"CASE WHEN {readable} THEN {self._attributes()} END AS others, "
            f"CASE WHEN {readable} THEN json_extract_string(inside, {list_literal(paths)}) END AS v "
            f"FROM (SELECT *, CASE WHEN whole THEN {inside} END AS inside "
            "FROM (SELECT *, broken IS NULL AND ltrim(line)[1] = '{' AND json_valid(line) "
            f"AS whole FROM {STREAM_VIEW})))"
        )

    def _attributes(self) -> str:
        """Return SQL of the object of attributes."""
        attributes = self.source_table.attributes
        if attributes == ALL_COLUMNS:
            return "inside"
        pairs = []
        for key in attributes:
            pairs.append(literal(key))
            pairs.append(f"json_extract(inside, {json_path(key)})")
        return f"CAST(json_object({', '.join(pairs)}) AS VARCHAR)"


def _column_paths(column: str) -> list[str]:
    """Return the JSON paths of a column: the key itself, and, where it has dots, a level a dot."""
    key = f'$."{column}"'
    if "." not in column:
        return [key]
    levels = column.replace(".", '"."')
    return [key, f'$."{levels}"']


def json_lines(path: Path) -> Stream:
    """Stream `row`, `line` and `broken` of a file's lines; blank lines are left out."""
    return Stream(LINES, _line_batches(path))


def _line_batches(path: Path) -> Iterator[pa.RecordBatch]:
    earlier_lines = 0
    tail = b""
    for block in blocks(path):
        lines = (tail + block).split(b"\n")
        tail = lines.pop()
        if len(tail) > LONGEST_LINE:
            number = earlier_lines + len(lines) + 1
            raise UserError(
                f"{path}: line {number}: longer than {LONGEST_LINE >> 20} MiB; is this JSON lines?"
            )
        yield from _batches(lines, earlier_lines)
        earlier_lines += len(lines)
    if tail:
        yield from _batches([tail], earlier_lines)


def _batches(lines: list[bytes], earlier_lines: int) -> Iterator[pa.RecordBatch]:
    """Decode lines; one that is not UTF-8 is told by its first such byte."""
    numbers: list[int] = []
    texts: list[str | None] = []
    faults: list[str | None] = []
    for number, line in enumerate(lines, start=earlier_lines + 1):
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        if not line or line.isspace():
            continue
        numbers.append(number)
        try:
            texts.append(line.decode())
            faults.append(None)
        except UnicodeDecodeError as error:
            texts.append(None)
            faults.append(not_utf8_byte(line, error.start))
        if len(numbers) == BATCH_ROWS:
            yield _batch(numbers, texts, faults)
            numbers, texts, faults = [], [], []
    if numbers:
        yield _batch(numbers, texts, faults)


def _batch(numbers: list[int], texts: list[str | None], faults: list[str | None]) -> pa.RecordBatch:
    """Return lines as a batch of `LINES`."""
    columns = [numbers, texts, faults]
    return pa.record_batch(columns, schema=LINES)
