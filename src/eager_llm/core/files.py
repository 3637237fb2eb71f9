"""Writing outputs whole or not at all, and naming them by their content."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eager_llm.core.errors import UserError


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """Return one SHA-256 over a file, or over every file's relative name and bytes of a folder."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `target` only if the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    draft.chmod(0o755)
    try:
        yield draft
        if target.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            os.replace(target, retired / target.name)
            os.replace(draft, target)
            shutil.rmtree(retired)
        else:
            os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` that replaces it only if the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    os.close(handle)
    draft = Path(name)
    draft.chmod(0o644)
    try:
        yield draft
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    with whole_file(target) as draft:
        draft.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, empty, not UTF-8, not JSON, or repeats a key; it is named,
            with the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise not_utf8(path, path.read_bytes(), error.start) from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty; expected JSON")
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique_keys(path, pairs))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: the JSON is nested too deeply") from None


def not_utf8(path: Path, data: bytes, offset: int) -> UserError:
    """Say at which line of `data`, the bytes of `path`, a byte is not UTF-8."""
    line = data.count(b"\n", 0, offset) + 1
    near = data[max(0, offset - 30) : offset + 10].decode("utf-8", errors="replace")
    return UserError(
        f"{path}: line {line}: byte 0x{data[offset]:02x} is not UTF-8, near {near!r}; "
        "save the file as UTF-8 and import it again"
    )


def _unique_keys(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a key that appears twice (json keeps the last in silence)."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise UserError(f"{path}: the id {twice!r} appears twice; ids must be unique")
    return result


@contextmanager
def reading(place: str, what: str) -> Iterator[None]:
    """Turn whatever goes wrong with a store's files into one message.

    Raises:
        UserError: the store is away, refuses, holds nothing there, or its scheme needs a package that is missing;
            `place` is named.
    """
    try:
        yield
    except UserError:
        raise
    except (
        Exception
    ) as error:  # every store's package has errors of its own, without a class in common
        said = str(error).strip() or type(error).__name__
        raise UserError(f"{place}: {what} cannot be read: {said}") from None


def in_store(place: str) -> bool:
    """Whether this is a URI that fsspec reads, such as s3://bucket/folder, and no path or database."""
    import fsspec

    scheme, separator, _ = place.partition("://")
    return bool(separator) and scheme in fsspec.available_protocols()


def store_digest(place: str) -> str:
    """Return one SHA-256 over the names, sizes and marks of change of all files below an fsspec URI.

    Raises:
        UserError: as `reading`.
    """
    import fsspec

    with reading(place, "the folder"):
        system, path = fsspec.core.url_to_fs(place)
        files = system.find(path, detail=True)
        marks = {
            name: [metadata["size"], system.ukey(name)] for name, metadata in sorted(files.items())
        }
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()


def fetch_folder(place: str, folder: Path, what: str) -> Path:
    """Copy all files below an fsspec URI into `folder`, whole or not at all, and return it.

    Raises:
        UserError: as `reading`.
    """
    import fsspec

    with reading(place, what):
        system, path = fsspec.core.url_to_fs(place)
        files = system.find(path)
        if not files:
            raise FileNotFoundError("nothing is there")
        with whole_folder(folder) as draft:
            for file in files:
                target = draft / file[len(system._strip_protocol(path)) :].lstrip("/")
                if not target.resolve().is_relative_to(draft.resolve()):
                    raise ValueError(f"{file} would be written outside of its folder")
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(file, str(target))
    return folder


def send(files: Iterable[tuple[str, Path]], place: str) -> None:
    """Copy files, in this order, to their names below an fsspec URI; an empty name is the URI itself.

    Raises:
        UserError: the store is away, refuses, or its scheme needs a package that is missing; `place` is named.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(place)
        for name, file in files:
            target = f"{path}/{name}".rstrip("/")
            system.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            system.put_file(str(file), target)
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"{place}: cannot be written: {error}") from None


def copy_into(source: Path, target: Path) -> None:
    """Copy a folder, sharing the bytes by hard links where the file system allows it."""

    def link(src: str, dst: str) -> str:
        try:
            os.link(src, dst)
        except OSError:
            shutil.copy2(src, dst)
        return dst

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
