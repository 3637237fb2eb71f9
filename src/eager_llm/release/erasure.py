"""Erasure: one user out of everything that was made of their log, with a list of where was looked."""

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from eager_llm.core.duckdb_engine import engine, listed, literal
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, whole_file
from eager_llm.features.feature_store import ONLINE_VARIABLE, SQLITE, Features, offline_tables
from eager_llm.features.postgres_store import Warehouse

MANIFEST = "manifest.json"
RECORD = "erasures.jsonl"
TEXTS = (".html", ".json", ".jsonl", ".txt", ".log", ".csv")
LARGEST_TEXT = 256 << 20
# The feature store's own files, which are erased through it.
STORES = ("online.db", "registry.db")


@dataclass
class Erased:
    """What was done.

    Attributes:
        searched: every file that was opened, with the rows or places removed.
        online: for each feature store, the keys removed online.
        warehouse: for each table of the warehouse that names users, the rows removed.
        bundles: each bundle whose training data held a user, with when it was packed.
        unreadable: files that may hold a user and could not be looked into, with the reason.
        other: files of other forms, such as weights, that were not looked into.
    """

    searched: dict[Path, int] = field(default_factory=dict)
    online: dict[Path, int] = field(default_factory=dict)
    warehouse: dict[str, int] = field(default_factory=dict)
    bundles: dict[Path, str] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)
    other: list[Path] = field(default_factory=list)


def erase(users: list[str], folders: list[Path], repository: Path) -> Erased:
    """Remove `users` from every table, feature, history and report under `folders`, online and in the warehouse.

    Bundles hold no user's data in plain, but a model was trained on it: those are named, not changed.

    Args:
        folders: runs, tables and published features; looked through to the bottom.
        repository: the feature definitions, for the online stores.

    Raises:
        UserError: a folder is missing, no user is named, or the warehouse does not answer.
    """
    if not users or any(not user for user in users):
        raise UserError("name the users to erase")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
    result = Erased()
    tables = offline_tables(folders[0])
    if isinstance(
        tables, Warehouse
    ):  # first: one that does not answer is told before anything is changed
        result.warehouse = {
            f"{tables.place}, table {t}": rows for t, rows in tables.erase(users).items()
        }
    files = sorted(
        {
            path
            for folder in folders
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
    )
    bundles = [
        path.parent
        for path in files
        if path.name == MANIFEST and (path.parent / "item_index.parquet").is_file()
    ]
    with engine() as connection:
        for file in files:
            if any(bundle in file.parents for bundle in bundles):
                continue
            if file.name == RECORD or file.name.startswith(STORES):
                continue
            try:
                if file.suffix == ".parquet" or _is_parquet(file):
                    result.searched[file] = _from_parquet(connection, file, users)
                elif file.suffix in TEXTS:
                    result.searched[file] = _from_text(file, users)
                else:
                    result.other.append(file)
            except (OSError, ValueError, duckdb.Error) as error:
                result.unreadable[file] = str(error).splitlines()[0]
    published = {file.parent for file in files if file.name in ("user_history.parquet", *STORES)}
    if not published and os.environ.get(ONLINE_VARIABLE, SQLITE) != SQLITE:
        published = {folders[0]}  # a store that all share, whichever folder it was published from
    for store in sorted(published):
        result.online[store] = Features(repository, store).erase(users)
    touched = [file for file, count in result.searched.items() if count]
    for bundle in bundles:
        # A run's tables and its bundle lie in one folder; a packed artifact lies beside the tables it came from.
        root = next(
            (folder for folder in folders if folder in bundle.parents or folder == bundle),
            bundle.parent,
        )
        run = root / bundle.relative_to(root).parts[0] if bundle != root else root
        if run == bundle:
            run = root
        if any(run in file.parents for file in touched) or _recorded(run, users):
            result.bundles[bundle] = str(_manifest(bundle).get("packed_at", "at an unknown time"))
    for folder in folders:
        _record(folder, users, result)
    return result


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as handle:
        return handle.read(4) == b"PAR1"


def _from_parquet(connection: duckdb.DuckDBPyConnection, file: Path, users: list[str]) -> int:
    """Rewrite a table without the users' rows; return how many there were."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(file)
    if "user_id" not in schema.names:
        return 0
    source, wanted = (
        f"read_parquet({literal(str(file))})",
        f"list_contains({listed(users)}, CAST(user_id AS VARCHAR))",
    )
    found = connection.execute(f"SELECT count(*) FROM {source} WHERE {wanted}").fetchone()
    rows = int(found[0]) if found else 0
    if rows:
        connection.execute("SET preserve_insertion_order = true")
        with whole_file(file) as draft:
            kept = f"SELECT * FROM {source} WHERE NOT coalesce({wanted}, false)"
            connection.execute(
                f"COPY ({kept}) TO {literal(str(draft))} (FORMAT parquet, COMPRESSION zstd)"
            )
    return rows


def _from_text(file: Path, users: list[str]) -> int:
    """Blank the users out of reports: where they stand as `user_id=USER`, `user USER` or as a whole JSON string."""
    if file.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"over {LARGEST_TEXT >> 20} MB of text")
    text = file.read_text(encoding="utf-8")
    count = 0
    for user in users:
        plain, quoted = re.escape(user), re.escape(json.dumps(user, ensure_ascii=False))
        text, places = re.subn(
            rf"(?<=user_id=){plain}(?=[,;<\s]|$)|(?<=user '){plain}(?=')", "erased", text
        )
        text, more = re.subn(rf'(?<="user_id": ){quoted}', '"erased"', text)
        count += places + more
    if count:
        with whole_file(file) as draft:
            draft.write_text(text, encoding="utf-8")
    return count


def _digest(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()


def _recorded(run: Path, users: list[str]) -> bool:
    """Whether an earlier erasure of these users found them in this run."""
    for record in (run / RECORD, run.parent / RECORD):
        if record.is_file():
            for line in record.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["user_sha256"] in {_digest(user) for user in users} and any(
                    run == Path(b) or run in Path(b).parents for b in row["bundles"]
                ):
                    return True
    return False


def _record(folder: Path, users: list[str], result: Erased) -> None:
    """Add to the folder's record: when, who as a digest, and the bundles that remain to be trained anew."""
    bundles = [
        str(bundle) for bundle in result.bundles if folder in bundle.parents or folder == bundle
    ]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = (folder / RECORD).read_text(encoding="utf-8") if (folder / RECORD).is_file() else ""
    for user in users:
        lines += (
            json.dumps({"erased": now, "user_sha256": _digest(user), "bundles": bundles}) + "\n"
        )
    with whole_file(folder / RECORD) as draft:
        draft.write_text(lines, encoding="utf-8")


def bundle_source(bundle: Path) -> str:
    """Return what a bundle says it was trained on, and from when until when that goes."""
    metadata = _manifest(bundle).get("data", {})
    source = str(metadata.get("source", "an unnamed log"))
    first, last = metadata.get("first_event"), metadata.get("last_event")
    return f"{source} ({first} to {last})" if first and last else source


def _manifest(bundle: Path) -> dict[str, Any]:
    """Return what a bundle says of itself; a broken one is named all the same."""
    try:
        return dict(read_json(bundle / MANIFEST))
    except (UserError, TypeError, ValueError):
        return {}
