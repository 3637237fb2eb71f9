"""Embeddings as rows in files: read by range or by row number, never all at once."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from eager_llm.core.errors import UserError
from eager_llm.core.files import reading

PART_ROWS = 1 << 16
MOST_PARTS = 256


class Shards:
    """The embedding of one source, float [rows, dim], in one array or in any number of .npy files.

    Files are memory-mapped, so that a worker holds only the rows at work; a file of another machine
    is first copied to this one's disk (through fsspec's cache).

    Args:
        parts: an array, or the paths or URIs of .npy files in the order of their rows.
        name: how errors call it.

    Raises:
        UserError: a file is missing, no .npy, not two-dimensional, or of another width.
    """

    def __init__(self, parts: np.ndarray | Sequence[str], name: str) -> None:
        self.name = name
        self._parts = parts
        sizes = [len(array) for array in self._arrays]
        self._bounds = np.cumsum([0, *sizes])
        widths = {array.shape[1] for array in self._arrays}
        if len(widths) > 1:
            raise UserError(
                f"{name} embedding: its files have rows of {sorted(widths)} numbers; expected one width"
            )
        self.rows, self.dim = int(self._bounds[-1]), widths.pop()

    @classmethod
    def find(cls, where: str | Path | np.ndarray, name: str) -> "Shards":
        """Open an array, a file, or all files of a pattern such as s3://bucket/semantic/*.npy."""
        if isinstance(where, np.ndarray):
            return cls(where, name)
        import fsspec

        with reading(str(where), f"the {name} embedding"):
            files, _, paths = fsspec.get_fs_token_paths(str(where))
            found = sorted(path for path in paths if files.exists(path))
        if not found:
            raise UserError(f"{name} embedding: there is no {where}")
        return cls([files.unstrip_protocol(path) for path in found], name)

    def __getstate__(self) -> dict:
        state = dict(self.__dict__)
        state.pop("_arrays", None)  # a worker opens the files itself
        return state

    @cached_property
    def _arrays(self) -> list[np.ndarray]:
        if isinstance(self._parts, np.ndarray):
            return [_two_dimensional(self._parts, self.name)]
        return [_two_dimensional(_map(uri, self.name), uri) for uri in self._parts]

    @cached_property
    def parts(self) -> list[tuple[int, int]]:
        """The ranges of rows that are worked on at a time; the same for any number of workers."""
        size = max(PART_ROWS, -(-self.rows // MOST_PARTS))
        return [(start, min(start + size, self.rows)) for start in range(0, self.rows, size)]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop; without a copy where they lie in one file."""
        first = int(np.searchsorted(self._bounds, start, side="right")) - 1
        pieces = []
        while start < stop:
            here = min(stop, int(self._bounds[first + 1]))
            offset = int(self._bounds[first])
            pieces.append(self._arrays[first][start - offset : here - offset])
            start, first = here, first + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the given rows, float32 [len(rows), dim], in that order."""
        if len(self._arrays) == 1:
            return self._arrays[0].take(rows, axis=0).astype(np.float32, copy=False)
        result = np.empty((len(rows), self.dim), dtype=np.float32)
        shard = np.searchsorted(self._bounds, rows, side="right") - 1
        for number in np.unique(shard):
            inside = np.flatnonzero(shard == number)
            result[inside] = self._arrays[number][rows[inside] - self._bounds[number]]
        return result


def _map(uri: str, name: str) -> np.ndarray:
    import fsspec

    with reading(uri, f"the {name} embedding"):
        local = fsspec.open_local(uri if uri.startswith("file:") else f"simplecache::{uri}")
    try:
        # Mapped for private writing: never written, but torch wants its memory writable.
        return np.load(local, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{name} embedding: {uri}: not readable as .npy: {error}") from None


def _two_dimensional(array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind != "f":
        raise UserError(
            f"{where}: an embedding is float [rows, dim]; this is {array.dtype} {list(array.shape)}"
        )
    return array
