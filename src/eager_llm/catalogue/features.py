"""The join with Feast: publishing the tables, histories as of a moment, histories online."""

import json
import os
import runpy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eager_llm.catalogue.engine import engine, literal, run
from eager_llm.catalogue.online import erase_online, fail_soon, forget_stamps, user_lock
from eager_llm.catalogue.tables import Tables
from eager_llm.catalogue.views import view_queries, view_tables
from eager_llm.errors import UserError
from eager_llm.files import whole_file

if TYPE_CHECKING:
    import duckdb
    from feast import FeatureStore

FOLDER_VARIABLE = "EAGER_LLM_FEATURES"
ONLINE_VARIABLE = "EAGER_LLM_ONLINE_STORE"
REGISTRY_VARIABLE = "EAGER_LLM_REGISTRY"
SQLITE = "sqlite"
KEYS = ("user_id", "item_id", "event_type")
Pushed = Literal["added", "known", "late"]
# An event is seen by what happens after it, never by what happens at its own moment.
JUST_BEFORE = pd.Timedelta(microseconds=1)


@dataclass(frozen=True)
class Change:
    """How a view's table differs from the one before: rows, from when, until the end, and whose (not at first)."""

    rows: int
    first: datetime
    last: datetime
    keys: list[dict[str, str]]


class Features:
    """The feature repository over one folder of published tables.

    Args:
        repository: the folder with `feature_store.yaml` and the definitions.
        folder: where the tables, the registry and the embedded online store lie.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        if not (repository / "feature_store.yaml").is_file():
            raise UserError(f"{repository}: no feature_store.yaml there; name the feature repository")
        self.repository = repository.resolve()
        self.folder = folder.resolve()
        self._store: FeatureStore | None = None

    @property
    def store(self) -> "FeatureStore":
        """The Feast store, opened on first use."""
        if self._store is None:
            from feast import FeatureStore

            with self._environment():
                self._store = FeatureStore(repo_path=str(self.repository))
                fail_soon(self._store)
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
                found = self._replace(connection, view, query)
                if found:
                    changed[view] = found
        self._apply()
        for view, change in changed.items():
            if change.keys:
                forget_stamps(self.store, view, change.keys)
            self._materialize([view], pd.Series([change.first, change.last]))
        return {view: change.rows for view, change in changed.items()}

    def push(self, user_id: str, item_id: str, moment: pd.Timestamp, max_history: int) -> tuple[list[str], Pushed]:
        """Add one event to a user's online history; the same event again changes nothing.

        The batch table stays the truth: the next publication from the log replaces what was pushed.
        Online stores keep moments by the second; of one second, events come in the order of their pushes.

        Returns:
            The history now, oldest first, and what became of the event: "added"; "known" where it is
            there already; "late" where it is older than the last event of the user, and waits for the
            next publication.
        """
        from feast.data_source import PushMode

        moment = moment.floor("s")
        with user_lock(self.store, user_id):
            answer = self.store.get_online_features(["user_history:items"], [{"user_id": user_id}])
            known = answer.to_dict(include_event_timestamps=True)
            history, latest = _as_list(known["items"][0]), int(known["items__ts"][0] or 0)
            second = int(moment.timestamp())
            if history and second <= latest:
                # Which of the items an event of the past left there cannot be told from the history.
                if second < latest:
                    return history, "late"
                if item_id in history:
                    return history, "known"
                forget_stamps(self.store, "user_history", [{"user_id": user_id}])
            history = [*history, item_id][-max_history:]
            row = pd.DataFrame({"user_id": [user_id], "items": [history], "event_timestamp": [moment]})
            with _quiet():
                self.store.push("user_history_push", row, to=PushMode.ONLINE)
            return history, "added"

    def erase(self, users: list[str]) -> int:
        """Remove every user's row from the online store; return how many keys were asked to go."""
        return erase_online(self.store, users)

    def publish_index(self, item_ids: list[str], tokens: list[list[str]]) -> None:
        """Write the item index as features, and bring it online."""
        moment = pd.Series([pd.Timestamp.now("UTC").floor("s")] * len(item_ids)).dt.as_unit("us")
        self._write("item_index", pd.DataFrame({"item_id": item_ids, "tokens": tokens, "event_timestamp": moment}))
        self._materialize(["item_index"], moment)

    def histories(self, targets: pd.DataFrame) -> pd.DataFrame:
        """Return `targets` with a column `history`: the items before each moment, oldest first.

        Args:
            targets: `user_id`, `moment` and any other columns.
        """
        asked = targets[["user_id"]].assign(event_timestamp=targets["moment"] - JUST_BEFORE, row=range(len(targets)))
        with _quiet():
            found = self.store.get_historical_features(asked, features=["user_history:items"]).to_df()
        if len(found) != len(targets):
            raise RuntimeError(f"the offline store answered {len(found)} of {len(targets)} targets")
        items = found.set_index("row")["items"].reindex(range(len(targets)))
        return targets.assign(history=[_as_list(value) for value in items])

    def online_history(self, user_id: str) -> list[str] | None:
        """Return the user's latest items, oldest first, or None for a user nobody has seen."""
        return self.online_histories([user_id])[0]

    def online_histories(self, user_ids: list[str]) -> list[list[str] | None]:
        """Return the histories of several users by one look-up; see `online_history`."""
        rows = [{"user_id": user} for user in user_ids]
        answer = self.store.get_online_features(["user_history:items"], rows).to_dict()
        return [None if value is None else _as_list(value) for value in answer["items"]]

    def some_users(self, n: int) -> list[str]:
        """Return some users of the published table, in the order of their ids; none where it is elsewhere."""
        table = self.folder / "user_history.parquet"
        if not table.is_file():
            return []
        with engine() as connection:
            query = f"SELECT DISTINCT user_id FROM read_parquet({literal(str(table))}) ORDER BY user_id LIMIT {n:d}"
            return [str(user) for (user,) in connection.execute(query).fetchall()]

    def online_item(self, item_id: str) -> dict[str, object]:
        """Return the online catalogue and index features of one item; None where unknown."""
        service = self.store.get_feature_service("items")
        answer = self.store.get_online_features(service, [{"item_id": item_id}]).to_dict()
        return {name: values[0] for name, values in answer.items()}

    def _replace(self, connection: "duckdb.DuckDBPyConnection", view: str, query: str) -> "Change | None":
        """Write a view's table anew, and return how it differs from the one before."""
        target = self.folder / f"{view}.parquet"
        with whole_file(target) as draft:
            run(connection, f"writing {view}", f"COPY ({query}) TO {literal(str(draft))} (FORMAT parquet)")
            now = fresh = f"read_parquet({literal(str(draft))})"
            columns = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {now}").fetchall()]
            keys = [name for name in columns if name in KEYS]
            grown = target.is_file()
            if grown:
                # A late event changes rows in the past: what is new is told by content, not by time.
                same = " AND ".join(f"n.{name} IS NOT DISTINCT FROM o.{name}" for name in columns)
                connection.execute(
                    f"CREATE OR REPLACE TEMP TABLE fresh AS SELECT n.* FROM {now} n ANTI JOIN "
                    f"read_parquet({literal(str(target))}) o ON {same}"
                )
                fresh = "fresh"
            # Up to the end of the log, else a user's row inside the range would replace a later one.
            row = connection.execute(
                f"SELECT count(*), min(event_timestamp), (SELECT max(event_timestamp) FROM {now}) FROM {fresh}"
            ).fetchone()
            if row is None or not row[0]:
                return None
            entities = connection.execute(f"SELECT DISTINCT {', '.join(keys)} FROM fresh").fetchall() if grown else []
            return Change(int(row[0]), row[1], row[2], [dict(zip(keys, map(str, e), strict=True)) for e in entities])

    def _write(self, name: str, table: pd.DataFrame) -> None:
        with whole_file(self.folder / f"{name}.parquet") as draft:
            # Feast's file sources read lists in the plain, not the compliant, nested form.
            pq.write_table(
                pa.Table.from_pandas(table, preserve_index=False),
                draft,
                coerce_timestamps="us",
                use_compliant_nested_type=False,
            )

    def _apply(self) -> None:
        """Register the definitions, read anew: they name this folder."""
        from feast import Entity, FeatureService, FeatureView, PushSource

        kinds = (Entity, FeatureView, FeatureService, PushSource)
        with self._environment(), _quiet():
            found = runpy.run_path(str(self.repository / "definitions.py"))
            self.store.apply([value for value in found.values() if isinstance(value, kinds)])

    def _materialize(self, views: list[str], moments: pd.Series) -> None:
        second = pd.Timedelta(seconds=1)
        first, last = (moments.min() - second).to_pydatetime(), (moments.max() + second).to_pydatetime()
        with _quiet():
            self.store.materialize(first, last, feature_views=views)

    @contextmanager
    def _environment(self) -> Iterator[None]:
        before = dict(os.environ)
        os.environ.update(self._variables())
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _variables(self) -> dict[str, str]:
        """What feature_store.yaml and the definitions read."""
        online, registry = os.environ.get(ONLINE_VARIABLE, SQLITE), os.environ.get(REGISTRY_VARIABLE, "file")
        return {
            FOLDER_VARIABLE: str(self.folder),
            "EAGER_LLM_FEAST_ONLINE": json.dumps(_online_store(online, self.folder)),
            "EAGER_LLM_FEAST_REGISTRY": json.dumps(
                str(self.folder / "registry.db") if registry == "file" else {"registry_type": "sql", "path": registry}
            ),
            "FEAST_USAGE": "False",
        }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the deprecations between Feast's own dependencies from people's logs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _online_store(setting: str, folder: Path) -> dict[str, str]:
    """Return Feast's configuration of the online store."""
    if setting == SQLITE:
        return {"type": "sqlite", "path": str(folder / "online.db")}
    url = urlsplit(setting)
    if url.scheme != "redis" or not url.hostname:
        raise UserError(f"{ONLINE_VARIABLE}={setting}: choose sqlite, or redis://host:port")
    options = [f"{url.hostname}:{url.port or 6379}"]
    options += [f"db={url.path[1:]}"] if url.path.strip("/") else []
    options += [f"password={url.password}"] if url.password else []
    # A store that does not answer is an error soon, not a request that waits for ever.
    options += ["socket_timeout=2", "socket_connect_timeout=2"]
    return {"type": "redis", "connection_string": ",".join(options)}


def _as_list(value: object) -> list[str]:
    """Return a list feature's value; a user without a row has None or NaN."""
    return [] if value is None or isinstance(value, float) else [str(item) for item in value]  # type: ignore[attr-defined]
