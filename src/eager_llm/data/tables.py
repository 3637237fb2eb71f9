"""The tables that pass from step to step: events, items and, if the log has them, intentions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, whole_folder, write_json

EVENT_COLUMNS = ("user_id", "item_id", "timestamp")
TEXT_COLUMNS = ("title", "description", "brand", "categories")
ITEM_COLUMNS = ("item_id", *TEXT_COLUMNS)
INTENTION_COLUMNS = ("user_id", "item_id", "intention", "preference")

# Characters of a user's or an item's id: the service takes no longer ones.
LONGEST_ID = 256

METADATA = "metadata.json"
# What earlier versions called it.
_EARLIER_METADATA = "facts.json"

_WHOLE_NUMBERS = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}


@dataclass(frozen=True)
class Tables:
    """A log with its catalogue.

    Attributes:
        events: `user_id`, `item_id` (strings) and `timestamp` (UTC, microseconds), chronological.
        items: `item_id`, `title`, `description`, `brand`, `categories` (strings, may be empty).
        intentions: `user_id`, `item_id`, `intention` (what the user looked for when choosing the
            item) and `preference` (what the user said to like at that moment), or None.
        metadata: where the tables come from and what importing them dropped.
    """

    events: pd.DataFrame
    items: pd.DataFrame
    intentions: pd.DataFrame | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the tables as Parquet, all or none."""
        with whole_folder(folder) as draft:
            self.events.to_parquet(draft / "events.parquet", index=False)
            self.items.to_parquet(draft / "items.parquet", index=False)
            if self.intentions is not None:
                self.intentions.to_parquet(draft / "intentions.parquet", index=False)
            write_metadata(draft, self.metadata)

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        """Read what `save` wrote.

        Raises:
            UserError: `folder` does not hold such tables.
        """
        require_tables(folder)
        events = pd.read_parquet(folder / "events.parquet")
        items = read_catalogue(folder / "items.parquet")
        intentions = None
        if (folder / "intentions.parquet").is_file():
            intentions = pd.read_parquet(folder / "intentions.parquet")
        return cls(events, items, intentions, read_metadata(folder))


def require_tables(folder: Path) -> None:
    """Check that a folder holds imported tables.

    Raises:
        UserError: a file is missing; it is named.
    """
    for file in (folder / "events.parquet", folder / "items.parquet", metadata_file(folder)):
        if not file.is_file():
            raise UserError(f"{folder}: holds no {file.name}; make it with: eager-llm import")


def metadata_file(folder: Path) -> Path:
    """Return the metadata file of a folder of tables, also where an earlier version wrote it.

    Where there is none, this is the path that `write_metadata` would write.
    """
    earlier = folder / _EARLIER_METADATA
    if earlier.is_file() and not (folder / METADATA).is_file():
        return earlier
    return folder / METADATA


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read the metadata of a folder of tables.

    Raises:
        UserError: there is no metadata, or it is not JSON.
    """
    metadata: dict[str, Any] = read_json(metadata_file(folder))
    return metadata


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write the metadata of a folder of tables; it replaces that of an earlier version."""
    write_json(folder / METADATA, metadata)
    (folder / _EARLIER_METADATA).unlink(missing_ok=True)


def read_item_ids(path: Path) -> list[str]:
    """Return the column `item_id` of a Parquet or CSV file, as strings in the order of its rows.

    Raises:
        UserError: the file is missing or unreadable, has no such column, or an empty id.
    """
    items = read_items(path, texts=())
    return items["item_id"].tolist()


def read_items(path: Path, texts: tuple[str, ...] = ("title", "categories")) -> pd.DataFrame:
    """Return `item_id` and texts of a Parquet or CSV file, as strings in the order of its rows.

    Args:
        path: the file; its ending says which of the two it is.
        texts: columns with text; one that the file does not have is empty.

    Raises:
        UserError: the file is missing or unreadable, has no column `item_id`, or an empty id.
    """
    try:
        table = _read_columns(path, ("item_id", *texts))
        ids = table["item_id"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not readable as a table with a column item_id: {error}") from None
    empty = ids.isna() | (ids.astype(str) == "")
    if empty.any():
        row = int(empty.to_numpy().argmax()) + 1
        raise UserError(f"{path}: row {row}: item_id is empty")
    items = pd.DataFrame({"item_id": ids.astype(str)})
    for name in texts:
        items[name] = ""
        if name in table:
            items[name] = table[name].fillna("").astype(str)
    return items


def item_titles(items: pd.DataFrame) -> dict[str, str]:
    """Return what people call each item: its title, else its categories, else its id."""
    titles = {}
    rows = zip(items["item_id"], items["title"], items["categories"], strict=True)
    for item_id, title, categories in rows:
        titles[item_id] = title or categories or item_id
    return titles


def item_texts(items: pd.DataFrame) -> list[str]:
    """Return one line of text an item: title, brand and categories without the empty ones."""
    rows = zip(items["title"], items["brand"], items["categories"], strict=True)
    return [" | ".join(filter(None, row)) for row in rows]


def _read_columns(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read those columns that the file has; the first one has to be there."""
    if path.suffix == ".csv":
        return pd.read_csv(
            path, usecols=lambda name: name in columns, dtype=str, keep_default_na=False
        )
    required, *optional = columns
    available = set(pq.read_schema(path).names)
    present = [name for name in optional if name in available]
    return pd.read_parquet(path, columns=[required, *present])


def read_catalogue(path: Path) -> pd.DataFrame:
    """Read a catalogue; whole numbers stay whole where some cells are empty.

    pandas by itself would make floats of them, which hold no number above 2^53 exactly.
    """
    table = pq.read_table(path)
    items: pd.DataFrame = table.to_pandas()
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_integer(column.type) and column.null_count:
            items[name] = column.to_pandas(types_mapper=_WHOLE_NUMBERS.get)
    return items
