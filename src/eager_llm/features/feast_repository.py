"""The Feast repository: opened with the stores that the environment names, applied, materialized."""

import json
import os
import runpy
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eager_llm.core.errors import UserError
from eager_llm.features.offline_store import OfflineTables
from eager_llm.features.online_store import fail_soon

if TYPE_CHECKING:
    from feast import FeatureStore

# What people set.
FOLDER_VARIABLE = "EAGER_LLM_FEATURES"
ONLINE_VARIABLE = "EAGER_LLM_ONLINE_STORE"
REGISTRY_VARIABLE = "EAGER_LLM_REGISTRY"
SQLITE = "sqlite"
FILE = "file"
# The environment is the process's, and Feast reads it: one thread at a time.
_ENVIRONMENT_LOCK = threading.RLock()
_SECOND = timedelta(seconds=1)


class FeastRepository:
    """The definitions over one folder of published tables.

    Args:
        repository: the folder with `feature_store.yaml` and the definitions.
        folder: where the tables, the registry and the embedded online store lie.
        tables: the offline store.

    Raises:
        UserError: `repository` is no such folder.
    """

    def __init__(self, repository: Path, folder: Path, tables: OfflineTables) -> None:
        if not (repository / "feature_store.yaml").is_file():
            raise UserError(
                f"{repository}: no feature_store.yaml there; name the feature repository"
            )
        self._repository = repository.resolve()
        self._folder = folder
        self._tables = tables
        self._store: FeatureStore | None = None

    @property
    def store(self) -> "FeatureStore":
        """The Feast store, opened on first use."""
        if self._store is None:
            from feast import FeatureStore

            with self._environment():
                store = FeatureStore(repo_path=str(self._repository))
            fail_soon(store)
            self._tables.patch_feast()
            self._store = store
        return self._store

    def apply_definitions(self) -> None:
        """Register the definitions, read anew: they name this folder."""
        from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView

        kinds = (Entity, FeatureView, FeatureService, OnDemandFeatureView)
        with self._environment(), quiet():
            namespace = runpy.run_path(str(self._repository / "definitions.py"))
            definitions = [value for value in namespace.values() if isinstance(value, kinds)]
            self.store.apply(definitions)

    def apply(self, definition: Any) -> None:
        """Register one more definition, such as a feature service."""
        with self._environment(), quiet():
            self.store.apply([definition])

    def materialize(self, views: Sequence[str], first: datetime, last: datetime) -> None:
        """Bring the rows of some views online whose event timestamps are from `first` to `last`."""
        with quiet():
            self.store.materialize(first - _SECOND, last + _SECOND, feature_views=list(views))

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Let Feast read where this folder's stores are, one thread at a time."""
        with _ENVIRONMENT_LOCK:
            variables = self._variables()
            earlier = {name: os.environ.get(name) for name in variables}
            os.environ.update(variables)
            try:
                yield
            finally:
                for name, value in earlier.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value

    def _variables(self) -> dict[str, str]:
        """Return what feature_store.yaml and the definitions read.

        Raises:
            UserError: the online store is of another kind.
        """
        online = os.environ.get(ONLINE_VARIABLE, SQLITE)
        registry = os.environ.get(REGISTRY_VARIABLE, FILE)
        return {
            FOLDER_VARIABLE: str(self._folder),
            "EAGER_LLM_FEAST_ONLINE": json.dumps(_online_config(online, self._folder)),
            "EAGER_LLM_FEAST_OFFLINE": json.dumps(self._tables.feast),
            "EAGER_LLM_FEAST_REGISTRY": json.dumps(_registry_config(registry, self._folder)),
            "FEAST_USAGE": "False",
        }


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Feast's warnings to its own developers from people's logs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # Of on-demand views: computing them offline is row by row.
        warnings.filterwarnings("ignore", message="On demand feature view", category=RuntimeWarning)
        yield


def _registry_config(setting: str, folder: Path) -> str | dict[str, str]:
    """Return Feast's configuration of the registry."""
    if setting == FILE:
        return str(folder / "registry.db")
    return {"registry_type": "sql", "path": setting}


def _online_config(setting: str, folder: Path) -> dict[str, str]:
    """Return Feast's configuration of the online store.

    Raises:
        UserError: the setting names neither SQLite nor Redis.
    """
    if setting == SQLITE:
        return {"type": "sqlite", "path": str(folder / "online.db")}
    url = urlsplit(setting)
    if url.scheme != "redis" or not url.hostname:
        # Not the whole of it: it may hold a password.
        kind = url.scheme or "no scheme"
        raise UserError(f"{ONLINE_VARIABLE}: {kind}: choose sqlite, or redis://host:port")
    options = [f"{url.hostname}:{url.port or 6379}"]
    if url.path.strip("/"):
        options.append(f"db={url.path[1:]}")
    if url.password:
        options.append(f"password={url.password}")
    # A store that does not answer is an error soon, not a request that waits for ever.
    options += ["socket_timeout=2", "socket_connect_timeout=2"]
    return {"type": "redis", "connection_string": ",".join(options)}
