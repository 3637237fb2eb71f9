"""The formats that a shop's own log comes in: tables as files, an event topic, a database."""

from pathlib import Path

from eager_llm.core.errors import UserError
from eager_llm.data.attributes import ALL_COLUMNS
from eager_llm.data.importing.column_mapping import FIELDS, ColumnMapping
from eager_llm.data.importing.source_table import ColumnNames, LogFormat, SourceTable
from eager_llm.data.importing.streams import JSON_SUFFIXES, json_keys

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")
TOPIC_KEYS = {"topic", "partition", "offset"}


def tables_format(folder: Path, mapping: ColumnMapping) -> LogFormat | None:
    """Recognise events.*, items.* and intentions.*, or the files that the mapping names."""
    tables = []
    for table in FIELDS:
        files = _table_files(folder, table, mapping)
        if files:
            tables.append(_file_table(table, files, mapping))
    if not tables or tables[0].table != "events":
        return None
    events = tables[0]
    file_name = events.files[0].name
    name = "event topic" if events.kind == "topic" else _file_type(events.files[0])
    return LogFormat(name, file_name, tuple(tables))


def _file_table(table: str, files: tuple[Path, ...], mapping: ColumnMapping) -> SourceTable:
    suffix = "".join(suffix for suffix in files[0].suffixes if suffix != ".gz")
    delimiter = ""
    if suffix.endswith(".parquet"):
        kind = "parquet"
    elif suffix.endswith(JSON_SUFFIXES):
        kind = "jsonl"
        if table == "events" and (mapping.format == "topic" or _is_topic(files[0])):
            kind = "topic"
    else:
        kind = "delimited"
        if suffix.endswith(".tsv"):
            delimiter = "\t"
    return SourceTable(
        table, kind, _own_columns(table), files, delimiter=delimiter, attributes=ALL_COLUMNS
    )


def _own_columns(table: str) -> ColumnNames:
    """Return the columns of a table that are called as our fields are."""
    return {field_name: (field_name,) for field_name in FIELDS[table]}


def _is_topic(file: Path) -> bool:
    return json_keys(file) >= TOPIC_KEYS


def _table_files(folder: Path, table: str, mapping: ColumnMapping) -> tuple[Path, ...]:
    """Find `events.csv`, or `events-*.csv` where it comes in several, or what the mapping names."""
    if table in mapping.files:
        return _mapped_files(folder, table, mapping.files[table])
    single = []
    for suffix in SUFFIXES:
        for compression in ("", ".gz"):
            file = folder / f"{table}{suffix}{compression}"
            if file.is_file():
                single.append(file)
    if len(single) > 1:
        names = " and ".join(file.name for file in single)
        raise UserError(f"{folder}: {names} say the same; keep one")
    if single:
        return tuple(single)
    return _numbered_files(folder, table)


def _mapped_files(folder: Path, table: str, pattern: str) -> tuple[Path, ...]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise UserError(f"{folder}: no file is called {pattern}, as files.{table} says")
    return tuple(files)


def _numbered_files(folder: Path, table: str) -> tuple[Path, ...]:
    files = [
        file
        for file in sorted(folder.glob(f"{table}-*"))
        if file.name.removesuffix(".gz").endswith(SUFFIXES)
    ]
    types = sorted({_file_type(file) for file in files})
    if len(types) > 1:
        raise UserError(f"{folder}: {table}-* come as {' and '.join(types)}; keep one kind")
    return tuple(files)


def _file_type(file: Path) -> str:
    """Return the last suffix, through compression, without its dot."""
    return file.name.removesuffix(".gz").rsplit(".", 1)[-1]


def sql_format(mapping: ColumnMapping) -> LogFormat:
    """Return the log in a database, a table a query.

    Raises:
        UserError: the mapping has no query for the events.
    """
    if "events" not in mapping.queries:
        raise UserError(
            "a database needs a query for the events: queries.events in the mapping, "
            "or --query events=SELECT"
        )
    tables = []
    for table in FIELDS:
        query = mapping.queries.get(table)
        if not query:
            continue
        columns = _own_columns(table)
        for field_name, column in mapping.names(table).items():
            columns[field_name] = (column,)
        tables.append(
            SourceTable(table, "sql", columns, query=query, url=mapping.url, attributes=ALL_COLUMNS)
        )
    return LogFormat("SQL", "the query for events", tuple(tables), mapping=mapping)
