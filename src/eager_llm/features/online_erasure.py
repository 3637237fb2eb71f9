"""Erasure from the online store: every row whose key names one of some users."""

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eager_llm.core.duckdb_engine import identifier
from eager_llm.features.online_store import KEY_VERSION, redis_client, uses_redis

if TYPE_CHECKING:
    from feast import FeatureStore


def erase_online(store: "FeatureStore", users: Sequence[str]) -> int:
    """Delete every row whose entity key holds one of `users`; return how many keys were there.

    SQLite has a table a view, Redis a hash an entity key; both are looked through whole, so that
    keys of several entities (user and event type) are found too.
    """
    if uses_redis(store):
        return _erase_redis(store, set(users))
    return _erase_sqlite(store, set(users))


def _erase_sqlite(store: "FeatureStore", users: set[str]) -> int:
    """Delete the users' rows from every view's table."""
    erased: set[bytes] = set()
    views = [view.name for view in store.list_feature_views()]
    with sqlite3.connect(store.config.online_store.path) as database:
        # Else the bytes would stay in the file until others are written over them.
        database.execute("PRAGMA secure_delete = ON")
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in names}
        for view in views:
            table = f"{store.project}_{view}"
            if table in tables:
                erased |= _erase_table(database, table, users)
    return len(erased)


def _erase_table(database: sqlite3.Connection, table: str, users: set[str]) -> set[bytes]:
    """Delete the users' rows from one table, and return their keys."""
    quoted = identifier(table)
    rows = database.execute(f"SELECT DISTINCT entity_key FROM {quoted}").fetchall()
    keys = {key for (key,) in rows if _names_user(key, users)}
    deletion = f"DELETE FROM {quoted} WHERE entity_key = ?"
    database.executemany(deletion, [(key,) for key in keys])
    return keys


def _erase_redis(store: "FeatureStore", users: set[str]) -> int:
    """Delete the users' hashes; return how many there were."""
    project = store.project.encode()
    client = redis_client(store)
    erased = 0
    for key in client.scan_iter(match=b"*" + project):
        if _names_user(key.removesuffix(project), users):
            erased += int(client.delete(key))
    return erased


def _names_user(entity_key: bytes, users: set[str]) -> bool:
    """Return whether a key in Feast's encoding holds one of the users."""
    from feast.infra.key_encoding_utils import deserialize_entity_key

    entity = deserialize_entity_key(entity_key, entity_key_serialization_version=KEY_VERSION)
    for name, value in zip(entity.join_keys, entity.entity_values, strict=True):
        if name == "user_id" and value.string_val in users:
            return True
    return False
