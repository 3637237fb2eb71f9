"""The join with Feast: publishing the tables, histories as of a moment, histories online."""

import json
import os
import runpy
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pandas as pd

from eager_llm.core.duckdb_engine import engine
from eager_llm.core.errors import UserError
from eager_llm.data.tables import Tables
from eager_llm.features.offline_store import Change, OfflineTables, ParquetTables
from eager_llm.features.online_store import (
    OnlineRows,
    erase_online,
    fail_soon,
    forget_stamps,
    user_lock,
)
from eager_llm.features.postgres_store import OFFLINE_VARIABLE, Warehouse
from eager_llm.features.views import view_queries, view_tables

if TYPE_CHECKING:
    from feast import FeatureStore

FOLDER_VARIABLE = "EAGER_LLM_FEATURES"
ONLINE_VARIABLE = "EAGER_LLM_ONLINE_STORE"
REGISTRY_VARIABLE = "EAGER_LLM_REGISTRY"
SQLITE, DUCKDB = "sqlite", "duckdb"
ENVIRONMENT = threading.RLock()
Pushed = Literal["added", "known", "late"]
# An event is seen by what happens after it, never by what happens at its own moment.
JUST_BEFORE = pd.Timedelta(microseconds=1)


class Features:
    """The feature repository over one folder of published tables.

    Args:
        repository: the folder with `feature_store.yaml` and the definitions.
        folder: where the tables, the registry and the embedded online store lie.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        if not (repository / "feature_store.yaml").is_file():
            raise UserError(
                f"{repository}: no feature_store.yaml there; name the feature repository"
            )
        self.repository = repository.resolve()
        self.folder = folder.resolve()
        self.tables = offline_tables(self.folder)
        self._store: FeatureStore | None = None
        self._readers: dict[str, OnlineRows] = {}

    @property
    def store(self) -> "FeatureStore":
        """The Feast store, opened on first use."""
        if self._store is None:
            from feast import FeatureStore

            with self._environment():
                store = FeatureStore(repo_path=str(self.repository))
            fail_soon(store)
            if isinstance(self.tables, Warehouse):
                self.tables.mend_feast()
            self._store = store
        return self._store

    def publish(self, tables: Tables | Path, max_history: int) -> dict[str, int]:
        """Write the tables, apply the definitions, and bring online what changed since the last time.

        Args:
            tables: in memory, or their folder; a folder may be larger than memory.

        Returns:
            For each view, how many rows are new or changed.
        """
        changed: dict[str, Change] = {}
        with engine(scratch=self.folder) as connection:
            view_tables(connection, tables)
            for view, query in view_queries(connection, max_history).items():
                found = self.tables.replace(connection, view, query)
                if found:
                    changed[view] = found
        self._apply()
        for view, change in changed.items():
            if change.keys:
                forget_stamps(self.store, view, change.keys)
            self._materialize([view], pd.Series([change.first, change.last]))
        return {view: change.rows for view, change in changed.items()}

    def push(
        self,
        user_id: str,
        item_id: str,
        moment: pd.Timestamp,
        max_history: int,
        event_type: str | None = None,
    ) -> tuple[list[str], Pushed]:
        """Add one event to a user's online history; the next read sees it.

        The same event again changes nothing, an earlier one takes its place by its time, and only the
        last `max_history` are kept. Processes may push at the same time. The published log stays the
        truth: a later publication in which the user's rows change replaces what was pushed.

        Args:
            moment: when it happened; without a zone it is UTC.
            event_type: adds the event to the user's history of that type, too.

        Returns:
            The history now, oldest first, and what became of the event: "added"; "known" where it is
            there already; "late" where it is older than all that is kept.

        Raises:
            UserError: no user or item is named, the time is before 1970 or later than tomorrow, or
                nothing has been published.
        """
        us = _pushed_at(user_id, item_id, moment)
        with user_lock(self.store, user_id):
            result = self._push("user_history", {"user_id": user_id}, item_id, us, max_history)
            if event_type:
                key = {"user_id": user_id, "event_type": event_type}
                self._push("user_type_history", key, item_id, us, max_history)
        return result

    def _push(
        self, view: str, key: dict[str, str], item_id: str, us: int, max_history: int
    ) -> tuple[list[str], Pushed]:
        from feast.protos.feast.types.Value_pb2 import Int64List, StringList, Value

        items, moments = self._rows(view).read(key) or (None, None)
        if len(items or []) != len(moments or []):
            raise UserError(f"{self.folder}: {view} holds no times; publish the features again")
        known = list(zip(moments or [], items or [], strict=True))
        if (us, item_id) in known:
            return [item for _, item in known], "known"
        # Of one moment, in the order of the pushes.
        events = sorted([*known, (us, item_id)], key=lambda event: event[0])[-max_history:]
        kept = [item for _, item in events]
        if (us, item_id) not in events:
            return kept, "late"
        values = StringList(val=kept), Int64List(val=[moment for moment, _ in events])
        row = [Value(string_list_val=values[0]), Value(int64_list_val=values[1])]
        self._rows(view).write(
            key, row, pd.Timestamp(events[-1][0], unit="us", tz="UTC").to_pydatetime()
        )
        return kept, "added"

    def erase(self, users: list[str]) -> int:
        """Remove every user's row from the online store; return how many keys were asked to go."""
        return erase_online(self.store, users)

    def publish_index(self, item_ids: list[str], tokens: list[list[str]], version: str) -> str:
        """Write an item index as features, bring it online, and make the feature service of its model version.

        Rows of earlier versions stay: as of a moment, an item has the tokens of the version then in
        use. Services of earlier versions stay, too.

        Returns:
            The feature service's name.
        """
        from feast import FeatureService

        now = pd.Timestamp.now("UTC").floor("us")
        moment = pd.Series([now] * len(item_ids)).dt.as_unit("us")
        rows = pd.DataFrame(
            {
                "item_id": item_ids,
                "tokens": tokens,
                "index_version": version,
                "event_timestamp": moment,
            }
        )
        earlier = self.tables.read("item_index")
        if earlier is not None and "index_version" in earlier:
            # But this version, which is published anew.
            rows = pd.concat(
                [earlier[earlier["index_version"] != version], rows], ignore_index=True
            )
        with engine(scratch=self.folder) as connection:
            connection.register("rows", rows)
            self.tables.replace(connection, "item_index", "SELECT * FROM rows")
        self._materialize(["item_index"], moment)
        views = [self.store.get_feature_view(name) for name in ("user_history", "item_index")]
        service = FeatureService(
            name=service_name(version),
            features=[*views, self.store.get_on_demand_feature_view("user_request")],
            description=f"What models of the item index {version} read.",
            tags={
                "index_version": version,
                "published": now.isoformat(),
                "items": str(len(item_ids)),
            },
        )
        with self._environment(), _quiet():
            self.store.apply([service])
        return service.name

    def services(self) -> list[dict[str, str]]:
        """Return the feature services, oldest first: `name`, `index_version`, `published`, `items`, `features`."""
        rows = [
            {
                "name": service.name, "index_version": "", "published": "", "items": "", **service.tags,
                "features": ", ".join(f"{p.name}:{f.name}" for p in service.feature_view_projections for f in p.features),
            }
            for service in self.store.list_feature_services()
        ]  # fmt: skip
        return sorted(rows, key=lambda row: (row["published"], row["name"]))

    def request_features(self, user_id: str, moment: pd.Timestamp) -> dict[str, Any]:
        """Return what is computed of a user's online history at a request: see `user_request` in the definitions."""
        names = ["history_length", "recency_days", "repeat_share"]
        asked = {"user_id": user_id, "asked_at": microseconds_of(moment)}
        answer = self.store.get_online_features(
            [f"user_request:{name}" for name in names], [asked]
        ).to_dict()
        return {name: answer[name][0] for name in names}

    def histories(self, targets: pd.DataFrame) -> pd.DataFrame:
        """Return `targets` with a column `history`: the items before each moment, oldest first.

        Args:
            targets: `user_id`, `moment` and any other columns.
        """
        asked = targets[["user_id"]].assign(
            event_timestamp=targets["moment"] - JUST_BEFORE, row=range(len(targets))
        )
        with _quiet():
            found = self.store.get_historical_features(
                asked, features=["user_history:items"]
            ).to_df()
        if len(found) != len(targets):
            raise RuntimeError(f"the offline store answered {len(found)} of {len(targets)} targets")
        items = found.set_index("row")["items"].reindex(range(len(targets)))
        return targets.assign(history=[_as_list(value) for value in items])

    def online_history(self, user_id: str) -> list[str] | None:
        """Return the user's latest items, oldest first, or None for a user nobody has seen."""
        found = self._rows("user_history").read({"user_id": user_id})
        return None if found is None else found[0] or []

    def online_histories(self, user_ids: list[str]) -> list[list[str] | None]:
        """Return the histories of several users; see `online_history`."""
        return [self.online_history(user) for user in user_ids]

    def some_users(self, n: int) -> list[str]:
        """Return some users of the published table, in the order of their ids; none where it is elsewhere."""
        return self.tables.some_users(n)

    def _rows(self, view: str) -> OnlineRows:
        """Return the reader of a history view, opened on first use."""
        if view not in self._readers:
            self._readers[view] = OnlineRows(self.store, view, ["items", "moments"])
        return self._readers[view]

    def online_item(self, item_id: str, moment: pd.Timestamp | None = None) -> dict[str, object]:
        """Return the online catalogue, index and activity features of one item; None where unknown.

        What has outlived its view's time to live is None, as it is offline: Feast's online read returns
        it all the same.

        Args:
            moment: when the request is; default: now.
        """
        service = self.store.get_feature_service("items")
        answer = self.store.get_online_features(service, [{"item_id": item_id}]).to_dict(
            include_event_timestamps=True
        )
        asked = (moment or pd.Timestamp.now("UTC")).timestamp()
        found: dict[str, object] = {"item_id": item_id}
        for projection in service.feature_view_projections:
            lifetime = self.store.get_feature_view(projection.name).ttl
            for name in (feature.name for feature in projection.features):
                age = asked - int(answer[f"{name}__ts"][0] or 0)
                found[name] = (
                    None if lifetime and age > lifetime.total_seconds() else answer[name][0]
                )
        return found

    def _apply(self) -> None:
        """Register the definitions, read anew: they name this folder."""
        from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView

        kinds = (Entity, FeatureView, FeatureService, OnDemandFeatureView)
        with self._environment(), _quiet():
            found = runpy.run_path(str(self.repository / "definitions.py"))
            self.store.apply([value for value in found.values() if isinstance(value, kinds)])

    def _materialize(self, views: list[str], moments: pd.Series) -> None:
        second = pd.Timedelta(seconds=1)
        first, last = (
            (moments.min() - second).to_pydatetime(),
            (moments.max() + second).to_pydatetime(),
        )
        with _quiet():
            self.store.materialize(first, last, feature_views=views)

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Let Feast read where this folder's stores are, one thread at a time: the environment is the process's."""
        with ENVIRONMENT:
            variables = self._variables()
            before = {name: os.environ.get(name) for name in variables}
            os.environ.update(variables)
            try:
                yield
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value

    def _variables(self) -> dict[str, str]:
        """What feature_store.yaml and the definitions read."""
        online, registry = (
            os.environ.get(ONLINE_VARIABLE, SQLITE),
            os.environ.get(REGISTRY_VARIABLE, "file"),
        )
        return {
            FOLDER_VARIABLE: str(self.folder),
            "EAGER_LLM_FEAST_ONLINE": json.dumps(_online_store(online, self.folder)),
            "EAGER_LLM_FEAST_OFFLINE": json.dumps(self.tables.feast),
            "EAGER_LLM_FEAST_REGISTRY": json.dumps(
                str(self.folder / "registry.db")
                if registry == "file"
                else {"registry_type": "sql", "path": registry}
            ),
            "FEAST_USAGE": "False",
        }


def offline_tables(folder: Path) -> OfflineTables:
    """Return the offline store that EAGER_LLM_OFFLINE_STORE names: Parquet in the folder, or a warehouse."""
    setting = os.environ.get(OFFLINE_VARIABLE, DUCKDB)
    return ParquetTables(folder) if setting == DUCKDB else Warehouse(setting)


def service_name(version: str) -> str:
    """Return the name of the feature service of a model version: that of its item index."""
    return f"recommender_{version}"


def microseconds_of(moment: pd.Timestamp) -> int:
    """Return microseconds since 1970; without a zone the moment is UTC."""
    aware = moment.tz_localize("UTC") if moment.tzinfo is None else moment
    return (aware - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(microseconds=1)


def _pushed_at(user_id: str, item_id: str, moment: pd.Timestamp) -> int:
    if not user_id or not item_id:
        raise UserError("an event needs a user and an item")
    us = microseconds_of(moment)
    # The same bounds as in an import.
    if us < 0 or us > microseconds_of(pd.Timestamp.now("UTC") + pd.Timedelta(days=1)):
        raise UserError(
            f"user {user_id!r}: the event's time {moment} is before 1970 or later than tomorrow"
        )
    return us


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Feast's warnings to its own developers from people's logs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # Of on-demand views: computing them offline is row by row.
        warnings.filterwarnings("ignore", message="On demand feature view", category=RuntimeWarning)
        yield


def _online_store(setting: str, folder: Path) -> dict[str, str]:
    """Return Feast's configuration of the online store."""
    if setting == SQLITE:
        return {"type": "sqlite", "path": str(folder / "online.db")}
    url = urlsplit(setting)
    if url.scheme != "redis" or not url.hostname:
        # Not the whole of it: it may hold a password.
        kind = url.scheme or "no scheme"
        raise UserError(f"{ONLINE_VARIABLE}: {kind}: choose sqlite, or redis://host:port")
    options = [f"{url.hostname}:{url.port or 6379}"]
    options += [f"db={url.path[1:]}"] if url.path.strip("/") else []
    options += [f"password={url.password}"] if url.password else []
    # A store that does not answer is an error soon, not a request that waits for ever.
    options += ["socket_timeout=2", "socket_connect_timeout=2"]
    return {"type": "redis", "connection_string": ",".join(options)}


def _as_list(value: Any) -> list[str]:
    """Return a list feature's array as a list; a user without a row has None or NaN."""
    return [] if value is None or isinstance(value, float) else value.tolist()
