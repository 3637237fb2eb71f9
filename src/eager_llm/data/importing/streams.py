"""Files as streams of bytes, through gzip, and Arrow streams whose errors stay in their own words."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from eager_llm.core.errors import UserError

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
BLOCK = 8 << 20
LONGEST_LINE = 64 << 20
LONGEST_FIRST_LINE = 1 << 20
# Rows of an Arrow batch.
BATCH_ROWS = 20_000
GZIP_MAGIC = b"\x1f\x8b"
GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


class Stream:
    """An Arrow reader that keeps its error for `check`: an engine in between would reword it.

    Attributes:
        reader: yields the batches, once.
    """

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


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for its bytes, through gzip where it is compressed."""
    if _is_compressed(path):
        return cast(BinaryIO, gzip.open(path))
    return path.open("rb")


def blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, through gzip where it is compressed.

    Raises:
        UserError: compressed data is cut off or broken.
    """
    try:
        with open_bytes(path) as handle:
            while block := handle.read(BLOCK):
                yield block
    except GZIP_ERRORS as error:
        raise UserError(
            f"{path}: the compressed data is cut off or broken ({error}); fetch the file again"
        ) from None


def require_whole(path: Path) -> None:
    """Raise UserError where a file is empty, or compressed and cut off."""
    require_content(path)
    if _is_compressed(path):
        for _ in blocks(path):
            pass


def require_content(path: Path) -> None:
    """Raise UserError where a file is empty."""
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")


def first_line(path: Path) -> str:
    """Return a file's first line that is not blank, at most a megabyte of it.

    It is empty where compressed data is broken: whoever reads the file says so.
    """
    try:
        with open_bytes(path) as handle:
            while line := handle.readline(LONGEST_FIRST_LINE):
                if line.strip():
                    return line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    except GZIP_ERRORS:
        pass
    return ""


def json_keys(path: Path) -> set[str]:
    """Return the keys of the object in a file's first line; none where there is no object."""
    try:
        row = json.loads(first_line(path))
    except (json.JSONDecodeError, RecursionError):
        return set()
    return set(row) if isinstance(row, dict) else set()


def not_utf8_byte(data: bytes, offset: int) -> str:
    """Name a byte that is not UTF-8, with what stands around it."""
    near = data[max(0, offset - 30) : offset + 10].decode("utf-8", errors="replace")
    return (
        f"byte 0x{data[offset]:02x} is not UTF-8, near {near!r}; "
        "save the file as UTF-8 and import it again"
    )
