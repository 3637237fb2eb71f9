"""Embeddings as rows in files: read by range or by row number, never all at once."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eager_llm.core.errors import UserError
from eager_llm.core.stores import store_errors

# Rows that are worked on at a time, unless that made more ranges than MAX_RANGES.
RANGE_ROWS = 1 << 16
MAX_RANGES = 256


class Shards:
    """The embedding of one source, float [rows, dim], in one array or in any number of .npy files.

    Files are memory-mapped, so that a worker holds only the rows that it works on. A file of
    another machine is first copied to this one's disk (through fsspec's cache).

    Args:
        content: an array, or the paths or URIs of .npy files in the order of their rows.
        name: the source, as errors call it.

    Raises:
        UserError: a file is missing, no .npy, not two-dimensional, or of another width.
    """

    def __init__(
        self,
        content: np.ndarray | Sequence[str],
        name: str,
    ) -> None:
        self.name = name
        self._content = content
        sizes = [0]
        widths = set()
        for array in self._arrays:
            sizes.append(len(array))
            widths.add(array.shape[1])
        self._bounds = np.cumsum(sizes)
        if len(widths) > 1:
            raise UserError(
                f"{name} embedding: its files have rows of {sorted(widths)} numbers; "
                "expected one width"
            )
        self.rows = int(self._bounds[-1])
        self.dim = widths.pop()

    @classmethod
    def open(
        cls,
        location: str | Path | np.ndarray,
        name: str,
    ) -> "Shards":
        """Open an array, a file, or all files of a pattern such as s3://bucket/semantic/*.npy.

        Raises:
            UserError: there is no such file, or one is not readable as an embedding.
        """
        if isinstance(location, np.ndarray):
            return cls(location, name)
        import fsspec

        with store_errors(str(location), f"the {name} embedding"):
            files, _, paths = fsspec.get_fs_token_paths(str(location))
            existing = sorted(filter(files.exists, paths))
        if not existing:
            raise UserError(f"{name} embedding: there is no {location}")
        uris = [files.unstrip_protocol(path) for path in existing]
        return cls(uris, name)

    def __getstate__(self) -> dict:
        state = dict(self.__dict__)
        state.pop("_arrays", None)  # a worker opens the files itself
        return state

    @cached_property
    def _arrays(self) -> list[np.ndarray]:
        """The arrays that hold the rows, one a file."""
        if isinstance(self._content, np.ndarray):
            return [_two_dimensional(self._content, self.name)]
        arrays = []
        for uri in self._content:
            array = _map_file(uri, self.name)
            arrays.append(_two_dimensional(array, uri))
        return arrays

    @cached_property
    def row_ranges(self) -> list[tuple[int, int]]:
        """The ranges of rows that are worked on at a time; the same for any number of workers."""
        size = max(RANGE_ROWS, -(-self.rows // MAX_RANGES))
        ranges = []
        for start in range(0, self.rows, size):
            stop = min(start + size, self.rows)
            ranges.append((start, stop))
        return ranges

    def read(
        self,
        start: int,
        stop: int,
    ) -> np.ndarray:
        """Return rows start to stop, [stop - start, dim]; no copy where they lie in one file."""
        shard = self._shard_of(start)
        pieces = []
        while start < stop:
            offset = int(self._bounds[shard])
            shard_end = int(self._bounds[shard + 1])
            end = min(stop, shard_end)
            array = self._arrays[shard]
            pieces.append(array[start - offset : end - offset])
            start = end
            shard += 1
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of some numbers, float32 [len(rows), dim], in that order."""
        if len(self._arrays) == 1:
            points = self._arrays[0].take(rows, axis=0)
            return points.astype(np.float32, copy=False)
        result = np.empty((len(rows), self.dim), dtype=np.float32)
        shard_of_row = self._shard_of(rows)
        for shard in np.unique(shard_of_row):
            inside = np.flatnonzero(shard_of_row == shard)
            local_rows = rows[inside] - self._bounds[shard]
            array = self._arrays[shard]
            result[inside] = array[local_rows]
        return result

    def _shard_of(self, rows: Any) -> Any:
        """Return the number of the array that holds a row, or of those that hold rows."""
        return np.searchsorted(self._bounds, rows, side="right") - 1


def _map_file(uri: str, name: str) -> np.ndarray:
    """Return the array of a .npy file, memory-mapped."""
    import fsspec

    with store_errors(uri, f"the {name} embedding"):
        url = uri if uri.startswith("file:") else f"simplecache::{uri}"
        local = fsspec.open_local(url)
    try:
        # Mapped for private writing: nothing writes, but torch expects writable memory.
        return np.load(local, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{name} embedding: {uri}: not readable as .npy: {error}") from None


def _two_dimensional(array: np.ndarray, location: str) -> np.ndarray:
    """Return an array that is an embedding; raise UserError for any other."""
    has_columns = array.ndim == 2 and array.shape[1] > 0
    if not has_columns or array.dtype.kind != "f":
        raise UserError(
            f"{location}: an embedding is float [rows, dim]; "
            f"this is {array.dtype} {list(array.shape)}"
        )
    return array
