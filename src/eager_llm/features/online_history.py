"""A history online: its items and their moments, read as a list, and grown an event at a time."""

from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Literal

import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.features.online_store import OnlineRows

if TYPE_CHECKING:
    from feast import FeatureStore

# What becomes of a pushed event.
Pushed = Literal["added", "known", "late"]


class OnlineHistory:
    """The histories of one view, by their keys.

    Args:
        store: Feast's store.
        view: a view with the features `items` and `moments`.
    """

    def __init__(self, store: "FeatureStore", view: str) -> None:
        self._view = view
        self._rows = OnlineRows(store, view, ["items", "moments"])

    def read(self, key: Mapping[str, str]) -> list[str] | None:
        """Return the items of a key, oldest first, or None where there is no row of it.

        Raises:
            UserError: nothing has been published yet.
        """
        row = self._rows.read(key)
        if row is None:
            return None
        return row[0] or []

    def push(
        self, key: Mapping[str, str], item_id: str, microseconds: int, max_history: int
    ) -> tuple[list[str], Pushed]:
        """Add an event to a history; the caller holds the user's lock.

        Args:
            key: value of each join key.
            item_id: the event's item.
            microseconds: its moment, since 1970.
            max_history: how many of the last events are kept.

        Returns:
            The items now, oldest first, and what became of the event.

        Raises:
            UserError: the row is of an earlier version, without moments, or nothing has been
                published yet.
        """
        from feast.protos.feast.types.Value_pb2 import Int64List, StringList, Value

        event = (microseconds, item_id)
        earlier = self._events(key)
        if event in earlier:
            return [item for _, item in earlier], "known"
        # Of one moment, in the order of the pushes.
        events = sorted([*earlier, event], key=itemgetter(0))[-max_history:]
        items = [item for _, item in events]
        if event not in events:
            return items, "late"
        moments = [moment for moment, _ in events]
        row = [
            Value(string_list_val=StringList(val=items)),
            Value(int64_list_val=Int64List(val=moments)),
        ]
        last = pd.Timestamp(moments[-1], unit="us", tz="UTC")
        self._rows.write(key, row, last.to_pydatetime())
        return items, "added"

    def _events(self, key: Mapping[str, str]) -> list[tuple[int, str]]:
        """Return moment and item of each event that is kept, oldest first."""
        row = self._rows.read(key)
        if row is None:
            return []
        items, moments = row[0] or [], row[1] or []
        if len(items) != len(moments):
            raise UserError(f"{self._view} holds no times online; publish the features again")
        return list(zip(moments, items, strict=True))


def microseconds_of(moment: pd.Timestamp) -> int:
    """Return microseconds since 1970; without a zone the moment is UTC."""
    if moment.tzinfo is None:
        moment = moment.tz_localize("UTC")
    return (moment - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(microseconds=1)


def checked_microseconds(user_id: str, item_id: str, moment: pd.Timestamp) -> int:
    """Return a pushed event's moment in microseconds since 1970.

    Raises:
        UserError: no user or item is named, or the moment is before 1970 or later than tomorrow.
    """
    if not user_id or not item_id:
        raise UserError("an event needs a user and an item")
    microseconds = microseconds_of(moment)
    # The same bounds as in an import.
    tomorrow = pd.Timestamp.now("UTC") + pd.Timedelta(days=1)
    if microseconds < 0 or microseconds > microseconds_of(tomorrow):
        raise UserError(
            f"user {user_id!r}: the event's time {moment} is before 1970 or later than tomorrow"
        )
    return microseconds
