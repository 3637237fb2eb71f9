"""The rows of a query to a database, as a stream of text."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from eager_llm.core.errors import UserError
from eager_llm.data.importing.relation import STREAM_VIEW, Reader, Relation
from eager_llm.data.importing.streams import BATCH_ROWS, Stream

if TYPE_CHECKING:
    import sqlalchemy

VARIABLE_PREFIX = "env:"


class QueryReader(Reader):
    """Reads the query of a source table."""

    @property
    def origin(self) -> str:
        """The query, for people."""
        return f"the query for {self.source_table.table}"

    def open(self, numbered: bool = False) -> Relation:
        """Return the relation; see `Reader.open`."""
        url, query = self.source_table.url, self.source_table.query
        stream, available = query_rows(url, query)
        self.connection.register(STREAM_VIEW, stream.reader)
        matches = self.match_columns(available)
        sql = self.select(
            self.text_cells(matches),
            STREAM_VIEW,
            "row",
            self.text_attributes(available, matches),
        )
        return Relation(sql, self.origin, stream=stream)


def database_url(url: str) -> str:
    """Return a database's URL; `env:NAME` reads it from a variable, so that it stands in no file.

    Raises:
        UserError: the variable is not set.
    """
    if not url.startswith(VARIABLE_PREFIX):
        return url
    variable = url.removeprefix(VARIABLE_PREFIX)
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"{url}: the variable {variable} is not set; it holds the database's URL")
    return value


def query_rows(url: str, query: str) -> tuple[Stream, list[str]]:
    """Run a query.

    Returns:
        A stream of its rows, as text, with their number `row`; and its columns.

    Raises:
        UserError: the database cannot be reached or refuses the query.
    """
    import sqlalchemy

    options = {"stream_results": True, "yield_per": BATCH_ROWS}
    try:
        database = sqlalchemy.create_engine(database_url(url))
        _require_database_file(database)
        connection = database.connect().execution_options(**options)
        result = connection.execute(sqlalchemy.text(query))
        columns = list(result.keys())
    except ImportError as error:
        raise UserError(f"the database's driver is not installed: {error}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the database does not answer: {reason}\n  query: {query}") from None
    fields = [("row", pa.int64())]
    fields += [(column, pa.string()) for column in columns]
    schema = pa.schema(fields)

    def batches() -> Iterator[pa.RecordBatch]:
        """Yield the rows, and leave the database after the last one."""
        try:
            yield from _result_batches(result, schema)
        finally:
            connection.close()
            database.dispose()

    return Stream(schema, batches()), columns


def _require_database_file(database: "sqlalchemy.Engine") -> None:
    """Raise UserError where an SQLite file is missing: SQLite would make one."""
    if database.dialect.name != "sqlite":
        return
    file = database.url.database
    if not file or file == ":memory:":
        return
    if not Path(file).is_file():
        raise UserError(f"{file}: no such database")


def _result_batches(
    result: "sqlalchemy.CursorResult[Any]", schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield a result's rows with their numbers. Raises UserError where the database stops."""
    import sqlalchemy

    earlier_rows = 0
    try:
        for rows in result.partitions(BATCH_ROWS):
            first = earlier_rows + 1
            earlier_rows += len(rows)
            numbers = range(first, earlier_rows + 1)
            arrays = [pa.array(numbers, pa.int64())]
            for column in zip(*rows, strict=True):
                texts = [_text(value) for value in column]
                arrays.append(pa.array(texts, pa.string()))
            yield pa.record_batch(arrays, schema=schema)
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the database stopped after {earlier_rows} rows: {reason}") from None


def _text(value: Any) -> str | None:
    """Return a database's value as text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).decode("utf-8", errors="replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    elif hasattr(value, "isoformat"):
        value = value.isoformat()
    return str(value)
