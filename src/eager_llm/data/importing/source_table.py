"""A log's tables as somebody keeps them, and the format that they make up."""

from dataclasses import dataclass, field
from pathlib import Path

from eager_llm.data.importing.column_mapping import ColumnMapping
from eager_llm.data.tables import INTENTION_COLUMNS, ITEM_COLUMNS

REQUIRED = {
    "events": ("user_id", "item_id", "timestamp"),
    "items": ("item_id",),
    "intentions": INTENTION_COLUMNS,
}
# Kinds of sources that come as JSON, a line a row.
JSON_KINDS = ("jsonl", "topic")
# Our field → the names that their column may have.
ColumnNames = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class SourceTable:
    """One table of a log, as somebody keeps it.

    Attributes:
        table: events, items or intentions.
        kind: delimited, jsonl, topic, parquet or sql.
        columns: our field to the names that theirs may have; the first that exists counts.
        files: that hold the rows, except for kind sql.
        delimiter: of delimited text; empty: told by the header.
        quote: of delimited text; empty: none.
        encoding: of delimited text; empty: UTF-8.
        header: the columns' names where the file has no header line.
        query: of kind sql.
        url: of the database, of kind sql.
        time_unit: of times that are numbers; empty: by their size.
        attributes: what else is kept of an item: names, or `ALL_COLUMNS`.
    """

    table: str
    kind: str
    columns: ColumnNames
    files: tuple[Path, ...] = ()
    delimiter: str = ""
    quote: str = '"'
    encoding: str = ""
    header: tuple[str, ...] = ()
    query: str = ""
    url: str = ""
    time_unit: str = ""
    attributes: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """Our fields without which a row is none."""
        return REQUIRED[self.table]

    @property
    def is_json(self) -> bool:
        """Whether the rows are lines of JSON."""
        return self.kind in JSON_KINDS

    @property
    def field_columns(self) -> frozenset[str]:
        """Lower-case names of all columns that fill a field, or look as if they did."""
        names = set(ITEM_COLUMNS)
        for alternatives in self.columns.values():
            names.update(column.lower() for column in alternatives)
        return frozenset(names)


@dataclass(frozen=True)
class LogFormat:
    """A log whose format is recognised.

    Attributes:
        name: of the format, for people.
        source: the file or query of the events, for people.
        tables: that are read row by row.
        lcrec: the log in LC-Rec JSON, which is read whole; None: it is in another format.
        mapping: what a person said of the log.
    """

    name: str
    source: str
    tables: tuple[SourceTable, ...] = ()
    lcrec: Path | None = None
    mapping: ColumnMapping = field(default_factory=ColumnMapping)
