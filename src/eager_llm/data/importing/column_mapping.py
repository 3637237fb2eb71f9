"""How somebody's log maps onto the tables: columns, files, dialect, times; from flags or a small YAML file."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from eager_llm.core.errors import UserError
from eager_llm.data.tables import EVENT_COLUMNS, INTENTION_COLUMNS, ITEM_COLUMNS

MAPPING_FILE = "import.yaml"
EVENT_FIELDS = (*EVENT_COLUMNS, "event_type", "weight")
FIELDS = {"events": EVENT_FIELDS, "items": ITEM_COLUMNS, "intentions": INTENTION_COLUMNS}
FORMS = ("lc-rec", "recbole", "movielens", "amazon-2018", "amazon-2023", "tables", "topic", "sql")


@dataclass(frozen=True)
class ColumnMapping:
    """What a person says of a log; all of it may be left out where the form is known.

    Attributes:
        form: one of `FORMS`; empty: found out from the files.
        columns: for each table (`events`, `items`, `intentions`) our field to their column, or in
            JSON a path with dots (`payload.user.id`).
        files: for each table a file name or pattern in the folder.
        queries: for each table a SQL query (form `sql`).
        url: of the database (form `sql`), or `env:NAME` for a variable that holds it.
        delimiter: of delimited text; empty: found out from the header.
        encoding: of delimited text, such as utf-8 or latin-1.
        time_format: strptime's form of the times; empty: ISO dates, or a number since 1970.
        time_unit: of numbers: s, ms, us or ns; empty: by their size.
        item_aliases: a CSV of `item_id, same_as` beside the log: items that are one.
    """

    form: str = ""
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
        """Read a YAML file. Raises UserError naming the file and every mistake."""
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
        """Build from plain values. Raises UserError naming `origin` and every mistake."""
        known = {spec.name: spec for spec in fields(cls)}
        mistakes = [
            f"{key}: no such entry; known: {', '.join(known)}" for key in values if key not in known
        ]
        for key in ("columns", "files", "queries"):
            tables = values.get(key, {})
            if not isinstance(tables, dict):
                mistakes.append(f"{key}: expected {', '.join(FIELDS)}, found {tables!r}")
                continue
            mistakes += [
                f"{key}.{table}: no such table; known: {', '.join(FIELDS)}"
                for table in tables
                if table not in FIELDS
            ]
            if key == "columns":
                mistakes += _column_mistakes(tables)
            else:
                mistakes += [
                    f"{key}.{t} = {v!r}: expected text"
                    for t, v in tables.items()
                    if not isinstance(v, str)
                ]
        for key in (
            "form",
            "url",
            "delimiter",
            "encoding",
            "time_format",
            "time_unit",
            "item_aliases",
        ):
            if not isinstance(values.get(key, ""), str):
                mistakes.append(f"{key} = {values[key]!r}: expected text")
        if values.get("form", "") not in ("", *FORMS):
            mistakes.append(f"form = {values['form']!r}: choose from {', '.join(FORMS)}")
        if values.get("time_unit", "") not in ("", "s", "ms", "us", "ns"):
            mistakes.append(f"time_unit = {values['time_unit']!r}: choose from s, ms, us, ns")
        if len(str(values.get("delimiter", "")).encode()) > 4:
            mistakes.append(f"delimiter = {values['delimiter']!r}: expected at most 4 bytes")
        if mistakes:
            raise UserError(f"{origin}: the mapping has mistakes:\n  " + "\n  ".join(mistakes))
        return cls(**values)

    def with_columns(self, flags: list[str]) -> "ColumnMapping":
        """Add columns given as `table.field=column`, such as events.user_id=customer.

        Raises:
            UserError: a flag is written otherwise, or names no such field.
        """
        columns = {table: dict(names) for table, names in self.columns.items()}
        for flag in flags:
            target, separator, column = flag.partition("=")
            table, dot, ours = target.partition(".")
            if not (separator and dot and column) or table not in FIELDS:
                raise UserError(
                    f"--column {flag!r}: write it as table.field=column, such as events.user_id=customer"
                )
            columns.setdefault(table, {})[ours] = column
        mistakes = _column_mistakes(columns)
        if mistakes:
            raise UserError("--column: " + "; ".join(mistakes))
        return replace(self, columns=columns)

    def names(self, table: str) -> dict[str, str]:
        """Return our field → their column, for the fields of `table` that were mapped."""
        return self.columns.get(table, {})


def _column_mistakes(tables: dict[str, Any]) -> list[str]:
    mistakes = []
    for table, names in tables.items():
        if not isinstance(names, dict):
            mistakes.append(f"columns.{table}: expected field: column, found {names!r}")
            continue
        known = FIELDS.get(table, ())
        mistakes += [
            f"columns.{table}.{ours}: no such field; known: {', '.join(known)}"
            for ours in names
            if ours not in known
        ]
        mistakes += [
            f"columns.{table}.{o} = {c!r}: expected text"
            for o, c in names.items()
            if not isinstance(c, str)
        ]
    return mistakes
