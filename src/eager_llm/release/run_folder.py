"""What a run's folder keeps from refresh to refresh: the accepted log, and the bundles."""

import shutil
from pathlib import Path

from eager_llm.core.errors import UserError
from eager_llm.core.files import copy_into, whole_folder
from eager_llm.data.tables import metadata_file

REFRESHES = "refreshes"
# What earlier versions call the folder of the refreshes.
EARLIER_REFRESHES = "nights"


class RunFolder:
    """The folder of a run, as `eager-llm run` and `eager-llm refresh` leave it.

    Attributes:
        tables: the validated log that was accepted last.
        bundle: the running bundle.
        candidate: the bundle that is tried beside it, until it is promoted or rolled back.
        previous: the bundle that was running before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables = folder / "tables"
        self.bundle = folder / "bundle"
        self.candidate = folder / "candidate"
        self.previous = folder / "before"

    @property
    def accepted(self) -> Path | None:
        """The accepted log, or None before the first refresh."""
        return self.tables if metadata_file(self.tables).is_file() else None

    @property
    def running(self) -> Path | None:
        """The running bundle, or None before the first refresh."""
        return self.bundle if (self.bundle / "manifest.json").is_file() else None

    def accept(self, tables: Path) -> None:
        """Take validated tables as the log that the next refresh adds to."""
        _replace(self.tables, tables)

    def add_candidate(self, bundle: Path) -> None:
        """Put a bundle beside the running one; it replaces an earlier candidate."""
        _replace(self.candidate, bundle)

    def promote(self) -> None:
        """Let the candidate run; the bundle that was running is kept as the previous one.

        Raises:
            UserError: there is no candidate.
        """
        if not self.candidate.is_dir():
            raise UserError(
                f"{self.candidate}: no candidate there; it is made by: eager-llm refresh"
            )
        if self.running:
            _replace(self.previous, self.bundle)
        _replace(self.bundle, self.candidate)
        shutil.rmtree(self.candidate)

    def roll_back(self) -> str:
        """Drop the candidate, or, where there is none, let the previous bundle run again.

        Returns:
            `candidate` or `running`: which bundle went.

        Raises:
            UserError: there is neither.
        """
        if self.candidate.is_dir():
            shutil.rmtree(self.candidate)
            return "candidate"
        if not self.previous.is_dir():
            raise UserError(
                f"{self.folder}: neither a candidate nor a bundle before the running one is there"
            )
        _replace(self.bundle, self.previous)
        shutil.rmtree(self.previous)
        return "running"

    def next_refresh(self) -> Path:
        """Return the folder for the next refresh's reports, numbered from 1; not created yet."""
        numbers = [0]
        for name in (REFRESHES, EARLIER_REFRESHES):
            numbers += _numbers(self.folder / name)
        return self.folder / REFRESHES / f"{max(numbers) + 1:04d}"


def _numbers(folder: Path) -> list[int]:
    """Return the numbers that folders inside this one are named by."""
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


def _replace(target: Path, source: Path) -> None:
    """Copy a folder into the place of another, whole or not at all."""
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    with whole_folder(target) as draft:
        copy_into(source, draft)
