"""LC-Rec JSON: histories in order without a clock, and a catalogue, each one JSON object."""

from pathlib import Path
from typing import Any

import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json
from eager_llm.data.tables import ITEM_COLUMNS, TEXT_COLUMNS
from eager_llm.data.text_cleaning import clean_text

# Such logs have an order but no clock: positions become days after this date.
ORDINAL_START = pd.Timestamp("2000-01-01", tz="UTC")


def lcrec_frames(log: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the events, and the items where NAME.item.json lies beside the log.

    Raises:
        UserError: a file has another shape; the entry is named.
    """
    events = _events(log)
    catalogue = log.with_name(log.name.replace(".inter.json", ".item.json"))
    if not catalogue.is_file():
        return events, None
    return events, _items(catalogue)


def _events(log: Path) -> pd.DataFrame:
    """Read the histories.

    Returns:
        `user_id`, `item_id` and `timestamp`, a day a position.
    """
    histories = _read_object(log, list, "[item, item, ...]")
    rows = []
    for user, history in histories.items():
        user_id = user.strip()
        if not user_id:
            raise UserError(f"{log}: a user's id is empty")
        for position, item in enumerate(history):
            item_id = _item_id(item)
            if not item_id:
                raise UserError(
                    f"{log}: user {user!r}, position {position}: {item!r} is not an item id"
                )
            rows.append((user_id, item_id, position))
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "position"])
    positions = events.pop("position")
    times = ORDINAL_START + pd.to_timedelta(positions, unit="D")
    events["timestamp"] = times.dt.as_unit("us")
    return events


def _item_id(value: Any) -> str:
    """Return an entry of a history as an id; empty where it is none."""
    if value is None or isinstance(value, (dict, list)):
        return ""
    return str(value).strip()


def _items(path: Path) -> pd.DataFrame:
    """Read the catalogue.

    Returns:
        The columns `ITEM_COLUMNS`, all of them text.
    """
    catalogue = _read_object(path, dict, "{title: ...}")
    rows = []
    for item, fields in catalogue.items():
        row = {"item_id": item.strip()}
        for column in TEXT_COLUMNS:
            value = fields.get(column)
            is_text = value is None or isinstance(value, str)
            if not is_text:
                raise UserError(f"{path}: item {item!r}: {column} is {value!r}; expected text")
            row[column] = clean_text(value)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(ITEM_COLUMNS))


def _read_object(path: Path, entry_type: type, shape: str) -> dict[str, Any]:
    """Read a JSON object of id → entry.

    Args:
        entry_type: of every entry.
        shape: of an entry, for people.

    Raises:
        UserError: it is none, it is empty, or an entry has another type.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path}: expected a non-empty object {{id: {shape}}}")
    for key, entry in value.items():
        if not isinstance(entry, entry_type):
            kind = type(entry).__name__
            raise UserError(f"{path}: entry {key!r} is {kind}; expected {shape}")
    return value
