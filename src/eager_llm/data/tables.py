"""The tables that cross between parts: events, items and, where there is one, intentions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, whole_folder, write_json

EVENT_COLUMNS = ("user_id", "item_id", "timestamp")
TEXT_COLUMNS = ("title", "description", "brand", "categories")
ITEM_COLUMNS = ("item_id", *TEXT_COLUMNS)
INTENTION_COLUMNS = ("user_id", "item_id", "intention", "preference")


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
            write_json(draft / "facts.json", self.metadata)

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        """Read what `save` wrote.

        Raises:
            UserError: `folder` does not hold such tables.
        """
        require_tables(folder)
        intentions = folder / "intentions.parquet"
        return cls(
            pd.read_parquet(folder / "events.parquet"),
            pd.read_parquet(folder / "items.parquet"),
            pd.read_parquet(intentions) if intentions.is_file() else None,
            read_json(folder / "facts.json"),
        )


def require_tables(folder: Path) -> None:
    """Raise UserError where a folder holds no imported tables."""
    for name in ("events.parquet", "items.parquet", "facts.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: holds no {name}; make it with: eager-llm import")


def read_item_ids(path: Path) -> list[str]:
    """Return the column `item_id` of a Parquet or CSV file, as strings in the order of its rows.

    Raises:
        UserError: the file is missing or unreadable, has no such column, or an empty id.
    """
    return read_items(path, ())["item_id"].tolist()


def read_items(path: Path, texts: tuple[str, ...] = ("title", "categories")) -> pd.DataFrame:
    """Return `item_id` and texts of a Parquet or CSV file, as strings in the order of its rows.

    A text that the file does not have is empty.

    Raises:
        UserError: the file is missing or unreadable, has no column `item_id`, or an empty id.
    """
    try:
        if path.suffix == ".csv":
            wanted = {"item_id", *texts}
            table = pd.read_csv(
                path, usecols=lambda name: name in wanted, dtype=str, keep_default_na=False
            )
        else:
            there = set(pq.read_schema(path).names)
            table = pd.read_parquet(
                path, columns=["item_id", *(name for name in texts if name in there)]
            )
        ids = table["item_id"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not readable as a table with a column item_id: {error}") from None
    empty = ids.isna() | (ids.astype(str) == "")
    if empty.any():
        raise UserError(f"{path}: row {int(empty.to_numpy().argmax()) + 1}: item_id is empty")
    columns = {name: table[name].fillna("").astype(str) if name in table else "" for name in texts}
    return pd.DataFrame({"item_id": ids.astype(str), **columns})


def item_titles(items: pd.DataFrame) -> dict[str, str]:
    """Return what people call each item: its title, else its categories, else its id."""
    rows = zip(items["item_id"], items["title"], items["categories"], strict=True)
    return {item: title or categories or item for item, title, categories in rows}


def item_texts(items: pd.DataFrame) -> list[str]:
    """Return one line of text an item: title, brand and categories, what is empty left out."""
    columns = [items[name] for name in ("title", "brand", "categories")]
    return [" | ".join(part for part in row if part) for row in zip(*columns, strict=True)]
