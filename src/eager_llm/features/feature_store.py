"""Features of users and items: published, as of a moment, and online."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from eager_llm.core.duckdb_engine import engine
from eager_llm.data.tables import Tables
from eager_llm.features.feast_repository import FeastRepository, quiet
from eager_llm.features.offline_store import Change, OfflineTables, ParquetTables
from eager_llm.features.online_erasure import erase_online
from eager_llm.features.online_history import (
    OnlineHistory,
    Pushed,
    checked_microseconds,
    microseconds_of,
)
from eager_llm.features.online_store import forget_stamps, user_lock
from eager_llm.features.postgres_store import OFFLINE_VARIABLE, Warehouse
from eager_llm.features.views import view_queries, view_tables

if TYPE_CHECKING:
    from feast import FeatureStore

DUCKDB = "duckdb"
REQUEST_FEATURES = ("history_length", "recency_days", "repeat_share")
# An event is seen by what happens after it, never by what happens at its own moment.
JUST_BEFORE = pd.Timedelta(microseconds=1)


class Features:
    """The feature repository over one folder of published tables.

    Args:
        repository: the folder with `feature_store.yaml` and the definitions.
        folder: where the tables, the registry and the embedded online store lie.

    Raises:
        UserError: `repository` is no such folder, or the setting of the offline store is wrong.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        self.folder = folder.resolve()
        self.tables = offline_tables(self.folder)
        self._feast = FeastRepository(repository, self.folder, self.tables)
        self._histories: dict[str, OnlineHistory] = {}

    @property
    def store(self) -> "FeatureStore":
        """The Feast store, opened on first use."""
        return self._feast.store

    def publish(self, tables: Tables | Path, max_history: int) -> dict[str, int]:
        """Write the tables, apply the definitions, and bring online what changed since last time.

        Args:
            tables: in memory, or their folder; a folder may be larger than memory.
            max_history: items that a history keeps.

        Returns:
            For each view that changed, how many rows are new or changed.
        """
        changes: dict[str, Change] = {}
        with engine(scratch=self.folder) as connection:
            view_tables(connection, tables)
            for view, query in view_queries(connection, max_history).items():
                change = self.tables.replace(connection, view, query)
                if change:
                    changes[view] = change
        self._feast.apply_definitions()
        for view, change in changes.items():
            if change.keys:
                forget_stamps(self.store, view, change.keys)
            self._feast.materialize([view], change.first, change.last)
        return {view: change.rows for view, change in changes.items()}

    def publish_index(self, item_ids: list[str], tokens: list[list[str]], version: str) -> str:
        """Write an item index as features, bring it online, and make its feature service.

        Rows of earlier versions stay: as of a moment, an item has the tokens of the version then in
        use. Services of earlier versions stay, too.

        Args:
            item_ids: the items of the index.
            tokens: of each of them its tokens, a level each.
            version: of the index.

        Returns:
            The feature service's name.
        """
        published_at = pd.Timestamp.now("UTC").floor("us")
        rows = pd.DataFrame(
            {
                "item_id": item_ids,
                "tokens": tokens,
                "index_version": version,
                "event_timestamp": pd.Series([published_at] * len(item_ids)).dt.as_unit("us"),
            }
        )
        earlier = self.tables.read("item_index")
        if earlier is not None and "index_version" in earlier:
            # But this version, which is published anew.
            others = earlier[earlier["index_version"] != version]
            rows = pd.concat([others, rows], ignore_index=True)
        with engine(scratch=self.folder) as connection:
            connection.register("rows", rows)
            self.tables.replace(connection, "item_index", "SELECT * FROM rows")
        moment = published_at.to_pydatetime()
        self._feast.materialize(["item_index"], moment, moment)
        tags = {
            "index_version": version,
            "published": published_at.isoformat(),
            "items": str(len(item_ids)),
        }
        return self._apply_service(version, tags)

    def _apply_service(self, version: str, tags: dict[str, str]) -> str:
        """Register the feature service of a version of the index, and return its name."""
        from feast import FeatureService

        service = FeatureService(
            name=service_name(version),
            features=[
                self.store.get_feature_view("user_history"),
                self.store.get_feature_view("item_index"),
                self.store.get_on_demand_feature_view("user_request"),
            ],
            description=f"What models of the item index {version} read.",
            tags=tags,
        )
        self._feast.apply(service)
        return service_name(version)

    def services(self) -> list[dict[str, str]]:
        """Return the feature services, oldest first.

        Returns:
            `name`, `index_version`, `published`, `items` and `features` of each, as texts.
        """
        rows = []
        for service in self.store.list_feature_services():
            features = []
            for projection in service.feature_view_projections:
                features += [f"{projection.name}:{field.name}" for field in projection.features]
            row = {"name": service.name, "index_version": "", "published": "", "items": ""}
            row.update(service.tags)
            row["features"] = ", ".join(features)
            rows.append(row)
        return sorted(rows, key=lambda row: (row["published"], row["name"]))

    def histories(self, targets: pd.DataFrame) -> pd.DataFrame:
        """Return `targets` with a column `history`: the items before each moment, oldest first.

        Args:
            targets: `user_id`, `moment` and any other columns.
        """
        entities = targets[["user_id"]].assign(
            event_timestamp=targets["moment"] - JUST_BEFORE, row=range(len(targets))
        )
        with quiet():
            retrieval = self.store.get_historical_features(
                entities, features=["user_history:items"]
            )
            answer = retrieval.to_df()
        if len(answer) != len(targets):
            raise RuntimeError(
                f"the offline store answered {len(answer)} of {len(targets)} targets"
            )
        items = answer.set_index("row")["items"].reindex(range(len(targets)))
        return targets.assign(history=[_as_list(value) for value in items])

    def some_users(self, n: int) -> list[str]:
        """Return some users of the published table, in the order of their ids.

        There are none where it is elsewhere.
        """
        return self.tables.some_users(n)

    def online_history(self, user_id: str) -> list[str] | None:
        """Return the user's latest items, oldest first, or None for a user nobody has seen.

        Raises:
            UserError: nothing has been published yet.
        """
        return self._history("user_history").read({"user_id": user_id})

    def online_histories(self, user_ids: list[str]) -> list[list[str] | None]:
        """Return the histories of several users; see `online_history`."""
        return [self.online_history(user) for user in user_ids]

    def push(
        self,
        user_id: str,
        item_id: str,
        moment: pd.Timestamp,
        max_history: int,
        event_type: str | None = None,
    ) -> tuple[list[str], Pushed]:
        """Add one event to a user's online history; the next read sees it.

        The same event again changes nothing, an earlier one takes its place by its time, and only
        the last `max_history` are kept. Processes may push at the same time. The published log
        stays the truth: a later publication in which the user's rows change replaces what was
        pushed.

        Args:
            user_id: who.
            item_id: what they chose.
            moment: when it happened; without a zone it is UTC.
            max_history: items that a history keeps.
            event_type: adds the event to the user's history of that type, too.

        Returns:
            The history now, oldest first, and what became of the event: "added"; "known" where it
            is there already; "late" where it is older than all that is kept.

        Raises:
            UserError: no user or item is named, the time is before 1970 or later than tomorrow, or
                nothing has been published.
        """
        us = checked_microseconds(user_id, item_id, moment)
        key = {"user_id": user_id}
        with user_lock(self.store, user_id):
            result = self._history("user_history").push(key, item_id, us, max_history)
            if event_type:
                typed_key = {**key, "event_type": event_type}
                self._history("user_type_history").push(typed_key, item_id, us, max_history)
        return result

    def erase(self, users: list[str]) -> int:
        """Remove every user's rows from the online store; return how many keys were there."""
        return erase_online(self.store, users)

    def request_features(self, user_id: str, moment: pd.Timestamp) -> dict[str, Any]:
        """Return what is computed of a user's online history at a request.

        Returns:
            The features of `user_request` in the definitions, by name.
        """
        names = [f"user_request:{name}" for name in REQUEST_FEATURES]
        entity = {"user_id": user_id, "asked_at": microseconds_of(moment)}
        answer = self.store.get_online_features(names, [entity]).to_dict()
        return {name: answer[name][0] for name in REQUEST_FEATURES}

    def online_item(self, item_id: str, moment: pd.Timestamp | None = None) -> dict[str, object]:
        """Return the online catalogue, index and activity features of one item.

        What is unknown is None. What has outlived its view's time to live is None, too, as it is
        offline: Feast's online read returns it all the same.

        Args:
            item_id: the item.
            moment: when the request is; default: now.
        """
        service = self.store.get_feature_service("items")
        answer = self.store.get_online_features(service, [{"item_id": item_id}]).to_dict(
            include_event_timestamps=True
        )
        seconds = (moment or pd.Timestamp.now("UTC")).timestamp()
        features: dict[str, object] = {"item_id": item_id}
        for projection in service.feature_view_projections:
            lifetime = self.store.get_feature_view(projection.name).ttl
            for field in projection.features:
                age = seconds - int(answer[f"{field.name}__ts"][0] or 0)
                is_outlived = lifetime and age > lifetime.total_seconds()
                features[field.name] = None if is_outlived else answer[field.name][0]
        return features

    def _history(self, view: str) -> OnlineHistory:
        """Return the reader of a history view, opened on first use."""
        if view not in self._histories:
            self._histories[view] = OnlineHistory(self.store, view)
        return self._histories[view]


def offline_tables(folder: Path) -> OfflineTables:
    """Return the offline store that EAGER_LLM_OFFLINE_STORE names.

    Args:
        folder: where the tables are Parquet files; they may be in a warehouse instead.

    Raises:
        UserError: the setting is wrong.
    """
    setting = os.environ.get(OFFLINE_VARIABLE, DUCKDB)
    if setting == DUCKDB:
        return ParquetTables(folder)
    return Warehouse(setting)


def service_name(version: str) -> str:
    """Return the name of the feature service of a model version: that of its item index."""
    return f"recommender_{version}"


def _as_list(value: Any) -> list[str]:
    """Return a list feature's array as a list; a user without a row has None or NaN."""
    if value is None or isinstance(value, float):
        return []
    items: list[str] = value.tolist()
    return items
