"""Writing outputs whole or not at all, and naming them by their content."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
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
    for file in sorted(path.rglob("*")):
        if not file.is_file():
            continue
        name = file.relative_to(path).as_posix()
        digest.update(f"{name}\0{sha256_file(file)}\n".encode())
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


def copy_into(source: Path, target: Path) -> None:
    """Copy a folder, sharing the bytes by hard links where the file system allows it."""
    shutil.copytree(source, target, copy_function=_link_or_copy, dirs_exist_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    with whole_file(target) as draft:
        draft.write_text(f"{text}\n", encoding="utf-8")


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

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Build one object of the file."""
        return _unique_keys(path, pairs)

    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: the JSON is nested too deeply") from None


def not_utf8(path: Path, data: bytes, offset: int) -> UserError:
    """Return the error for a byte that is not UTF-8; it names the line.

    Args:
        path: the file.
        data: its bytes.
        offset: place of the byte among them, from 0.
    """
    line = data.count(b"\n", 0, offset) + 1
    start = max(0, offset - 30)
    excerpt = data[start : offset + 10].decode("utf-8", errors="replace")
    return UserError(
        f"{path}: line {line}: byte 0x{data[offset]:02x} is not UTF-8, near {excerpt!r}; "
        "save the file as UTF-8 and import it again"
    )


def _unique_keys(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a key that appears twice (json keeps the last in silence)."""
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            break
        keys.add(key)
    raise UserError(f"{path}: the id {key!r} appears twice; ids must be unique")


def _link_or_copy(source: str, target: str) -> str:
    """Make a hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
