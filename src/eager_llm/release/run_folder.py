"""What stands from night to night in a run's folder: the accepted log, the running bundle, and those beside it."""

import shutil
from pathlib import Path

from eager_llm.core.errors import UserError
from eager_llm.core.files import copy_into, whole_folder


class RunFolder:
    """The folder of a run, as `eager-llm run` and `eager-llm night` leave it.

    Attributes:
        tables: the validated log that was accepted last.
        bundle: what is running.
        candidate: what is being tried beside it, until it is promoted or taken back.
        before: what was running before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables, self.bundle = folder / "tables", folder / "bundle"
        self.candidate, self.before = folder / "candidate", folder / "before"

    @property
    def accepted(self) -> Path | None:
        """The accepted log, or None on the first night."""
        return self.tables if (self.tables / "facts.json").is_file() else None

    @property
    def running(self) -> Path | None:
        """The running bundle, or None on the first night."""
        return self.bundle if (self.bundle / "manifest.json").is_file() else None

    def accept(self, tables: Path) -> None:
        """Take validated tables as the log that the next night adds to."""
        _place(tables, self.tables)

    def offer(self, bundle: Path) -> None:
        """Put a bundle beside the running one; an earlier candidate goes."""
        _place(bundle, self.candidate)

    def promote(self) -> None:
        """Let the candidate run; what was running is kept as the one before.

        Raises:
            UserError: there is no candidate.
        """
        if not self.candidate.is_dir():
            raise UserError(f"{self.candidate}: no candidate there; it is made by: eager-llm night")
        if self.running:
            _place(self.bundle, self.before)
        _place(self.candidate, self.bundle)
        shutil.rmtree(self.candidate)

    def take_back(self) -> str:
        """Drop the candidate, or, where there is none, let the bundle before run again; return which it was.

        Raises:
            UserError: there is neither.
        """
        if self.candidate.is_dir():
            shutil.rmtree(self.candidate)
            return "candidate"
        if not self.before.is_dir():
            raise UserError(
                f"{self.folder}: neither a candidate nor a bundle before the running one is there"
            )
        _place(self.before, self.bundle)
        shutil.rmtree(self.before)
        return "running"

    def next_refresh(self) -> Path:
        """Return a folder for tonight's reports, numbered from 1; not made yet."""
        nights = self.folder / "nights"
        done = (
            [int(path.name) for path in nights.iterdir() if path.name.isdigit()]
            if nights.is_dir()
            else []
        )
        return nights / f"{max(done, default=0) + 1:04d}"


def _place(source: Path, target: Path) -> None:
    """Copy a folder to a place, whole or not at all."""
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    with whole_folder(target) as draft:
        copy_into(source, draft)
