"""Which reader reads a source table."""

import duckdb

from eager_llm.data.importing.database import QueryReader
from eager_llm.data.importing.delimited import DelimitedReader
from eager_llm.data.importing.json_lines import JsonReader
from eager_llm.data.importing.parquet import ParquetReader
from eager_llm.data.importing.relation import FileReader, Reader
from eager_llm.data.importing.source_table import SourceTable

FILE_READERS: dict[str, type[FileReader]] = {
    "delimited": DelimitedReader,
    "jsonl": JsonReader,
    "topic": JsonReader,
    "parquet": ParquetReader,
}


def table_readers(connection: duckdb.DuckDBPyConnection, source_table: SourceTable) -> list[Reader]:
    """Return a reader for each file, or for the query, of a source table."""
    if source_table.kind == "sql":
        return [QueryReader(connection, source_table)]
    file_reader = FILE_READERS[source_table.kind]
    return [file_reader(connection, source_table, file) for file in source_table.files]
