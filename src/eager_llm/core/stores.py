"""Folders in object stores and other places that fsspec reads, by their URI."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_folder


def in_store(location: str) -> bool:
    """Return whether this is a URI that fsspec reads, such as s3://bucket/folder.

    A path or the URL of a database is none.
    """
    import fsspec

    scheme, separator, _ = location.partition("://")
    return bool(separator) and scheme in fsspec.available_protocols()


@contextmanager
def store_errors(location: str, content: str) -> Iterator[None]:
    """Turn whatever goes wrong with a store's files into one message.

    Args:
        location: the URI.
        content: what is read there, in words.

    Raises:
        UserError: the store is away, refuses, holds nothing there, or its scheme needs a package
            that is missing; `location` is named.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Every store's package has errors of its own, without a class in common.
        reason = str(error).strip() or type(error).__name__
        raise UserError(f"{location}: {content} cannot be read: {reason}") from None


def store_digest(location: str) -> str:
    """Return one SHA-256 over the names, sizes and marks of change of all files below a URI.

    Raises:
        UserError: as `store_errors`.
    """
    import fsspec

    marks = {}
    with store_errors(location, "the folder"):
        system, path = fsspec.core.url_to_fs(location)
        files = system.find(path, detail=True)
        for name, metadata in sorted(files.items()):
            marks[name] = [metadata["size"], system.ukey(name)]
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()


def fetch_folder(location: str, folder: Path, content: str) -> Path:
    """Copy all files below a URI into `folder`, whole or not at all, and return it.

    Args:
        location: the URI.
        folder: where the files go; it replaces what is there.
        content: what is fetched, in words.

    Raises:
        UserError: as `store_errors`.
    """
    import fsspec

    with store_errors(location, content):
        system, path = fsspec.core.url_to_fs(location)
        files = system.find(path)
        if not files:
            raise FileNotFoundError("nothing is there")
        prefix = len(system._strip_protocol(path))
        with whole_folder(folder) as draft:
            for file in files:
                target = draft / file[prefix:].lstrip("/")
                if not target.resolve().is_relative_to(draft.resolve()):
                    raise ValueError(f"{file} would be written outside of its folder")
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(file, str(target))
    return folder


def upload_files(files: Iterable[tuple[str, Path]], location: str) -> None:
    """Copy files, in this order, to their names below a URI.

    Args:
        files: each file's name there, and its path here; an empty name is the URI itself.
        location: the URI.

    Raises:
        UserError: the store is away, refuses, or its scheme needs a package that is missing;
            `location` is named.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(location)
        for name, file in files:
            target = f"{path}/{name}".rstrip("/")
            parent = target.rsplit("/", 1)[0]
            system.makedirs(parent, exist_ok=True)
            system.put_file(str(file), target)
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"{location}: cannot be written: {error}") from None
