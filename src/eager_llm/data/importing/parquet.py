"""Parquet files, whose columns have types, as text."""

import duckdb

from eager_llm.core.duckdb_engine import first_value, identifier, literal
from eager_llm.core.errors import UserError
from eager_llm.data.attributes import attributes_object
from eager_llm.data.importing.relation import FileReader, Relation

ROW_NUMBER = "file_row_number"


class ParquetReader(FileReader):
    """Reads a Parquet file."""

    def open(self, numbered: bool = False) -> Relation:
        """Return the relation; see `Reader.open`."""
        file = literal(self.origin)
        source = f"read_parquet({file}, {ROW_NUMBER} = true)"
        types = self._column_types(source)
        rows = first_value(self.connection, f"SELECT count(*) FROM {source}")
        if rows == 0:
            raise UserError(f"{self.file}: the file has a header but no rows")
        matches = self.match_columns(list(types))
        cells = {}
        for field_name, column in matches.items():
            kind = types[column]
            cells[field_name] = _cell(field_name, identifier(column), kind)
        columns = self.attribute_columns(types, matches)
        attributes = attributes_object({column: types[column] for column in columns})
        row = f"{ROW_NUMBER} + 1"
        sql = self.select(cells, source, row, attributes)
        return Relation(sql, self.origin)

    def _column_types(self, source: str) -> dict[str, str]:
        """Return column → DuckDB type.

        Raises:
            UserError: the file is no Parquet.
        """
        description = f"DESCRIBE SELECT * FROM {source}"
        try:
            rows = self.connection.execute(description).fetchall()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.file}: not readable as Parquet: {reason}") from None
        types = {row[0]: row[1] for row in rows}
        types.pop(ROW_NUMBER, None)
        return types


def _cell(field_name: str, column: str, kind: str) -> str:
    """Return SQL for the text of a typed column.

    Times become microseconds that are marked as such (`5us`), or ISO dates where they fill
    another field.
    """
    if kind.startswith(("TIMESTAMP", "DATE")):
        time = f"CAST({column} AS TIMESTAMPTZ)"
        if field_name == "timestamp":
            return f"CAST(epoch_us({time}) AS VARCHAR) || 'us'"
        return f"strftime({time}, '%Y-%m-%dT%H:%M:%S.%f') || 'Z'"
    if kind in ("DOUBLE", "FLOAT"):
        # A whole number that a missing value turned into 5.0 is 5 again.
        whole = f"CAST(try_cast({column} AS BIGINT) AS VARCHAR)"
        return (
            f"CASE WHEN {column} = floor({column}) THEN {whole} ELSE CAST({column} AS VARCHAR) END"
        )
    if kind.endswith("[]") or kind.startswith(("STRUCT", "MAP")):
        return f"CAST(to_json({column}) AS VARCHAR)"
    return f"CAST({column} AS VARCHAR)"
