"""Delimited text, such as CSV, and the lines of it that are refused."""

import csv
from collections import Counter

from eager_llm.core.duckdb_engine import literal
from eager_llm.core.errors import UserError
from eager_llm.data.importing.relation import FileReader, Relation, has_table
from eager_llm.data.importing.streams import (
    LONGEST_LINE,
    first_line,
    not_utf8_byte,
    open_bytes,
    require_whole,
)

DELIMITERS = (",", ";", "\t", "|")
# By itself DuckDB takes sixteen of the longest lines at a time: a gigabyte of a large file.
BUFFER = 2 * LONGEST_LINE
NUMBERED_ROW = "row_number() OVER ()"
UNNUMBERED_ROW = "CAST(NULL AS BIGINT)"
# DuckDB's tables of the lines that it skipped.
REJECT_TABLES = ("reject_errors", "reject_scans")
REJECT_REASONS = {
    "MISSING COLUMNS": "fewer columns than the header",
    "TOO MANY COLUMNS": "more columns than the header",
    "UNQUOTED VALUE": "a quote is not closed, or stands inside a value",
    "LINE SIZE OVER MAXIMUM": f"longer than {LONGEST_LINE >> 20} MiB",
}


class DelimitedReader(FileReader):
    """Reads a delimited file, in parallel where row numbers are not needed."""

    def open(self, numbered: bool = False) -> Relation:
        """Return the relation; see `Reader.open`."""
        require_whole(self.file)
        head = first_line(self.file)
        delimiter = self.source_table.delimiter
        if not delimiter:
            delimiter = max(DELIMITERS, key=head.count)
        header = self._header(head, delimiter)
        matches = self.match_columns(header)
        for table in REJECT_TABLES:
            self.connection.execute(f"DROP TABLE IF EXISTS {table}")
        sql = self.select(
            self.text_cells(matches),
            self._source(header, delimiter),
            NUMBERED_ROW if numbered else UNNUMBERED_ROW,
            self.text_attributes(header, matches),
        )
        return Relation(sql, self.origin, numbered)

    def _header(self, head: str, delimiter: str) -> list[str]:
        """Return the names of the columns: those of the format, or those of the first line."""
        header = list(self.source_table.header)
        if not header:
            header = self._header_cells(head, delimiter)
        occurrences = Counter(header)
        for column in header:
            if occurrences[column] > 1:
                raise UserError(f"{self.file}: the column {column!r} appears twice in the header")
        return header

    def _header_cells(self, head: str, delimiter: str) -> list[str]:
        if "\ufffd" in head and self._encoding == "utf-8":
            raise UserError(
                f"{self.file}: line 1: the header is not UTF-8; "
                "save the file as UTF-8, or name its encoding"
            )
        cells = head.split(delimiter)
        if self.source_table.quote and len(delimiter) == 1:
            cells = next(csv.reader([head], delimiter=delimiter))
        return [cell.strip() for cell in cells]

    @property
    def _encoding(self) -> str:
        return self.source_table.encoding or "utf-8"

    def _source(self, header: list[str], delimiter: str) -> str:
        """Return SQL that reads the file, every column as text."""
        columns = [f"{literal(column)}: 'VARCHAR'" for column in header]
        has_header = not self.source_table.header
        quote = literal(self.source_table.quote)
        options = {
            "auto_detect": "false",
            "columns": f"{{{', '.join(columns)}}}",
            "header": has_header,
            "delim": literal(delimiter),
            "quote": quote,
            "escape": quote,
            "encoding": literal(self._encoding),
            "store_rejects": "true",
            "rejects_limit": 0,
            "max_line_size": LONGEST_LINE,
            "buffer_size": BUFFER,
        }
        arguments = [literal(self.origin)]
        for option, value in options.items():
            arguments.append(f"{option} = {value}")
        return f"read_csv({', '.join(arguments)})"

    def rejected_lines(self) -> list[tuple[int, str]]:
        """Return the lines that the last reading skipped: their number from 1, and why."""
        if not has_table(self.connection, "reject_errors"):
            return []
        rows = self.connection.execute(
            "SELECT line, any_value(error_type), any_value(line_byte_position), "
            "any_value(csv_line[:60]), any_value(error_message[:200]) "
            "FROM reject_errors GROUP BY line ORDER BY line"
        ).fetchall()
        lines = []
        for line, kind, position, text, message in rows:
            if kind == "INVALID ENCODING":
                reason = self._not_utf8(int(position) - 1)
            else:
                label = REJECT_REASONS.get(kind, message.splitlines()[0])
                reason = f"{label}: {_first_line(text)}"
            lines.append((int(line), reason))
        return lines

    def _not_utf8(self, start: int) -> str:
        """Name the byte of the line at offset `start` that is not UTF-8."""
        with open_bytes(self.file) as handle:
            handle.seek(start)
            data = handle.readline(LONGEST_LINE)
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return not_utf8_byte(data, error.start)
        return "a byte is not UTF-8; save the file as UTF-8 and import it again"


def _first_line(text: str | None) -> str:
    return text.splitlines()[0] if text else ""
