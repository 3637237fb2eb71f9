"""Bring people's files into the tables: LC-Rec JSON, CSV, Parquet and JSON lines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from eager_llm.catalogue.tables import (
    EVENT_COLUMNS,
    INTENTION_COLUMNS,
    ITEM_COLUMNS,
    TEXT_COLUMNS,
    Tables,
)
from eager_llm.errors import UserError
from eager_llm.files import not_utf8, read_json

# LC-Rec logs have an order but no clock: positions become days after this moment.
ORDINAL_START = pd.Timestamp("2000-01-01", tz="UTC")


def import_path(path: Path) -> Tables:
    """Read a folder of files in a known form.

    A folder is LC-Rec JSON if it holds `*.inter.json` (with `*.item.json` beside it, if there is
    one), else it must hold `events.*`, and may hold `items.*` and `intentions.*`, as `.csv`,
    `.parquet` or `.jsonl`.

    Raises:
        UserError: nothing there has a known form, or a file is broken; file, row and field named.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name the folder that holds the log")
    logs = sorted(path.glob("*.inter.json"))
    if len(logs) > 1:
        raise UserError(f"{path}: several logs ({', '.join(p.name for p in logs)}); keep one a folder")
    return _lcrec(logs[0]) if logs else _tables(path)


def _lcrec(log: Path) -> Tables:
    histories = _mapping(log, list)
    rows = []
    for user, history in histories.items():
        for position, item in enumerate(history):
            if isinstance(item, (dict, list)) or item is None:
                raise UserError(f"{log}: user {user!r}, position {position}: {item!r} is not an item id")
            rows.append((user, str(item), position))
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "position"])
    events["timestamp"] = ORDINAL_START + pd.to_timedelta(events.pop("position"), unit="D")
    catalogue = log.with_name(log.name.replace(".inter.json", ".item.json"))
    items = _lcrec_items(catalogue) if catalogue.is_file() else _items_of(events)
    return _checked(events, items, None, {"source": log.name, "form": "LC-Rec JSON", "ordinal_time": True})


def _lcrec_items(path: Path) -> pd.DataFrame:
    rows = []
    for item, fields in _mapping(path, dict).items():
        for name, value in fields.items():
            if name in TEXT_COLUMNS and not isinstance(value, (str, type(None))):
                raise UserError(f"{path}: item {item!r}: {name} is {value!r}; expected text")
        rows.append({"item_id": item, **{name: fields.get(name) or "" for name in TEXT_COLUMNS}})
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


def _items_of(events: pd.DataFrame) -> pd.DataFrame:
    """Make a catalogue without text for a log that comes without one."""
    items = pd.DataFrame({"item_id": sorted(events["item_id"].unique())})
    return items.assign(**dict.fromkeys(TEXT_COLUMNS, ""))


def _tables(folder: Path) -> Tables:
    log = _find(folder, "events")
    if log is None:
        raise UserError(
            f"{folder}: no log found; expected NAME.inter.json (LC-Rec) or events.csv, events.parquet, events.jsonl"
        )
    events = _read(log, EVENT_COLUMNS)
    events["timestamp"] = _timestamps(log, events["timestamp"])
    catalogue, wishes = _find(folder, "items"), _find(folder, "intentions")
    items = _read(catalogue, ("item_id",)) if catalogue else _items_of(events)
    intentions = _read(wishes, INTENTION_COLUMNS) if wishes else None
    return _checked(events, items, intentions, {"source": log.name, "form": log.suffix[1:], "ordinal_time": False})


def _find(folder: Path, stem: str) -> Path | None:
    found = [folder / f"{stem}.{kind}" for kind in READERS if (folder / f"{stem}.{kind}").is_file()]
    if len(found) > 1:
        raise UserError(f"{folder}: {' and '.join(p.name for p in found)} say the same; keep one")
    return found[0] if found else None


def _read(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    table = READERS[path.suffix[1:]](path)
    missing = [name for name in required if name not in table.columns]
    if missing:
        raise UserError(f"{path}: column {', '.join(missing)} is missing; found {', '.join(map(str, table.columns))}")
    if table.empty:
        raise UserError(f"{path}: the file has a header but no rows")
    return table


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, data, error.start) from None


def _read_csv(path: Path) -> pd.DataFrame:
    _text(path)
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not readable as CSV: {error}") from None


def _read_jsonl(path: Path) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{path}: line {number}: not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number}: expected an object, found {type(row).__name__}")
        rows.append(row)
    return pd.DataFrame(rows)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa

    try:
        return pd.read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet: {error}") from None


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "csv": _read_csv,
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
}


def _timestamps(path: Path, values: pd.Series) -> pd.Series:
    """Read ISO dates, or seconds since 1970, as UTC in microseconds."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all() and not pd.api.types.is_datetime64_any_dtype(values):
        parsed = pd.to_datetime(numbers, unit="s", utc=True, errors="coerce")
    else:
        parsed = pd.to_datetime(values, utc=True, errors="coerce", format="ISO8601")
    wrong = parsed.isna()
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise UserError(
            f"{path}: row {row + 1}: timestamp {values.iloc[row]!r} is neither an ISO date nor seconds since 1970"
        )
    return parsed.dt.as_unit("us")


def _checked(
    events: pd.DataFrame, items: pd.DataFrame, intentions: pd.DataFrame | None, facts: dict[str, Any]
) -> Tables:
    """Bring ids to strings and text to strings, refusing empty ids."""
    events, items = events.copy(), items.copy()
    for name, table in (("events", events), ("items", items), ("intentions", intentions)):
        if table is None:
            continue
        for column in ("user_id", "item_id"):
            if column not in table.columns:
                continue
            ids = _ids(table[column])
            if (ids == "").any():
                row = int((ids == "").to_numpy().argmax())
                raise UserError(f"{facts['source']}: {name}, row {row + 1}: {column} is empty")
            table[column] = ids
    for column in TEXT_COLUMNS:
        items[column] = _plain_text(items[column]) if column in items else ""
    for column in set(items.columns) - set(ITEM_COLUMNS):
        items[column] = _typed(items[column])
    events["timestamp"] = events["timestamp"].dt.as_unit("us")
    return Tables(events, items, intentions, facts)


def _ids(values: pd.Series) -> pd.Series:
    """Return ids as text; a whole number that a missing value turned into 5.0 is '5' again."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype("string").fillna("").str.strip().astype(object)


def _typed(values: pd.Series) -> pd.Series:
    """Return a column of optional cells as numbers or truth values where all that is filled reads so.

    Cells with leading zeros, such as article numbers, stay text.
    """
    if not (pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values)):
        return values
    text = _plain_text(values)
    filled = text[text != ""]
    if len(filled) and filled.str.lower().isin(["true", "false"]).all() and len(filled) == len(text):
        return text.str.lower() == "true"
    numbers = pd.to_numeric(text.where(text != ""), errors="coerce")
    if len(filled) and numbers[filled.index].notna().all() and not filled.str.match(r"[+-]?0\d").any():
        return numbers
    return text


def _plain_text(values: pd.Series) -> pd.Series:
    """Return one line of text a cell; lists (categories in JSON lines) are joined by commas."""
    joined = values.map(lambda v: ",".join(map(str, v)) if isinstance(v, list) else v)
    return joined.astype("string").fillna("").str.split().str.join(" ").astype(object)
