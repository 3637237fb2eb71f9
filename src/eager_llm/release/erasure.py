"""Erasure: one user out of everything that was made of their log, with a list of what was searched."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from eager_llm.core.duckdb_engine import engine, list_literal, literal
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, whole_file
from eager_llm.features.feast_repository import ONLINE_VARIABLE, SQLITE
from eager_llm.features.feature_store import Features, offline_tables
from eager_llm.features.postgres_store import Warehouse
from eager_llm.release.person_text import (
    SHORTEST_DISTINCT_ID,
    blank_text,
    names_user,
    spellings,
    without_rows,
)

MANIFEST = "manifest.json"
ITEM_INDEX = "item_index.parquet"
RECORD = "erasures.jsonl"
TABLES = (".csv", ".tsv")
# Binary files that the system writes. They hold numbers or pictures, and are searched all the same.
BINARIES = (".npy", ".safetensors", ".pt", ".png", ".db")
LARGEST_TEXT = 256 << 20  # bytes
BLOCK = 16 << 20  # bytes
# The feature store's own files, which are erased through it.
STORES = ("online.db", "registry.db")
USER_HISTORY = "user_history.parquet"
PARQUET_MAGIC = b"PAR1"


@dataclass
class ErasureResult:
    """What was done.

    Attributes:
        searched: every file that was searched, with the rows or places removed.
        online: for each feature store, the keys removed online.
        warehouse: for each table of the warehouse that names users, the rows removed.
        bundles: each bundle whose training data held a user, with when it was packed.
        unreadable: files that could not be searched, or that hold a user still, with the reason.
    """

    searched: dict[Path, int] = field(default_factory=dict)
    online: dict[Path, int] = field(default_factory=dict)
    warehouse: dict[str, int] = field(default_factory=dict)
    bundles: dict[Path, str] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)


def erase(users: list[str], folders: list[Path], repository: Path) -> ErasureResult:
    """Remove users from every table, feature, history and report under some folders.

    They are removed online and from the warehouse, too. Bundles hold no user's data as it was
    logged, but their models were trained on it: those bundles are listed, not changed.

    Args:
        folders: runs, tables and published features; searched to the bottom.
        repository: the feature definitions, for the online stores.

    Raises:
        UserError: a folder is missing, no user is named, or the warehouse does not answer.
    """
    if not users or "" in users:
        raise UserError("name the users to erase")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
    result = ErasureResult()
    # First: if the warehouse does not answer, nothing has been changed yet.
    _erase_from_warehouse(users, folders[0], result)
    files = _files(folders)
    bundles = _bundles(files)
    _erase_from_files(users, files, bundles, result)
    for store in _feature_stores(files, folders[0]):
        result.online[store] = Features(repository, store).erase(users)
    for bundle in bundles:
        if _was_trained_on(users, bundle, folders, result):
            packed_at = _manifest(bundle).get("packed_at", "at an unknown time")
            result.bundles[bundle] = str(packed_at)
    for folder in folders:
        _record(folder, users, result)
    _find_remains(users, _files(folders), result)
    return result


def _erase_from_warehouse(users: list[str], folder: Path, result: ErasureResult) -> None:
    tables = offline_tables(folder)
    if isinstance(tables, Warehouse):
        for table, rows in tables.erase(users).items():
            result.warehouse[f"{tables.location}, table {table}"] = rows


def _files(folders: list[Path]) -> list[Path]:
    """Return all files under the folders but links, sorted, each once."""
    files: set[Path] = set()
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                files.add(path)
    return sorted(files)


def _bundles(files: list[Path]) -> list[Path]:
    """Return the folders that hold a bundle."""
    folders = [file.parent for file in files if file.name == MANIFEST]
    return [folder for folder in folders if (folder / ITEM_INDEX).is_file()]


def _erase_from_files(
    users: list[str], files: list[Path], bundles: list[Path], result: ErasureResult
) -> None:
    with engine() as connection:
        for file in files:
            in_bundle = any(bundle in file.parents for bundle in bundles)
            if in_bundle or file.name == RECORD or file.name.startswith(STORES):
                continue
            try:
                count = _erase_from_file(connection, file, users)
            except (OSError, ValueError, duckdb.Error) as error:
                result.unreadable[file] = str(error).splitlines()[0]
            else:
                if count is not None:
                    result.searched[file] = count


def _erase_from_file(
    connection: duckdb.DuckDBPyConnection, file: Path, users: list[str]
) -> int | None:
    """Erase users from one file by what it holds, whatever it is called.

    Returns:
        The rows or places removed; None for a binary file, which is searched at the end.

    Raises:
        ValueError: the file is of no format that the system writes.
    """
    if file.suffix == ".parquet" or _is_parquet(file):
        return _erase_from_parquet(connection, file, users)
    if file.suffix in BINARIES:
        return None
    return _erase_from_text(file, users)


def _feature_stores(files: list[Path], folder: Path) -> list[Path]:
    """Return the folders of published features, sorted.

    An online store that all share is erased even where no folder of features is left.
    """
    stores = {file.parent for file in files if file.name in (USER_HISTORY, *STORES)}
    if not stores and os.environ.get(ONLINE_VARIABLE, SQLITE) != SQLITE:
        stores = {folder}
    return sorted(stores)


def _was_trained_on(
    users: list[str], bundle: Path, folders: list[Path], result: ErasureResult
) -> bool:
    """Whether the users were found in the run of a bundle, now or by an earlier erasure."""
    run = _run_of(bundle, folders)
    for file, count in result.searched.items():
        if count and run in file.parents:
            return True
    return _recorded(run, users)


def _run_of(bundle: Path, folders: list[Path]) -> Path:
    """Return the folder that holds a bundle and the tables that it came from.

    A run's tables and its bundle lie in one folder; a packed artifact lies beside its tables.
    """
    root = bundle.parent
    for folder in folders:
        if bundle.is_relative_to(folder):
            root = folder
            break
    if bundle == root:
        return root
    run = root / bundle.relative_to(root).parts[0]
    return root if run == bundle else run


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as handle:
        return handle.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC


def _erase_from_parquet(connection: duckdb.DuckDBPyConnection, file: Path, users: list[str]) -> int:
    """Rewrite a table without the users' rows; return how many rows there were.

    The reasons of rejected rows quote the log: a reason that holds a user is blanked.
    """
    import pyarrow.parquet as pq

    columns = pq.read_schema(file).names
    source = f"read_parquet({literal(str(file))})"
    if "user_id" in columns:
        condition = f"list_contains({list_literal(users)}, CAST(user_id AS VARCHAR))"
        remaining = f"SELECT * FROM {source} WHERE NOT coalesce({condition}, false)"
    elif "reason" in columns:
        condition = _holds_any("CAST(reason AS VARCHAR)", users)
        blank = f"CASE WHEN {condition} THEN 'erased' ELSE reason END AS reason"
        remaining = f"SELECT * REPLACE ({blank}) FROM {source}"
    else:
        return 0
    counted = connection.execute(f"SELECT count(*) FROM {source} WHERE {condition}").fetchone()
    rows = int(counted[0]) if counted else 0
    if rows:
        connection.execute("SET preserve_insertion_order = true")
        with whole_file(file) as draft:
            target = literal(str(draft))
            connection.execute(f"COPY ({remaining}) TO {target} (FORMAT parquet, COMPRESSION zstd)")
    return rows


def _holds_any(column: str, users: list[str]) -> str:
    """Return the SQL condition that a column's text holds a user in any spelling."""
    forms: list[str] = []
    for user in users:
        forms += spellings(user)
    conditions = " OR ".join(f"contains({column}, {literal(form)})" for form in forms)
    return f"coalesce({conditions}, false)"


def _erase_from_text(file: Path, users: list[str]) -> int:
    """Blank the users out of a text, or take their rows out of a table; return in how many places.

    Raises:
        ValueError: the file is too large, or no text.
    """
    if file.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"over {LARGEST_TEXT >> 20} MB of text")
    content = file.read_bytes()
    if b"\0" in content[:BLOCK]:
        raise ValueError("a binary file of no kind that is known here")
    text = content.decode("utf-8")
    count = 0
    table = without_rows(text, users) if file.suffix in TABLES else None
    if table is not None:
        text, count = table
    for user in users:
        text, places = blank_text(text, user)
        count += places
    if count:
        with whole_file(file) as draft:
            draft.write_text(text, encoding="utf-8")
    return count


def _find_remains(users: list[str], files: list[Path], result: ErasureResult) -> None:
    """Search every byte of all files for ids that are left, and note the files that hold one."""
    distinct = [user for user in users if len(user) >= SHORTEST_DISTINCT_ID]
    for file in files:
        # Feast's keys say how long an id is: its stores are looked through key by key.
        if file in result.unreadable or file.name.startswith(STORES) or not distinct:
            continue
        try:
            is_left = _holds_user(file, distinct)
        except (OSError, ValueError) as error:
            result.unreadable[file] = str(error).splitlines()[0]
            continue
        if is_left:
            result.unreadable[file] = "still names an erased user"


def _holds_user(file: Path, users: list[str]) -> bool:
    """Return whether a file holds a user, in its bytes or in the texts of its table."""
    if file.suffix == ".parquet" or _is_parquet(file):
        return _table_holds_user(file, users)
    is_text = file.suffix not in BINARIES
    longest = max(
        len(form.encode("utf-8", "surrogatepass")) for u in users for form in spellings(u)
    )
    tail = b""
    with file.open("rb") as handle:
        while block := handle.read(BLOCK):
            content = tail + block
            if any(names_user(content, user, is_text) for user in users):
                return True
            tail = content[-longest:]
    return False


def _table_holds_user(file: Path, users: list[str]) -> bool:
    """Return whether any text of a Parquet file holds a user; its pages are compressed."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file).iter_batches():
        for column in batch.columns:
            if not _may_hold_text(column.type):
                continue
            content = json.dumps(column.to_pylist(), ensure_ascii=False, default=str).encode(
                "utf-8", "surrogatepass"
            )
            if any(names_user(content, user) for user in users):
                return True
    return False


def _may_hold_text(kind: Any) -> bool:
    """Return whether a column's type is text, or is made of parts that are."""
    import pyarrow.types as types

    if types.is_nested(kind):
        return any(_may_hold_text(kind.field(n).type) for n in range(kind.num_fields))
    is_text = types.is_string(kind) or types.is_large_string(kind)
    return is_text or types.is_binary(kind) or types.is_dictionary(kind)


def _digest(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()


def _recorded(run: Path, users: list[str]) -> bool:
    """Whether an earlier erasure of these users found them in this run."""
    digests = {_digest(user) for user in users}
    for record in (run / RECORD, run.parent / RECORD):
        if not record.is_file():
            continue
        for line in record.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            in_run = any(Path(bundle).is_relative_to(run) for bundle in row["bundles"])
            if in_run and row["user_sha256"] in digests:
                return True
    return False


def _record(folder: Path, users: list[str], result: ErasureResult) -> None:
    """Add to the folder's record: when, who as a digest, and the bundles still to be retrained."""
    bundles = [str(bundle) for bundle in result.bundles if bundle.is_relative_to(folder)]
    erased_at = datetime.now(UTC).isoformat(timespec="seconds")
    record = folder / RECORD
    text = record.read_text(encoding="utf-8") if record.is_file() else ""
    for user in users:
        row = {"erased": erased_at, "user_sha256": _digest(user), "bundles": bundles}
        text += json.dumps(row) + "\n"
    with whole_file(record) as draft:
        draft.write_text(text, encoding="utf-8")


def bundle_source(bundle: Path) -> str:
    """Return what a bundle says it was trained on, with the time of its first and last event."""
    metadata = _manifest(bundle).get("data", {})
    source = str(metadata.get("source", "an unnamed log"))
    first, last = metadata.get("first_event"), metadata.get("last_event")
    return f"{source} ({first} to {last})" if first and last else source


def _manifest(bundle: Path) -> dict[str, Any]:
    """Return what a bundle says of itself; nothing where its manifest is broken."""
    try:
        return dict(read_json(bundle / MANIFEST))
    except (UserError, TypeError, ValueError):
        return {}
