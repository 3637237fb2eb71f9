"""Each file of a log as a SQL relation: `row`, our fields as text, and `broken`, why a row is not readable."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from eager_llm.core.duckdb_engine import listed, literal, name, one
from eager_llm.core.errors import UserError
from eager_llm.data.attributes import EVERY, at, packed
from eager_llm.data.importing.column_mapping import FIELDS
from eager_llm.data.importing.formats import SourceTable
from eager_llm.data.importing.streams import (
    LONGEST_LINE,
    Stream,
    first_line,
    json_lines,
    not_utf8_byte,
    opened,
    query_rows,
    require_whole,
)

LINES_VIEW = "lines_in"
# By itself DuckDB takes sixteen of the longest lines at a time: a gigabyte of a large file.
BUFFER = 2 * LONGEST_LINE


@dataclass
class Relation:
    """What is read: SQL, whether its `row` is exact in the first pass, and the stream behind it."""

    sql: str
    origin: str
    numbered: bool = True
    stream: Stream | None = None
    delimited: Path | None = None


def readers(connection: duckdb.DuckDBPyConnection, part: SourceTable) -> "list[Reader]":
    """Return a reader for each file, or for the query, of a part."""
    if part.kind == "sql":
        return [Reader(connection, part, Path(part.table))]
    return [Reader(connection, part, file) for file in part.files]


@dataclass
class Reader:
    """One file of a part, opened anew by each `open`."""

    connection: duckdb.DuckDBPyConnection
    part: SourceTable
    file: Path

    def open(self, numbered: bool = False) -> Relation:
        """Return the relation. `numbered`: count rows also where that costs the parallel reading."""
        if self.part.kind == "sql":
            return self._query()
        if self.part.kind in ("jsonl", "topic"):
            if self.file.stat().st_size == 0:
                raise UserError(f"{self.file}: the file is empty")
            return self._json()
        if self.part.kind == "parquet":
            return self._parquet()
        require_whole(self.file)
        return self._delimited(numbered)

    def _query(self) -> Relation:
        stream, columns = query_rows(self.part.url, self.part.query)
        self.connection.register(LINES_VIEW, stream.reader)
        chosen = self._chosen(columns, f"query for {self.part.table}")
        fields = {ours: name(theirs) for ours, theirs in chosen.items()}
        return Relation(
            self._select(fields, LINES_VIEW, "row", "NULL", packed(self._others(columns, chosen))),
            f"the query for {self.part.table}",
            stream=stream,
        )

    def _json(self) -> Relation:
        stream = json_lines(self.file)
        self.connection.register(LINES_VIEW, stream.reader)
        topic = self.part.kind == "topic"
        paths: list[str] = []
        fields = {}
        for ours, theirs in self.part.columns.items():
            found = []
            for column in theirs:
                for path in dict.fromkeys(
                    (f'$."{column}"', "$." + ".".join(f'"{p}"' for p in column.split(".")))
                ):
                    paths.append(path)
                    found.append(f"v[{len(paths)}]")
            if topic and ours == "timestamp":
                found += [
                    "json_extract_string(line, '$.ts')",
                    "json_extract_string(line, '$.timestamp')",
                ]
            fields[ours] = f"coalesce({', '.join(found)})" if len(found) > 1 else found[0]
        # An export tool writes the payload as an object, or as text that holds one.
        inner = (
            "coalesce(json_extract_string(line, '$.payload'), json_extract_string(line, '$.value'))"
            if topic
            else "line"
        )
        others = "inside"
        if self.part.attributes != EVERY:
            cells = [f"{literal(a)}, json_extract(inside, {at(a)})" for a in self.part.attributes]
            others = f"CAST(json_object({', '.join(cells)}) AS VARCHAR)"
        source = (
            f"(SELECT row, line, broken, whole, CASE WHEN whole AND json_valid(inside) THEN {others} END AS others, "
            f"CASE WHEN whole AND json_valid(inside) THEN json_extract_string(inside, {listed(paths)}) END AS v FROM (SELECT *, CASE WHEN whole THEN {inner} END AS inside "
            f"FROM (SELECT *, broken IS NULL AND ltrim(line)[1] = '{{' AND json_valid(line) AS whole FROM {LINES_VIEW})))"
        )
        broken = (
            "CASE WHEN broken IS NOT NULL THEN broken WHEN whole AND v IS NULL THEN 'the record has no JSON payload' "
            "WHEN whole THEN NULL WHEN ltrim(line)[1] <> '{' THEN 'expected an object, found ' || line[:40] "
            "ELSE 'not valid JSON, near ' || line[:60] END"
        )
        return Relation(
            self._select(fields, source, "row", broken, "others"), str(self.file), stream=stream
        )

    def _parquet(self) -> Relation:
        source = f"read_parquet({literal(str(self.file))}, file_row_number = true)"
        try:
            kinds = {
                row[0]: row[1]
                for row in self.connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
            }
        except duckdb.Error as error:
            raise UserError(
                f"{self.file}: not readable as Parquet: {str(error).splitlines()[0]}"
            ) from None
        if one(self.connection, f"SELECT count(*) FROM {source}") == 0:
            raise UserError(f"{self.file}: the file has a header but no rows")
        fields = {}
        kinds.pop("file_row_number", None)
        chosen = self._chosen(list(kinds), str(self.file))
        for ours, theirs in chosen.items():
            column, kind = name(theirs), kinds[theirs]
            if kind.startswith(("TIMESTAMP", "DATE")):
                fields[ours] = (
                    f"strftime(CAST({column} AS TIMESTAMPTZ), '%Y-%m-%dT%H:%M:%S.%f') || 'Z'"
                )
                if ours == "timestamp":
                    fields[ours] = (
                        f"CAST(epoch_us(CAST({column} AS TIMESTAMPTZ)) AS VARCHAR) || 'us'"
                    )
            elif kind in ("DOUBLE", "FLOAT"):
                # A whole number that a missing value turned into 5.0 is 5 again.
                whole = f"CAST(try_cast({column} AS BIGINT) AS VARCHAR)"
                fields[ours] = (
                    f"CASE WHEN {column} = floor({column}) THEN {whole} ELSE CAST({column} AS VARCHAR) END"
                )
            elif kind.endswith("[]") or kind.startswith(("STRUCT", "MAP")):
                fields[ours] = f"CAST(to_json({column}) AS VARCHAR)"
            else:
                fields[ours] = f"CAST({column} AS VARCHAR)"
        others = packed({column: kinds[column] for column in self._others(kinds, chosen)})
        return Relation(
            self._select(fields, source, "file_row_number + 1", "NULL", others), str(self.file)
        )

    def _delimited(self, numbered: bool) -> Relation:
        encoding = self.part.encoding or "utf-8"
        head = first_line(self.file)
        delimiter = self.part.delimiter or max([",", ";", "\t", "|"], key=head.count)
        header = list(self.part.header)
        if not header:
            if "\ufffd" in head and encoding == "utf-8":
                raise UserError(
                    f"{self.file}: line 1: the header is not UTF-8; save the file as UTF-8, or name its encoding"
                )
            quoted = self.part.quote and len(delimiter) == 1
            cells = (
                next(csv.reader([head], delimiter=delimiter)) if quoted else head.split(delimiter)
            )
            header = [cell.strip() for cell in cells]
        if len(set(header)) != len(header):
            twice = next(c for c in header if header.count(c) > 1)
            raise UserError(f"{self.file}: the column {twice!r} appears twice in the header")
        chosen = self._chosen(header, str(self.file))
        columns = "{" + ", ".join(f"{literal(c)}: 'VARCHAR'" for c in header) + "}"
        source = (
            f"read_csv({literal(str(self.file))}, auto_detect = false, columns = {columns}, "
            f"header = {not self.part.header}, delim = {literal(delimiter)}, quote = {literal(self.part.quote)}, "
            f"escape = {literal(self.part.quote)}, encoding = {literal(encoding)}, store_rejects = true, "
            f"rejects_limit = 0, max_line_size = {LONGEST_LINE}, buffer_size = {BUFFER})"
        )
        for table in ("reject_errors", "reject_scans"):
            self.connection.execute(f"DROP TABLE IF EXISTS {table}")
        fields = {ours: name(theirs) for ours, theirs in chosen.items()}
        row = "row_number() OVER ()" if numbered else "CAST(NULL AS BIGINT)"
        select = self._select(fields, source, row, "NULL", packed(self._others(header, chosen)))
        return Relation(select, str(self.file), numbered, delimited=self.file)

    def _chosen(self, there: list[str], origin: str) -> dict[str, str]:
        """Return our field → their column, the first of its names that is there."""
        chosen, missing = {}, []
        for ours, theirs in self.part.columns.items():
            found = next((column for column in theirs if column in there), None)
            if found is not None:
                chosen[ours] = found
            elif ours in self.part.required:
                missing.append(theirs[0])
        if missing:
            raise UserError(
                f"{origin}: column {', '.join(missing)} is missing; found {', '.join(there)}"
            )
        return chosen

    def _others(self, there: Iterable[str], chosen: dict[str, str]) -> dict[str, str]:
        """Return the columns, as text, that are kept beside our fields."""
        kept = self.part.attributes
        return {
            c: "VARCHAR" for c in there if c not in chosen.values() and (kept == EVERY or c in kept)
        }

    def _select(
        self, fields: dict[str, str], source: str, row: str, broken: str, others: str
    ) -> str:
        cells = [
            f"trim(CAST({fields.get(ours, 'NULL')} AS VARCHAR)) AS {ours}"
            for ours in FIELDS[self.part.table]
        ]
        if self.part.table == "items":
            cells.append(f"{others} AS attributes")
        return f"SELECT {row} AS row, {', '.join(cells)}, {broken} AS broken FROM {source}"


def rejected(
    connection: duckdb.DuckDBPyConnection, file: Path, header: bool
) -> list[tuple[int, str]]:
    """Return the lines of a delimited file that the last reading refused: their number, and why."""
    if not one(
        connection, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'"
    ):
        return []
    rows = connection.execute(
        "SELECT line, any_value(error_type), any_value(line_byte_position), any_value(csv_line[:60]), "
        "any_value(error_message[:200]) FROM reject_errors GROUP BY line ORDER BY line"
    ).fetchall()
    words = {
        "MISSING COLUMNS": "fewer columns than the header",
        "TOO MANY COLUMNS": "more columns than the header",
        "UNQUOTED VALUE": "a quote is not closed, or stands inside a value",
        "LINE SIZE OVER MAXIMUM": f"longer than {LONGEST_LINE >> 20} MiB",
    }
    found = []
    for line, kind, position, text, message in rows:
        if kind == "INVALID ENCODING":
            reason = _bad_byte(file, int(position) - 1)
        else:
            reason = f"{words.get(kind, message.splitlines()[0])}: {(text or '').splitlines()[0] if text else ''}"
        found.append((int(line), reason))
    return found


def _bad_byte(file: Path, start: int) -> str:
    """Name the byte of the line at offset `start` that is not UTF-8."""
    with opened(file) as handle:
        handle.seek(start)
        data = handle.readline(LONGEST_LINE)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return not_utf8_byte(data, error.start)
    return "a byte is not UTF-8; save the file as UTF-8 and import it again"
