"""Reading a source table row by row checked: readable rows in TABLE_raw, the others in `source_faults`."""

from pathlib import Path

import duckdb

from eager_llm.core.duckdb_engine import first_value, literal, run
from eager_llm.core.errors import UserError
from eager_llm.data.importing.column_mapping import FIELDS, ColumnMapping
from eager_llm.data.importing.readers import table_readers
from eager_llm.data.importing.relation import STREAM_VIEW, Reader, Relation, has_table
from eager_llm.data.importing.source_table import SourceTable
from eager_llm.data.importing.timestamps import microseconds, time_fault

SOURCE_FAULTS = (
    "CREATE OR REPLACE TEMP TABLE source_faults "
    "(file VARCHAR, row BIGINT, unit VARCHAR, reason VARCHAR)"
)
ID_COLUMNS = ("user_id", "item_id")
# Characters of a wrong value that a reason repeats.
SHOWN = 40
WEIGHT = "try_cast(weight AS DOUBLE)"
WEIGHT_FAULT = (
    "CASE WHEN weight IS NOT NULL AND weight <> '' "
    f"AND NOT coalesce(isfinite({WEIGHT}) AND {WEIGHT} >= 0, false) "
    f"THEN 'weight ''' || weight[:{SHOWN}] || ''' is not a number of 0 or more' END"
)


def read_source_table(
    connection: duckdb.DuckDBPyConnection, source_table: SourceTable, mapping: ColumnMapping
) -> int:
    """Read every file of a source table, or its query.

    First all rows are read at full speed. Where some are broken, a second pass finds their numbers.

    Returns:
        How many rows there were; the readable ones are in TABLE_raw, the others in
        `source_faults`.

    Raises:
        UserError: a file is empty, not readable at all, or lacks a column.
    """
    connection.execute(SOURCE_FAULTS)
    connection.execute(f"DROP TABLE IF EXISTS {source_table.table}_raw")
    rows = 0
    for reader in table_readers(connection, source_table):
        rows += _read_rows(connection, source_table, reader, mapping)
    return rows


def _read_rows(
    connection: duckdb.DuckDBPyConnection,
    source_table: SourceTable,
    reader: Reader,
    mapping: ColumnMapping,
) -> int:
    """Read one file, or the query; return how many rows it has, readable or not."""
    target = f"{source_table.table}_raw"
    relation = reader.open()
    action = f"CREATE TABLE {target} AS"
    earlier_rows = 0
    if has_table(connection, target):
        action = f"INSERT INTO {target}"
        earlier_rows = _count(connection, target)
    label = f"reading {Path(relation.origin).name}"
    checked = _checked_rows(source_table, relation.sql, mapping)
    _run_reading(connection, relation, label, f"{action} {checked}")
    rejected = reader.rejected_lines()
    rows = _count(connection, target) - earlier_rows + len(rejected)
    if rows == 0:
        raise UserError(f"{relation.origin}: the file has a header but no rows")
    faulty = f"{target} WHERE fault IS NOT NULL"
    if _count(connection, faulty):
        _note_faults(connection, source_table, reader, relation, mapping, rejected)
    if rejected:
        _note_rejected(connection, relation, rejected)
    connection.execute(f"DELETE FROM {faulty}")
    if relation.stream:
        connection.unregister(STREAM_VIEW)
    return rows


def _count(connection: duckdb.DuckDBPyConnection, rows: str) -> int:
    """Count the rows of SQL that follows FROM."""
    return int(first_value(connection, f"SELECT count(*) FROM {rows}"))


def _run_reading(
    connection: duckdb.DuckDBPyConnection, relation: Relation, label: str, sql: str
) -> None:
    """Execute SQL that reads a relation. Raises UserError in the words of whoever read it."""
    try:
        run(connection, label, sql)
    except duckdb.OutOfMemoryException:
        raise  # the file is not at fault
    except duckdb.Error as error:
        if relation.stream:
            relation.stream.check()
        reason = str(error).splitlines()[0]
        raise UserError(f"{relation.origin}: not readable: {reason}") from None
    if relation.stream:
        relation.stream.check()


def _checked_rows(source_table: SourceTable, sql: str, mapping: ColumnMapping) -> str:
    """Return SQL of the rows of a relation with `fault`: why a row cannot be kept, or NULL."""
    id_faults = ", ".join(["broken", *_id_faults(source_table)])
    if source_table.table != "events":
        return f"SELECT * EXCLUDE (broken), coalesce({id_faults}) AS fault FROM ({sql})"
    us = microseconds("timestamp", mapping.time_format, source_table.time_unit)
    if source_table.kind == "parquet":
        # Typed columns come as microseconds, marked.
        marked = "try_cast(timestamp[:-3] AS BIGINT)"
        us = f"CASE WHEN timestamp LIKE '%us' THEN {marked} ELSE {us} END"
    timestamp_fault = time_fault("timestamp", "us")
    return (
        f"SELECT row, user_id, item_id, us, nullif(event_type, '') AS event_type, "
        f"{WEIGHT} AS weight, "
        f"coalesce({id_faults}, {timestamp_fault}, {WEIGHT_FAULT}) AS fault "
        f"FROM (SELECT *, {us} AS us FROM ({sql}))"
    )


def _id_faults(source_table: SourceTable) -> list[str]:
    """Return SQL for what is wrong with the ids of a row, or NULL."""
    faults = []
    for column in ID_COLUMNS:
        if column not in FIELDS[source_table.table]:
            continue
        faults.append(f"CASE WHEN coalesce({column}, '') = '' THEN '{column} is empty' END")
        if source_table.is_json:
            faults.append(
                f"CASE WHEN {column}[1] IN ('{{', '[') "
                f"THEN '{column} is no plain value: ' || {column}[:{SHOWN}] END"
            )
    return faults


def _note_rejected(
    connection: duckdb.DuckDBPyConnection, relation: Relation, rejected: list[tuple[int, str]]
) -> None:
    """Note the lines that the reader skipped."""
    rows = [(relation.origin, line, "line", reason) for line, reason in rejected]
    connection.executemany("INSERT INTO source_faults VALUES (?, ?, ?, ?)", rows)


def _note_faults(
    connection: duckdb.DuckDBPyConnection,
    source_table: SourceTable,
    reader: Reader,
    relation: Relation,
    mapping: ColumnMapping,
    rejected: list[tuple[int, str]],
) -> None:
    """Note the faulty rows with their numbers; delimited files are read again for them, in order."""
    rows = f"{source_table.table}_raw"
    number = "row"
    if not relation.numbered:
        rows = f"({_checked_rows(source_table, reader.open(numbered=True).sql, mapping)})"
        number = _row_number(source_table, rejected)
        connection.execute("SET preserve_insertion_order = true")
    unit = "line" if source_table.is_json else "row"
    _run_reading(
        connection,
        relation,
        "naming the broken rows",
        f"INSERT INTO source_faults SELECT {literal(relation.origin)}, {number}, '{unit}', fault "
        f"FROM (SELECT row, fault FROM {rows} WHERE fault IS NOT NULL)",
    )
    connection.execute("SET preserve_insertion_order = false")


def _row_number(source_table: SourceTable, rejected: list[tuple[int, str]]) -> str:
    """Return SQL for the number of a row among all rows, the rejected ones too."""
    first_line = 2
    if source_table.header:
        first_line = 1
    # How many readable rows come before each rejected line.
    readable = []
    for earlier, (line, _) in enumerate(rejected):
        readable.append(line - first_line - earlier)
    if not readable:
        return "row"
    return f"row + len(list_filter({readable}, x -> x < row))"
