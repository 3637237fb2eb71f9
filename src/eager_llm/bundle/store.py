"""Bundles in folders and object stores: copied there under their version, and fetched again."""

from pathlib import Path

from eager_llm.bundle.layout import MANIFEST, read_manifest
from eager_llm.bundle.verify import verify_bundle
from eager_llm.core.files import copy_into, sha256_file, whole_folder
from eager_llm.core.stores import fetch_folder, upload_files


def fetch_bundle(location: str, folder: Path) -> Path:
    """Return the folder of a bundle by its path or fsspec URI.

    Args:
        folder: a bundle in an object store is copied there.

    Raises:
        UserError: the location holds nothing, or its scheme needs a package that is missing.
    """
    if "://" not in location:
        return Path(location)
    return fetch_folder(location, folder, "the bundle")


def version_name(folder: Path) -> str:
    """Return what a bundle is called where several lie side by side: its day and its version."""
    day = read_manifest(folder)["packed_at"][:10]
    return f"{day}-{manifest_digest(folder)}"


def manifest_digest(folder: Path) -> str:
    """Return a bundle's version: the first 12 characters of its manifest's SHA-256."""
    return sha256_file(folder / MANIFEST)[:12]


def store_bundle(folder: Path, store: str) -> str:
    """Copy a bundle below a folder or fsspec URI under its `version_name`, which is returned.

    The manifest is written last: without it nothing takes an unfinished copy for a bundle.

    Raises:
        UserError: the bundle is refused, or the store cannot be written.
    """
    manifest = verify_bundle(folder)
    version = version_name(folder)
    if "://" not in store:
        with whole_folder(Path(store) / version) as draft:
            copy_into(folder, draft)
        return version
    files = [(name, folder / name) for name in [*manifest["files"], MANIFEST]]
    upload_files(files, f"{store.rstrip('/')}/{version}")
    return version
