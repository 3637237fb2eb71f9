"""Single rows of the online store: read and written by key, locked while one is changed, erased.

Feast's own calls look definitions up anew each time, and its push decodes every feature service that
there ever was. Here it is one keyed read or write of the store beneath; that they say the same is tested.
"""

import fcntl
import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eager_llm.core.duckdb_engine import identifier
from eager_llm.core.errors import UserError

if TYPE_CHECKING:
    from feast import FeatureStore

KEY_VERSION = 3
LOCK_SECONDS, WAIT_SECONDS = 10, 2


class OnlineRows:
    """Rows of one view, read and written by their key; may be used by several threads.

    Args:
        features: the view's features, in the order that `read` returns them in.
    """

    def __init__(self, store: "FeatureStore", view: str, features: Sequence[str]) -> None:
        from feast.infra.key_encoding_utils import serialize_entity_key
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        self._serialize = partial(
            serialize_entity_key, entity_key_serialization_version=KEY_VERSION
        )
        self._key, self._value = EntityKey, Value
        self._store, self._view = store, view
        self._features = list(features)
        self._project = store.project
        self._redis = _client(store) if store.config.online_store.type == "redis" else None
        if self._redis is None:
            self._file, self._open = Path(store.config.online_store.path), threading.local()
            marks = ", ".join("?" * len(self._features))
            self._query = (
                f"SELECT feature_name, value FROM {identifier(f'{store.project}_{view}')} "
                f"WHERE entity_key = ? AND feature_name IN ({marks})"
            )
        else:
            from feast.infra.online_stores.helpers import _mmh3

            self._fields = [_mmh3(f"{view}:{feature}") for feature in self._features]

    def read(self, key: dict[str, str]) -> list[Any] | None:
        """Return the values of the features, or None where there is no row of that key.

        Raises:
            UserError: nothing has been published yet.
        """
        entity = self._serialize(self._entity(key))
        if self._redis is None:
            cells = self._from_sqlite(entity)
        else:
            cells = self._redis.hmget(entity + self._project.encode(), self._fields)
            cells = None if all(cell is None for cell in cells) else cells
        return None if cells is None else [self._plain(cell) for cell in cells]

    def write(self, key: dict[str, str], values: Sequence[Any], moment: datetime) -> None:
        """Replace the row of a key, whatever the moment of the one that is there.

        Args:
            values: Feast values, one a feature, in the order of the features.
        """
        forget_stamps(self._store, self._view, [key])
        view = self._store.get_feature_view(self._view)
        row = (
            self._entity(key),
            dict(zip(self._features, values, strict=True)),
            moment,
            datetime.now(UTC),
        )
        provider: Any = self._store._get_provider()
        provider.online_write_batch(self._store.config, view, [row], None)

    def _entity(self, key: dict[str, str]) -> Any:
        names = sorted(key)
        return self._key(
            join_keys=names, entity_values=[self._value(string_val=key[name]) for name in names]
        )

    def _from_sqlite(self, entity: bytes) -> list[bytes | None] | None:
        try:
            rows = dict(
                self._connection().execute(self._query, [entity, *self._features]).fetchall()
            )
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error) and "unable to open" not in str(error):
                raise
            raise UserError(
                f"{self._file}: nothing has been published there; run the pipeline first"
            ) from None
        return [rows.get(feature) for feature in self._features] if rows else None

    def _connection(self) -> sqlite3.Connection:
        """Open the file once a thread; reading only, so that a missing one is not made."""
        if not hasattr(self._open, "connection"):
            self._open.connection = sqlite3.connect(
                f"{self._file.absolute().as_uri()}?mode=ro", uri=True
            )
        connection: sqlite3.Connection = self._open.connection
        return connection

    def _plain(self, cell: bytes | None) -> Any:
        if cell is None:
            return None
        value = self._value.FromString(cell)
        kind = value.WhichOneof("val")
        found: Any = None if kind is None else getattr(value, kind)
        return list(found.val) if hasattr(found, "val") else found


@contextmanager
def user_lock(store: "FeatureStore", user_id: str) -> Iterator[None]:
    """Let nobody else, in any process, read and write the user's rows while the block runs: no event is lost.

    SQLite has one writer at a time, so one lock for all; Redis a lock a user, for all replicas of a service.
    """
    if store.config.online_store.type == "redis":
        digest = hashlib.sha256(user_id.encode()).hexdigest()
        # Where a process died holding it, it is free again after its time.
        with _client(store).lock(
            f"eager-llm:lock:{digest}", timeout=LOCK_SECONDS, blocking_timeout=WAIT_SECONDS
        ):
            yield
        return
    with Path(f"{store.config.online_store.path}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _client(store: "FeatureStore") -> Any:
    provider: Any = store._get_provider()
    return provider.online_store._get_client(store.config.online_store)


def fail_soon(store: "FeatureStore") -> None:
    """Let a store that cannot be reached be an error at once: who asks has better to do than to wait for it.

    Redis's client by itself tries again for many seconds.
    """
    if store.config.online_store.type == "redis":
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        _client(store).set_retry(Retry(NoBackoff(), 1))


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

    with _client(store).pipeline(transaction=False) as pipeline:
        for key in keys:
            names = sorted(key)
            entity = EntityKey(
                join_keys=names, entity_values=[Value(string_val=key[name]) for name in names]
            )
            pipeline.hdel(
                _redis_key(store.project, entity, entity_key_serialization_version=KEY_VERSION),
                f"_ts:{view}",
            )
        pipeline.execute()


def _holds(key: bytes, users: set[str]) -> bool:
    from feast.infra.key_encoding_utils import deserialize_entity_key

    entity = deserialize_entity_key(key, entity_key_serialization_version=KEY_VERSION)
    pairs = zip(entity.join_keys, entity.entity_values, strict=True)
    return any(name == "user_id" and value.string_val in users for name, value in pairs)


def _erase_sqlite(store: "FeatureStore", users: list[str]) -> int:
    wanted, gone = set(users), set()
    views = [view.name for view in store.list_feature_views()]
    with sqlite3.connect(store.config.online_store.path) as database:
        # Else the bytes would stay in the file until others are written over them.
        database.execute("PRAGMA secure_delete = ON")
        tables = {
            row[0]
            for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        for table in (f"{store.project}_{view}" for view in views):
            if table not in tables:
                continue
            keys = [
                k
                for (k,) in database.execute(f"SELECT DISTINCT entity_key FROM {identifier(table)}")
                if _holds(k, wanted)
            ]
            database.executemany(
                f"DELETE FROM {identifier(table)} WHERE entity_key = ?", [(key,) for key in keys]
            )
            gone.update(keys)
    return len(gone)


def _erase_redis(store: "FeatureStore", users: list[str]) -> int:
    wanted, gone = set(users), 0
    project = store.project.encode()
    client = _client(store)
    for key in client.scan_iter(match=b"*" + project):
        if _holds(key.removesuffix(project), wanted):
            gone += int(client.delete(key))
    return gone
