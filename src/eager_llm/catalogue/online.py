"""Removing single users from the online store, which Feast has no call for."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feast import FeatureStore


def erase_online(store: "FeatureStore", users: list[str]) -> int:
    """Delete every row whose entity key holds one of `users`; return how many keys were there.

    SQLite has a table a view, Redis a hash an entity key; both are looked through whole, so that keys
    of several entities (user and event type) are found too.
    """
    kind = store.config.online_store.type
    return _erase_redis(store, users) if kind == "redis" else _erase_sqlite(store, users)


def forget_stamps(store: "FeatureStore", view: str, keys: list[dict[str, str]]) -> None:
    """Let rows be written again that have the moment of those online.

    Feast's Redis store skips a row that is not later than the one it holds; a row that a late event
    has changed is as late. SQLite writes whatever it is given.
    """
    if store.config.online_store.type != "redis":
        return
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    provider: Any = store._get_provider()
    client = provider.online_store._get_client(store.config.online_store)
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            names = sorted(key)
            entity = EntityKey(join_keys=names, entity_values=[Value(string_val=key[name]) for name in names])
            pipeline.hdel(_redis_key(store.project, entity, entity_key_serialization_version=3), f"_ts:{view}")
        pipeline.execute()


def fail_soon(store: "FeatureStore") -> None:
    """Let a store that cannot be reached be an error at once: who asks has better to do than to wait for it.

    Redis's client by itself tries again for many seconds.
    """
    if store.config.online_store.type != "redis":
        return
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    provider: Any = store._get_provider()
    provider.online_store._get_client(store.config.online_store).set_retry(Retry(NoBackoff(), 1))


@contextmanager
def user_lock(store: "FeatureStore", user_id: str) -> Iterator[None]:
    """Let one process at a time read and write a user's row, so that no event of two at once is lost.

    Redis locks for all replicas of a service; SQLite is one machine's file, and one process writes it.
    """
    if store.config.online_store.type != "redis":
        with _SQLITE_WRITES:
            yield
        return
    provider: Any = store._get_provider()
    client = provider.online_store._get_client(store.config.online_store)
    # Held for milliseconds; where a process died holding it, it is free again after ten seconds.
    with client.lock(f"{store.project}:{user_id}:lock", timeout=10, blocking_timeout=2):
        yield


_SQLITE_WRITES = Lock()


def _holds(key: bytes, users: set[str]) -> bool:
    from feast.infra.key_encoding_utils import deserialize_entity_key

    entity = deserialize_entity_key(key, entity_key_serialization_version=3)
    pairs = zip(entity.join_keys, entity.entity_values, strict=True)
    return any(name == "user_id" and value.string_val in users for name, value in pairs)


def _erase_sqlite(store: "FeatureStore", users: list[str]) -> int:
    import sqlite3

    from eager_llm.catalogue.engine import name

    wanted, gone = set(users), set()
    views = [view.name for view in store.list_feature_views()]
    with sqlite3.connect(store.config.online_store.path) as database:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in (f"{store.project}_{view}" for view in views):
            if table not in tables:
                continue
            keys = [
                k for (k,) in database.execute(f"SELECT DISTINCT entity_key FROM {name(table)}") if _holds(k, wanted)
            ]
            database.executemany(f"DELETE FROM {name(table)} WHERE entity_key = ?", [(key,) for key in keys])
            gone.update(keys)
    return len(gone)


def _erase_redis(store: "FeatureStore", users: list[str]) -> int:
    wanted, gone = set(users), 0
    project = store.project.encode()
    provider: Any = store._get_provider()
    client = provider.online_store._get_client(store.config.online_store)
    for key in client.scan_iter(match=b"*" + project):
        if _holds(key.removesuffix(project), wanted):
            gone += int(client.delete(key))
    return gone
