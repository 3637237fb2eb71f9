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
            source_table = _file_table(table, files, mapping)
            tables.append(source_table)
    if not tables or tables[0].table != "events":
        return None
    events = tables[0]
    file = events.files[0]
    name = _file_type(file)
    if events.kind == "topic":
        name = "event topic"
    return LogFormat(name, file.name, tuple(tables))


def _file_table(table: str, files: tuple[Path, ...], mapping: ColumnMapping) -> SourceTable:
    """Return the table of files, all of which are of the first one's kind."""
    file = files[0]
    suffixes = [suffix for suffix in file.suffixes if suffix != ".gz"]
    suffix = "".join(suffixes)
    kind = "delimited"
    if suffix.endswith(".parquet"):
        kind = "parquet"
    elif suffix.endswith(JSON_SUFFIXES):
        kind = "jsonl"
    if kind == "jsonl" and table == "events":
        is_topic = mapping.format == "topic" or _is_topic(file)
        kind = "topic" if is_topic else "jsonl"
    delimiter = ""
    if suffix.endswith(".tsv"):
        delimiter = "\t"
    return SourceTable(
        table,
        kind,
        _own_columns(table),
        files,
        delimiter=delimiter,
        attributes=ALL_COLUMNS,
    )


def _own_columns(table: str) -> ColumnNames:
    """Return the columns of a table that are called as our fields are."""
    return {field_name: (field_name,) for field_name in FIELDS[table]}


def _is_topic(file: Path) -> bool:
    """Whether the first line of a file is a record of an event topic."""
    return json_keys(file) >= TOPIC_KEYS


def _table_files(folder: Path, table: str, mapping: ColumnMapping) -> tuple[Path, ...]:
    """Find `events.csv`, or `events-*.csv` where it comes in several, or what the mapping names."""
    pattern = mapping.files.get(table)
    if pattern is not None:
        return _mapped_files(folder, table, pattern)
    files = []
    for suffix in SUFFIXES:
        for compression in ("", ".gz"):
            file = folder / f"{table}{suffix}{compression}"
            if file.is_file():
                files.append(file)
    if not files:
        return _numbered_files(folder, table)
    if len(files) > 1:
        names = " and ".join(file.name for file in files)
        raise UserError(f"{folder}: {names} say the same; keep one")
    return tuple(files)


def _mapped_files(folder: Path, table: str, pattern: str) -> tuple[Path, ...]:
    """Find the files that the mapping names. Raises UserError where there is none."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise UserError(f"{folder}: no file is called {pattern}, as files.{table} says")
    return tuple(files)


def _numbered_files(folder: Path, table: str) -> tuple[Path, ...]:
    """Find the files that make up a table. Raises UserError where they are of several kinds."""
    files = []
    for file in sorted(folder.glob(f"{table}-*")):
        uncompressed = file.name.removesuffix(".gz")
        if uncompressed.endswith(SUFFIXES):
            files.append(file)
    types = sorted({_file_type(file) for file in files})
    if len(types) > 1:
        names = " and ".join(types)
        raise UserError(f"{folder}: {table}-* come as {names}; keep one kind")
    return tuple(files)


def _file_type(file: Path) -> str:
    """Return the last suffix, through compression, without its dot."""
    uncompressed = file.name.removesuffix(".gz")
    return uncompressed.rsplit(".", 1)[-1]


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
        source_table = SourceTable(
            table,
            "sql",
            columns,
            query=query,
            url=mapping.url,
            attributes=ALL_COLUMNS,
        )
        tables.append(source_table)
    return LogFormat("SQL", "the query for events", tuple(tables), mapping=mapping)
