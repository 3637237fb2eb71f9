"""Single rows of the online store: read and written by key, locked while one is changed.

Feast's own calls look definitions up anew each time, and its push decodes every feature service that
there ever was. Here it is one keyed read or write of the store beneath; that they say the same is
tested.
"""

import fcntl
import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eager_llm.core.duckdb_engine import identifier
from eager_llm.core.errors import UserError

if TYPE_CHECKING:
    from feast import FeatureStore

KEY_VERSION = 3
LOCK_SECONDS = 10
LOCK_WAIT_SECONDS = 2


class OnlineRows:
    """Rows of one view, read and written by their key; may be used by several threads.

    Args:
        store: Feast's store.
        view: name of the view.
        features: the view's features, in the order that `read` returns them in.
    """

    def __init__(self, store: "FeatureStore", view: str, features: Sequence[str]) -> None:
        self._store = store
        self._view = view
        self._features = list(features)
        self._encode = _KeyEncoder()
        self._cells: _Cells
        if uses_redis(store):
            self._cells = _RedisCells(store, view, self._features)
        else:
            self._cells = _SqliteCells(store, view, self._features)

    def read(self, key: Mapping[str, str]) -> list[Any] | None:
        """Return the values of the features, or None where there is no row of that key.

        Raises:
            UserError: nothing has been published yet.
        """
        cells = self._cells.read(self._encode.serialize(key))
        if cells is None:
            return None
        return [self._encode.value_of(cell) for cell in cells]

    def write(self, key: Mapping[str, str], values: Sequence[Any], moment: datetime) -> None:
        """Replace the row of a key, whatever the moment of the one that is there.

        Args:
            key: value of each join key.
            values: Feast values, one a feature, in the order of the features.
            moment: the row's event timestamp.
        """
        forget_stamps(self._store, self._view, [key])
        view = self._store.get_feature_view(self._view)
        features = dict(zip(self._features, values, strict=True))
        row = (self._encode.entity(key), features, moment, datetime.now(UTC))
        provider: Any = self._store._get_provider()
        provider.online_write_batch(self._store.config, view, [row], None)


class _Cells(Protocol):
    """The cells of one view's rows, as the store beneath keeps them."""

    def read(self, entity_key: bytes) -> list[bytes | None] | None:
        """Return a row's cells, one a feature, or None where there is no row."""


class _SqliteCells:
    """Cells in the SQLite file of an embedded store."""

    def __init__(self, store: "FeatureStore", view: str, features: Sequence[str]) -> None:
        self._features = features
        self._file = Path(store.config.online_store.path)
        self._thread = threading.local()
        table = identifier(f"{store.project}_{view}")
        marks = ", ".join("?" * len(features))
        self._query = (
            f"SELECT feature_name, value FROM {table} "
            f"WHERE entity_key = ? AND feature_name IN ({marks})"
        )

    def read(self, entity_key: bytes) -> list[bytes | None] | None:
        """Return a row's cells; see `_Cells`.

        Raises:
            UserError: the file or the view's table is missing.
        """
        try:
            cursor = self._connection().execute(self._query, [entity_key, *self._features])
            cells = dict(cursor.fetchall())
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error) and "unable to open" not in str(error):
                raise
            raise UserError(
                f"{self._file}: nothing has been published there; run the pipeline first"
            ) from None
        if not cells:
            return None
        return [cells.get(feature) for feature in self._features]

    def _connection(self) -> sqlite3.Connection:
        """Open the file once a thread; reading only, so that a missing one is not made."""
        if not hasattr(self._thread, "connection"):
            uri = f"{self._file.absolute().as_uri()}?mode=ro"
            self._thread.connection = sqlite3.connect(uri, uri=True)
        connection: sqlite3.Connection = self._thread.connection
        return connection


class _RedisCells:
    """Cells in Redis: a hash a row, whose fields are hashes of the features' names."""

    def __init__(self, store: "FeatureStore", view: str, features: Sequence[str]) -> None:
        from feast.infra.online_stores.helpers import _mmh3

        self._client = redis_client(store)
        self._project = store.project.encode()
        self._fields = [_mmh3(f"{view}:{feature}") for feature in features]

    def read(self, entity_key: bytes) -> list[bytes | None] | None:
        """Return a row's cells; see `_Cells`."""
        cells: list[bytes | None] = self._client.hmget(entity_key + self._project, self._fields)
        if all(cell is None for cell in cells):
            return None
        return cells


class _KeyEncoder:
    """Keys and values in Feast's encoding; its classes are imported once."""

    def __init__(self) -> None:
        from feast.infra.key_encoding_utils import serialize_entity_key
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        self._serialize = serialize_entity_key
        self._entity_key = EntityKey
        self._value = Value

    def entity(self, key: Mapping[str, str]) -> Any:
        """Return the entity key of a key, its join keys in alphabetical order."""
        names = sorted(key)
        values = [self._value(string_val=key[name]) for name in names]
        return self._entity_key(join_keys=names, entity_values=values)

    def serialize(self, key: Mapping[str, str]) -> bytes:
        """Return the bytes by which the store knows a key."""
        entity = self.entity(key)
        data: bytes = self._serialize(entity, entity_key_serialization_version=KEY_VERSION)
        return data

    def value_of(self, cell: bytes | None) -> Any:
        """Return the value of a cell: a list, a single value or None."""
        if cell is None:
            return None
        message = self._value.FromString(cell)
        kind = message.WhichOneof("val")
        if kind is None:
            return None
        value = getattr(message, kind)
        if hasattr(value, "val"):
            return list(value.val)
        return value


@contextmanager
def user_lock(store: "FeatureStore", user_id: str) -> Iterator[None]:
    """Let nobody else, in any process, change the user's rows while the block runs.

    So no event is lost. SQLite has one writer at a time, so one lock for all; Redis has a lock a
    user, for all replicas of a service.
    """
    if uses_redis(store):
        digest = hashlib.sha256(user_id.encode()).hexdigest()
        # Where a process died holding it, it is free again after its time.
        lock = redis_client(store).lock(
            f"eager-llm:lock:{digest}", timeout=LOCK_SECONDS, blocking_timeout=LOCK_WAIT_SECONDS
        )
        with lock:
            yield
        return
    with Path(f"{store.config.online_store.path}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def uses_redis(store: "FeatureStore") -> bool:
    """Return whether the online store is Redis; else it is SQLite."""
    return bool(store.config.online_store.type == "redis")


def redis_client(store: "FeatureStore") -> Any:
    """Return the client that Feast's own Redis store uses."""
    provider: Any = store._get_provider()
    return provider.online_store._get_client(store.config.online_store)


def fail_soon(store: "FeatureStore") -> None:
    """Make a Redis that cannot be reached an error at once.

    Its client by itself tries again for many seconds, and a request has better to do than to wait.
    """
    if uses_redis(store):
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        redis_client(store).set_retry(Retry(NoBackoff(), 1))


def forget_stamps(store: "FeatureStore", view: str, keys: Sequence[Mapping[str, str]]) -> None:
    """Let rows be written again that have the moment of those online.

    Feast's Redis store skips a row that is not later than the one it holds; a row that a late event
    has changed is as late. SQLite writes whatever it is given.

    Args:
        store: Feast's store.
        view: name of the view.
        keys: of each row the value of each join key.
    """
    if not uses_redis(store):
        return
    from feast.infra.online_stores.helpers import _redis_key

    encoder = _KeyEncoder()
    with redis_client(store).pipeline(transaction=False) as pipeline:
        for key in keys:
            redis_key = _redis_key(
                store.project, encoder.entity(key), entity_key_serialization_version=KEY_VERSION
            )
            pipeline.hdel(redis_key, f"_ts:{view}")
        pipeline.execute()
