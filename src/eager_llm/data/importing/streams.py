"""JSON lines and database rows as streams of Arrow batches: bounded memory, exact row numbers."""

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from eager_llm.core.errors import UserError

BLOCK = 8 << 20
LONGEST_LINE = 64 << 20
ROWS = 20_000
LINES = pa.schema([("row", pa.int64()), ("line", pa.string()), ("broken", pa.string())])


class Stream:
    """An Arrow reader whose mistakes are kept for `check`: an engine in between would reword them."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._error: Exception | None = None
        self.reader = pa.RecordBatchReader.from_batches(schema, self._guarded())

    def _guarded(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except Exception as error:  # kept, and raised by check
            self._error = error

    def check(self) -> None:
        """Raise what went wrong while the stream was read."""
        if self._error is not None:
            raise self._error


def opened(path: Path) -> BinaryIO:
    """Open a file for its bytes, through gzip where it is compressed."""
    with path.open("rb") as handle:
        compressed = handle.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if compressed else path.open("rb")


def blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file. Raises UserError where compressed data is cut off or broken."""
    try:
        with opened(path) as handle:
            while block := handle.read(BLOCK):
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: the compressed data is cut off or broken ({error}); fetch the file again"
        ) from None


def require_whole(path: Path) -> None:
    """Raise UserError where a file is empty, or compressed and cut off."""
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    with path.open("rb") as handle:
        if handle.read(2) != b"\x1f\x8b":
            return
    for _ in blocks(path):
        pass


def first_line(path: Path) -> str:
    """Return a file's first line that is not blank, at most a megabyte of it; empty where it is not text."""
    try:
        with opened(path) as handle:
            for line in iter(lambda: handle.readline(1 << 20), b""):
                if line.strip():
                    return line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        pass  # whoever reads the file says so
    return ""


def json_lines(path: Path) -> Stream:
    """Stream `row`, `line`, `broken` (why the line is not readable, or null); blank lines are left out."""
    return Stream(LINES, _json_lines(path))


def _json_lines(path: Path) -> Iterator[pa.RecordBatch]:
    row, tail = 0, b""
    for block in blocks(path):
        lines = (tail + block).split(b"\n")
        tail = lines.pop()
        if len(tail) > LONGEST_LINE:
            raise UserError(
                f"{path}: line {row + len(lines) + 1}: longer than {LONGEST_LINE >> 20} MiB; is this JSON lines?"
            )
        yield from _batches(lines, row)
        row += len(lines)
    if tail:
        yield from _batches([tail], row)


def _batches(lines: list[bytes], before: int) -> Iterator[pa.RecordBatch]:
    """Decode lines; one that is not UTF-8 is told by its first such byte."""
    numbers, texts, broken = [], [], []
    for number, line in enumerate(lines, start=before + 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line or line.isspace():
            continue
        try:
            text, fault = line.decode(), None
        except UnicodeDecodeError as error:
            text, fault = None, not_utf8_byte(line, error.start)
        numbers.append(number)
        texts.append(text)
        broken.append(fault)
        if len(numbers) == ROWS:
            yield pa.record_batch([numbers, texts, broken], schema=LINES)
            numbers, texts, broken = [], [], []
    if numbers:
        yield pa.record_batch([numbers, texts, broken], schema=LINES)


def not_utf8_byte(data: bytes, offset: int) -> str:
    """Name a byte that is not UTF-8, with what stands around it."""
    near = data[max(0, offset - 30) : offset + 10].decode("utf-8", errors="replace")
    return f"byte 0x{data[offset]:02x} is not UTF-8, near {near!r}; save the file as UTF-8 and import it again"


def database_url(url: str) -> str:
    """Return a database's URL; `env:NAME` reads it from a variable, so that it stands in no file.

    Raises:
        UserError: the variable is not set.
    """
    if not url.startswith("env:"):
        return url
    found = os.environ.get(url[4:])
    if not found:
        raise UserError(f"{url}: the variable {url[4:]} is not set; it holds the database's URL")
    return found


def query_rows(url: str, query: str) -> tuple[Stream, list[str]]:
    """Stream the rows of a query as text, with `row`; and the query's columns.

    Raises:
        UserError: the database cannot be reached or refuses the query.
    """
    import sqlalchemy

    try:
        database = sqlalchemy.create_engine(database_url(url))
        file = database.url.database if database.dialect.name == "sqlite" else None
        if file and file != ":memory:" and not Path(file).is_file():  # SQLite would make one
            raise UserError(f"{file}: no such database")
        connection = database.connect().execution_options(stream_results=True, yield_per=ROWS)
        result = connection.execute(sqlalchemy.text(query))
        columns = list(result.keys())
    except ImportError as error:
        raise UserError(f"the database's driver is not installed: {error}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise UserError(
            f"the database does not answer: {str(error).splitlines()[0]}\n  query: {query}"
        ) from None
    schema = pa.schema([("row", pa.int64()), *((name, pa.string()) for name in columns)])

    def batches() -> Iterator[pa.RecordBatch]:
        row = 0
        try:
            for rows in result.partitions(ROWS):
                numbers = range(row + 1, row + 1 + len(rows))
                cells = [[_text(value) for value in column] for column in zip(*rows, strict=True)]
                yield pa.record_batch(
                    [pa.array(numbers, pa.int64()), *(pa.array(c, pa.string()) for c in cells)],
                    schema=schema,
                )
                row += len(rows)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise UserError(
                f"the database stopped after {row} rows: {str(error).splitlines()[0]}"
            ) from None
        finally:
            connection.close()
            database.dispose()

    return Stream(schema, batches()), columns


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).decode("utf-8", errors="replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
