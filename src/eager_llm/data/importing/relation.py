"""A source as a SQL relation, whatever its kind: the same columns, as text."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from eager_llm.core.duckdb_engine import first_value, identifier, literal
from eager_llm.core.errors import UserError
from eager_llm.data.attributes import ALL_COLUMNS, attributes_object
from eager_llm.data.importing.column_mapping import FIELDS
from eager_llm.data.importing.source_table import SourceTable
from eager_llm.data.importing.streams import Stream

# Under this name the engine reads the stream of a reader.
STREAM_VIEW = "stream_in"


@dataclass(frozen=True)
class Relation:
    """The rows of a file or query.

    Attributes:
        sql: yields `row` (its number, from 1), our fields as text, `attributes` for items, and
            `broken`: why a row is not readable, or NULL.
        origin: the file or query, for people.
        numbered: whether `row` is exact; where it is not, it is NULL.
        stream: that `sql` reads; None: it reads a file.
    """

    sql: str
    origin: str
    numbered: bool = True
    stream: Stream | None = None


class Reader(ABC):
    """Reads a file, or the query, of a source table; each `open` starts anew."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, source_table: SourceTable) -> None:
        self.connection = connection
        self.source_table = source_table

    @property
    @abstractmethod
    def origin(self) -> str:
        """The file or query, for people."""

    @abstractmethod
    def open(self, numbered: bool = False) -> Relation:
        """Return the relation.

        Args:
            numbered: number the rows also where that costs the parallel reading.

        Raises:
            UserError: the source is empty or broken, or a column is missing.
        """

    def rejected_lines(self) -> list[tuple[int, str]]:
        """Return the lines that the last reading skipped: their number from 1, and why."""
        return []

    def match_columns(self, available: list[str]) -> dict[str, str]:
        """Return our field → their column, the first of its names that is available.

        Raises:
            UserError: a field that a row needs has no column; the source is named.
        """
        matches: dict[str, str] = {}
        missing: list[str] = []
        for field_name, alternatives in self.source_table.columns.items():
            candidates = [column for column in alternatives if column in available]
            if candidates:
                matches[field_name] = candidates[0]
            elif field_name in self.source_table.required:
                missing.append(alternatives[0])
        if missing:
            names = ", ".join(missing)
            raise UserError(
                f"{self.origin}: column {names} is missing; found {', '.join(available)}"
            )
        return matches

    def attribute_columns(self, available: Iterable[str], matches: dict[str, str]) -> list[str]:
        """Return the columns that are kept beside our fields."""
        attributes = self.source_table.attributes
        columns = []
        for column in available:
            if column in matches.values():
                continue
            if attributes == ALL_COLUMNS or column in attributes:
                columns.append(column)
        return columns

    def text_cells(self, matches: dict[str, str]) -> dict[str, str]:
        """Return our field → SQL of its cell, where all columns are text."""
        return {field_name: identifier(column) for field_name, column in matches.items()}

    def text_attributes(self, available: Iterable[str], matches: dict[str, str]) -> str:
        """Return SQL of the object of attributes, where all columns are text."""
        columns = self.attribute_columns(available, matches)
        return attributes_object(dict.fromkeys(columns, "VARCHAR"))

    def select(
        self,
        cells: dict[str, str],
        source: str,
        row: str,
        attributes: str,
        broken: str = "NULL",
    ) -> str:
        """Return the SQL of a relation.

        Args:
            cells: our field → SQL for its cell.
            source: SQL that follows FROM.
            row: SQL for the number of a row.
            attributes: SQL for the object of an item's attributes.
            broken: SQL for why a row is not readable, or NULL.
        """
        columns = [f"{row} AS row"]
        for field_name in FIELDS[self.source_table.table]:
            cell = cells.get(field_name, "NULL")
            columns.append(f"trim(CAST({cell} AS VARCHAR)) AS {field_name}")
        if self.source_table.table == "items":
            columns.append(f"{attributes} AS attributes")
        columns.append(f"{broken} AS broken")
        return f"SELECT {', '.join(columns)} FROM {source}"


class FileReader(Reader):
    """Reads one file of a source table."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, source_table: SourceTable, file: Path
    ) -> None:
        super().__init__(connection, source_table)
        self.file = file

    @property
    def origin(self) -> str:
        """The file, for people."""
        return str(self.file)


def has_table(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Whether the engine holds a table of this name."""
    tables = f"SELECT count(*) FROM duckdb_tables() WHERE table_name = {literal(table)}"
    return bool(first_value(connection, tables))
