"""LC-Rec JSON: histories in order without a clock, and a catalogue, each one JSON object."""

from pathlib import Path
from typing import Any

import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json
from eager_llm.data.tables import ITEM_COLUMNS, TEXT_COLUMNS
from eager_llm.data.text_cleaning import clean_text

# Such logs have an order but no clock: positions become days after this moment.
ORDINAL_START = pd.Timestamp("2000-01-01", tz="UTC")


def lcrec_frames(log: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the events, and the items where NAME.item.json lies beside the log.

    Raises:
        UserError: a file has another shape; the entry is named.
    """
    histories = _mapping(log, list)
    rows = []
    for user, history in histories.items():
        if not user.strip():
            raise UserError(f"{log}: a user's id is empty")
        for position, item in enumerate(history):
            if isinstance(item, (dict, list)) or item is None or not str(item).strip():
                raise UserError(
                    f"{log}: user {user!r}, position {position}: {item!r} is not an item id"
                )
            rows.append((user.strip(), str(item).strip(), position))
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "position"])
    events["timestamp"] = (
        ORDINAL_START + pd.to_timedelta(events.pop("position"), unit="D")
    ).dt.as_unit("us")
    catalogue = log.with_name(log.name.replace(".inter.json", ".item.json"))
    return events, _items(catalogue) if catalogue.is_file() else None


def _items(path: Path) -> pd.DataFrame:
    rows = []
    for item, fields in _mapping(path, dict).items():
        for name, value in fields.items():
            if name in TEXT_COLUMNS and not isinstance(value, (str, type(None))):
                raise UserError(f"{path}: item {item!r}: {name} is {value!r}; expected text")
        rows.append(
            {
                "item_id": item.strip(),
                **{name: clean_text(fields.get(name)) for name in TEXT_COLUMNS},
            }
        )
    return pd.DataFrame(rows, columns=list(ITEM_COLUMNS))


def _mapping(path: Path, kind: type) -> dict[str, Any]:
    value = read_json(path)
    word = "[item, item, ...]" if kind is list else "{title: ...}"
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path}: expected a non-empty object {{id: {word}}}")
    for key, entry in value.items():
        if not isinstance(entry, kind):
            raise UserError(f"{path}: entry {key!r} is {type(entry).__name__}; expected {word}")
    return value
