"""What a build has finished, on disk, so that one that was cut off goes on where it was."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from eager_llm.core.files import whole_file
from eager_llm.index.shards import Shards
from eager_llm.settings import IndexSettings

State = dict[str, np.ndarray]


class BuildCheckpoint:
    """Named states of arrays in a folder; without a folder nothing is stored.

    Args:
        folder: where the builds that were cut off are stored.
        key: names this build, see `build_key`; another key never sees its states.
    """

    def __init__(
        self,
        folder: Path | None = None,
        key: str = "",
    ) -> None:
        self.folder = folder / key if folder else None

    def load(self, name: str) -> State | None:
        """Return what was saved under a name, or None."""
        if self.folder is None:
            return None
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def save(
        self,
        name: str,
        state: State,
    ) -> None:
        """Store arrays under a name, whole or not at all."""
        if self.folder is None:
            return
        path = self.folder / f"{name}.npz"
        with whole_file(path) as draft, draft.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **state)

    def finish(self) -> None:
        """Delete all states: what the build was for is saved elsewhere."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def build_key(
    sources: dict[str, Shards],
    settings: IndexSettings,
    seed: int,
) -> str:
    """Name a build by what it depends on, which the number of workers is not part of.

    The first row of each range stands for the whole range: reading all rows would cost as much as
    an iteration.
    """
    metadata = settings.model_dump(mode="json")
    metadata.update({"workers": None, "seed": seed})
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for source, shards in sources.items():
        digest.update(f"{source} {shards.rows} {shards.dim}".encode())
        for start, _ in shards.row_ranges:
            first_row = shards.read(start, start + 1)
            digest.update(first_row.tobytes())
    return digest.hexdigest()[:16]
