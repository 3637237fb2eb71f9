"""Verification of a bundle by the checksum of every file."""

from pathlib import Path
from typing import Any

from eager_llm.bundle.layout import EARLIER_VERSION, MANIFEST, SCHEMA_VERSION, read_manifest
from eager_llm.core.errors import UserError
from eager_llm.core.files import sha256_file


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
    """Return every file of a bundle that is missing, changed or added, by its manifest."""
    files = read_manifest(folder)["files"]
    listed = set(files)
    present = set(packed_files(folder))
    faults = [f"{name} is missing" for name in sorted(listed - present)]
    faults += [f"{name} is not in the manifest" for name in sorted(present - listed)]
    for name in sorted(listed & present):
        if sha256_file(folder / name) != files[name]["sha256"]:
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
