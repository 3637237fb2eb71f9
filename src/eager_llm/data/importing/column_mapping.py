"""How somebody's log maps onto the tables: columns, files, dialect, times; by flags or a YAML file."""

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
            values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise UserError(f"{file}: no such file") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: not readable as YAML: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{file}: expected names with values, found {type(values).__name__}")
        return cls.from_dict(values, str(file))

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> "ColumnMapping":
        """Build from values as YAML has them.

        Raises:
            UserError: there are mistakes; `origin` and every one of them are named.
        """
        mistakes = [
            *_key_mistakes(values),
            *_table_mistakes(values),
            *_text_mistakes(values),
            *_choice_mistakes(values),
        ]
        if mistakes:
            raise UserError(f"{origin}: the mapping has mistakes:\n  " + "\n  ".join(mistakes))
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
            if not (separator and dot and column) or table not in FIELDS:
                raise UserError(
                    f"--column {flag!r}: write it as table.field=column, "
                    "such as events.user_id=customer"
                )
            columns.setdefault(table, {})[field_name] = column
        mistakes = []
        for table, names in columns.items():
            mistakes += _column_mistakes(table, names)
        if mistakes:
            raise UserError("--column: " + "; ".join(mistakes))
        return replace(self, columns=columns)

    def names(self, table: str) -> dict[str, str]:
        """Return our field → their column, for the fields of `table` that were mapped."""
        return self.columns.get(table, {})


ENTRIES = tuple(spec.name for spec in fields(ColumnMapping))


def _key_mistakes(values: dict[str, Any]) -> list[str]:
    """Name entries that do not exist."""
    unknown = [key for key in values if key not in (*ENTRIES, EARLIER_FORMAT)]
    mistakes = [f"{key}: no such entry; known: {', '.join(ENTRIES)}" for key in unknown]
    if "format" in values and EARLIER_FORMAT in values:
        mistakes.append(f"{EARLIER_FORMAT}: an earlier name of format; keep one of them")
    return mistakes


def _table_mistakes(values: dict[str, Any]) -> list[str]:
    """Name what is wrong with the entries that have a value for each table."""
    mistakes = []
    tables = ", ".join(FIELDS)
    for key in TABLE_KEYS:
        entries = values.get(key, {})
        if not isinstance(entries, dict):
            mistakes.append(f"{key}: expected {tables}, found {entries!r}")
            continue
        unknown = [table for table in entries if table not in FIELDS]
        mistakes += [f"{key}.{table}: no such table; known: {tables}" for table in unknown]
        for table, value in entries.items():
            if key == "columns":
                mistakes += _column_mistakes(table, value)
            elif not isinstance(value, str):
                mistakes.append(f"{key}.{table} = {value!r}: expected text")
    return mistakes


def _column_mistakes(table: str, names: Any) -> list[str]:
    """Name what is wrong with the columns of a table."""
    if not isinstance(names, dict):
        return [f"columns.{table}: expected field: column, found {names!r}"]
    fields_known = ", ".join(FIELDS.get(table, ()))
    unknown = [field_name for field_name in names if field_name not in FIELDS.get(table, ())]
    mistakes = [
        f"columns.{table}.{field_name}: no such field; known: {fields_known}"
        for field_name in unknown
    ]
    for field_name, column in names.items():
        if not isinstance(column, str):
            mistakes.append(f"columns.{table}.{field_name} = {column!r}: expected text")
    return mistakes


def _text_mistakes(values: dict[str, Any]) -> list[str]:
    """Name entries that are no text."""
    keys = [key for key in (*ENTRIES, EARLIER_FORMAT) if key not in TABLE_KEYS]
    return [
        f"{key} = {values[key]!r}: expected text"
        for key in keys
        if not isinstance(values.get(key, ""), str)
    ]


def _choice_mistakes(values: dict[str, Any]) -> list[str]:
    """Name entries that are none of their choices, or too long."""
    mistakes = []
    choices = {"format": FORMATS, EARLIER_FORMAT: FORMATS, "time_unit": TIME_UNITS}
    for key, allowed in choices.items():
        if values.get(key, "") not in ("", *allowed):
            mistakes.append(f"{key} = {values[key]!r}: choose from {', '.join(allowed)}")
    delimiter = values.get("delimiter", "")
    if len(str(delimiter).encode()) > LONGEST_DELIMITER:
        mistakes.append(f"delimiter = {delimiter!r}: expected at most {LONGEST_DELIMITER} bytes")
    return mistakes
