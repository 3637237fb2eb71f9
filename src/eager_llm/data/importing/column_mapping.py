"""How somebody's log maps onto the tables: columns, files, dialect, times; by flags or a YAML file."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from eager_llm.core.errors import UserError
from eager_llm.data.tables import EVENT_COLUMNS, INTENTION_COLUMNS, ITEM_COLUMNS

MAPPING_FILE = "import.yaml"
EVENT_FIELDS = (*EVENT_COLUMNS, "event_type", "weight")
# For each table our fields, all that a source may fill.
FIELDS = {"events": EVENT_FIELDS, "items": ITEM_COLUMNS, "intentions": INTENTION_COLUMNS}
FORMATS = (
    "lc-rec",
    "recbole",
    "movielens",
    "amazon-2018",
    "amazon-2023",
    "tables",
    "topic",
    "sql",
)
TIME_UNITS = ("s", "ms", "us", "ns")
TABLE_KEYS = ("columns", "files", "queries")
LONGEST_DELIMITER = 4
# What `format` was called in earlier versions.
EARLIER_FORMAT = "form"
TEXT_KEYS = (
    "format",
    EARLIER_FORMAT,
    "url",
    "delimiter",
    "encoding",
    "time_format",
    "time_unit",
    "item_aliases",
)
CHOICES = {"format": FORMATS, EARLIER_FORMAT: FORMATS, "time_unit": TIME_UNITS}


@dataclass(frozen=True)
class ColumnMapping:
    """What a person says of a log; all of it may be left out where the format is recognised.

    Attributes:
        format: one of `FORMATS`; empty: recognised by the files.
        columns: for each table (`events`, `items`, `intentions`) our field to their column, or in
            JSON a path with dots (`payload.user.id`).
        files: for each table a file name or pattern in the folder.
        queries: for each table a SQL query (format `sql`).
        url: of the database (format `sql`), or `env:NAME` for a variable that holds it.
        delimiter: of delimited text; empty: told by the header.
        encoding: of delimited text, such as utf-8 or latin-1.
        time_format: strptime's format of the times; empty: ISO dates, or a number since 1970.
        time_unit: of numbers: s, ms, us or ns; empty: by their size.
        item_aliases: a CSV of `item_id, same_as` beside the log: items that are one.
    """

    format: str = ""
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)
    url: str = ""
    delimiter: str = ""
    encoding: str = ""
    time_format: str = ""
    time_unit: str = ""
    item_aliases: str = ""

    @classmethod
    def read(cls, file: Path) -> "ColumnMapping":
        """Read a YAML file.

        Raises:
            UserError: the file is missing or not YAML, or has mistakes; every one is named.
        """
        try:
            text = file.read_text(encoding="utf-8")
            values = yaml.safe_load(text) or {}
        except FileNotFoundError:
            raise UserError(f"{file}: no such file") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: not readable as YAML: {error}") from None
        if not isinstance(values, dict):
            kind = type(values).__name__
            raise UserError(f"{file}: expected names with values, found {kind}")
        return cls.from_dict(values, str(file))

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> "ColumnMapping":
        """Build from values as YAML has them.

        Raises:
            UserError: there are mistakes; `origin` and every one of them are named.
        """
        texts = {key: values[key] for key in TEXT_KEYS if key in values}
        mistakes = [
            *_key_mistakes(values),
            *_table_mistakes(values),
            *_text_mistakes("", texts),
            *_choice_mistakes(values),
        ]
        if mistakes:
            lines = "\n  ".join(mistakes)
            raise UserError(f"{origin}: the mapping has mistakes:\n  {lines}")
        values = dict(values)
        if EARLIER_FORMAT in values:
            values["format"] = values.pop(EARLIER_FORMAT)
        return cls(**values)

    def with_columns(self, flags: list[str]) -> "ColumnMapping":
        """Add columns given as `table.field=column`, such as events.user_id=customer.

        Raises:
            UserError: a flag is written otherwise, or names no such field.
        """
        columns = {table: dict(names) for table, names in self.columns.items()}
        for flag in flags:
            target, separator, column = flag.partition("=")
            table, dot, field_name = target.partition(".")
            is_complete = separator and dot and column
            if not is_complete or table not in FIELDS:
                raise UserError(
                    f"--column {flag!r}: write it as table.field=column, "
                    "such as events.user_id=customer"
                )
            columns.setdefault(table, {})[field_name] = column
        mistakes = _column_mistakes(columns)
        if mistakes:
            raise UserError("--column: " + "; ".join(mistakes))
        return replace(self, columns=columns)

    def names(self, table: str) -> dict[str, str]:
        """Return our field → their column, for the fields of `table` that were mapped."""
        return self.columns.get(table, {})


ENTRIES = tuple(spec.name for spec in fields(ColumnMapping))


def _key_mistakes(values: dict[str, Any]) -> list[str]:
    """Name entries that do not exist."""
    keys = [key for key in values if key != EARLIER_FORMAT]
    mistakes = _unknown_names("", keys, ENTRIES, "entry")
    if "format" in values and EARLIER_FORMAT in values:
        mistakes.append(f"{EARLIER_FORMAT}: an earlier name of format; keep one of them")
    return mistakes


def _table_mistakes(values: dict[str, Any]) -> list[str]:
    """Name what is wrong with the entries that have a value for each table."""
    mistakes = []
    tables = tuple(FIELDS)
    for key in TABLE_KEYS:
        entries = values.get(key, {})
        if not isinstance(entries, dict):
            mistakes.append(f"{key}: expected {', '.join(tables)}, found {entries!r}")
            continue
        mistakes += _unknown_names(f"{key}.", entries, tables, "table")
        if key == "columns":
            mistakes += _column_mistakes(entries)
        else:
            mistakes += _text_mistakes(f"{key}.", entries)
    return mistakes


def _column_mistakes(columns: dict[str, Any]) -> list[str]:
    """Name what is wrong with the columns of the tables."""
    mistakes = []
    for table, names in columns.items():
        if not isinstance(names, dict):
            mistakes.append(f"columns.{table}: expected field: column, found {names!r}")
            continue
        prefix = f"columns.{table}."
        mistakes += _unknown_names(prefix, names, FIELDS.get(table, ()), "field")
        mistakes += _text_mistakes(prefix, names)
    return mistakes


def _choice_mistakes(values: dict[str, Any]) -> list[str]:
    """Name entries that are none of their choices, or too long."""
    mistakes = []
    for key, choices in CHOICES.items():
        value = values.get(key, "")
        if value not in ("", *choices):
            mistakes.append(f"{key} = {value!r}: choose from {', '.join(choices)}")
    delimiter = values.get("delimiter", "")
    size = len(str(delimiter).encode())
    if size > LONGEST_DELIMITER:
        mistakes.append(f"delimiter = {delimiter!r}: expected at most {LONGEST_DELIMITER} bytes")
    return mistakes


def _unknown_names(
    prefix: str, names: Iterable[str], known: tuple[str, ...], noun: str
) -> list[str]:
    """Name those that are not known.

    Args:
        prefix: before each name.
        noun: what the names are.
    """
    mistakes = []
    for name in names:
        if name in known:
            continue
        mistakes.append(f"{prefix}{name}: no such {noun}; known: {', '.join(known)}")
    return mistakes


def _text_mistakes(prefix: str, entries: dict[str, Any]) -> list[str]:
    """Name entries that are no text."""
    mistakes = []
    for name, value in entries.items():
        if isinstance(value, str):
            continue
        mistakes.append(f"{prefix}{name} = {value!r}: expected text")
    return mistakes
