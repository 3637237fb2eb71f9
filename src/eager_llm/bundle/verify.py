"""Verification of a bundle by the checksum of every file."""

from pathlib import Path, PurePosixPath
from typing import Any

from eager_llm.bundle.layout import EARLIER_VERSION, MANIFEST, SCHEMA_VERSION, read_manifest
from eager_llm.core.errors import UserError
from eager_llm.core.files import sha256_file

# A bundle may fill a volume, whose file system keeps this folder.
FILE_SYSTEMS_OWN = "lost+found"


def verify_bundle(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle whose every file is as it was packed.

    Raises:
        UserError: there is no bundle, it has another schema version, or a file is missing, changed
            or added; the file is named.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: no {MANIFEST} there; a bundle is made by: eager-llm run")
    manifest = read_manifest(folder)
    version = manifest.get("schema_version")
    if version not in (EARLIER_VERSION, SCHEMA_VERSION):
        raise UserError(
            f"{folder}: bundle schema version {version!r}; "
            f"this release reads {SCHEMA_VERSION} and {EARLIER_VERSION}"
        )
    faults = bundle_faults(folder)
    if faults:
        raise UserError(f"{folder}: the bundle is refused:\n  " + "\n  ".join(faults))
    return manifest


def bundle_faults(folder: Path) -> list[str]:
    """Return everything of a bundle that is missing, changed or added, by its manifest.

    Raises:
        UserError: the manifest does not say which files there are.
    """
    files = _listed_files(folder)
    listed = set(files)
    present = set(packed_files(folder))
    faults = _strange_entries(folder, listed)
    faults += [f"{name} is missing" for name in sorted(listed - present)]
    faults += [f"{name} is not in the manifest" for name in sorted(present - listed)]
    for name in sorted(listed & present):
        if sha256_file(folder / name) != files[name]:
            faults.append(f"{name} has changed since it was packed")
    return faults


def packed_files(folder: Path) -> list[str]:
    """Return the sorted names of a bundle's files but the manifest, relative to its folder."""
    names: list[str] = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            names.append(name)
    return sorted(names)


def _listed_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that the manifest lists."""
    files = read_manifest(folder).get("files")
    if not isinstance(files, dict):
        raise UserError(
            f'{folder / MANIFEST}: no "files", with the SHA-256 of each; pack the bundle again'
        )
    digests: dict[str, str] = {}
    for name, entry in files.items():
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if not isinstance(digest, str):
            raise UserError(
                f'{folder / MANIFEST}: "files": {name!r} has no "sha256"; pack the bundle again'
            )
        digests[name] = digest
    return digests


def _strange_entries(folder: Path, listed: set[str]) -> list[str]:
    """Return what a list of files does not see: linked, unlisted folders, and what is no file.

    A loader would open them all the same.
    """
    folders: set[str] = set()
    for name in listed:
        folders.update(str(parent) for parent in PurePosixPath(name).parents)
    faults: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and path.is_symlink():
            faults.append(f"{name} is a link to a folder; a bundle holds its folders itself")
        elif path.is_dir() and name not in folders and name != FILE_SYSTEMS_OWN:
            faults.append(f"{name} is a folder that is not in the manifest")
        elif not path.is_dir() and not path.is_file():
            faults.append(f"{name} is neither a file nor a folder")
    return faults
