"""The join with Feast: publishing the tables, histories as of a moment, histories online."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eager_llm.catalogue.tables import ITEM_COLUMNS, Tables
from eager_llm.errors import UserError
from eager_llm.files import whole_file

if TYPE_CHECKING:
    from feast import FeatureStore

FOLDER_VARIABLE = "EAGER_LLM_FEATURES"
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
        return self._store

    def publish(self, tables: Tables, max_history: int) -> None:
        """Write the tables, apply the definitions, and bring the latest values online."""
        moment = tables.events["timestamp"].min()
        self._write("user_history", history_table(tables.events, max_history))
        self._write("item_catalogue", tables.items[list(ITEM_COLUMNS)].assign(event_timestamp=moment))
        self._apply()
        self._materialize(["user_history", "item_catalogue"], tables.events["timestamp"])

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
        answer = self.store.get_online_features(["user_history:items"], [{"user_id": user_id}]).to_dict()
        value = answer["items"][0]
        return None if value is None else _as_list(value)

    def online_item(self, item_id: str) -> dict[str, object]:
        """Return the online catalogue and index features of one item; None where unknown."""
        service = self.store.get_feature_service("items")
        answer = self.store.get_online_features(service, [{"item_id": item_id}]).to_dict()
        return {name: values[0] for name, values in answer.items()}

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
        command = [sys.executable, "-m", "feast.cli.cli", "--chdir", str(self.repository), "apply"]
        environment = {**os.environ, FOLDER_VARIABLE: str(self.folder), "FEAST_USAGE": "False"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"feast apply failed:\n{done.stdout}\n{done.stderr}")
        self._store = None

    def _materialize(self, views: list[str], moments: pd.Series) -> None:
        second = pd.Timedelta(seconds=1)
        first, last = (moments.min() - second).to_pydatetime(), (moments.max() + second).to_pydatetime()
        with _quiet():
            self.store.materialize(first, last, feature_views=views)

    @contextmanager
    def _environment(self) -> Iterator[None]:
        before = os.environ.get(FOLDER_VARIABLE)
        os.environ[FOLDER_VARIABLE] = str(self.folder)
        try:
            yield
        finally:
            if before is None:
                del os.environ[FOLDER_VARIABLE]
            else:
                os.environ[FOLDER_VARIABLE] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the deprecations between Feast's own dependencies from people's logs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def history_table(events: pd.DataFrame, max_history: int) -> pd.DataFrame:
    """Return one row an event: the user's last items up to and including it.

    Args:
        events: chronological within each user, as `prepare` leaves them.

    Returns:
        `user_id`, `items` (list of at most `max_history` ids, oldest first), `event_timestamp`.
    """
    item_ids = events["item_id"].to_numpy()
    position = events.groupby("user_id", sort=False).cumcount().to_numpy()
    histories = [item_ids[row - min(place, max_history - 1) : row + 1].tolist() for row, place in enumerate(position)]
    return pd.DataFrame({"user_id": events["user_id"], "items": histories, "event_timestamp": events["timestamp"]})


def _as_list(value: object) -> list[str]:
    """Return a list feature's value; a user without a row has None or NaN."""
    return [] if value is None or isinstance(value, float) else [str(item) for item in value]  # type: ignore[attr-defined]
