"""Which format a log is in: a folder of files, or a database."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from eager_llm.core.errors import UserError
from eager_llm.data.importing.column_mapping import MAPPING_FILE, ColumnMapping
from eager_llm.data.importing.published_formats import (
    amazon_format,
    lcrec_format,
    movielens_format,
    recbole_format,
)
from eager_llm.data.importing.source_table import LogFormat, SourceTable
from eager_llm.data.importing.table_formats import sql_format, tables_format

# Returns the log of a folder, or None where the folder holds none of its format.
Detector = Callable[[Path, ColumnMapping], LogFormat | None]
DETECTORS: dict[str, Detector] = {
    "lc-rec": lcrec_format,
    "recbole": recbole_format,
    "movielens": movielens_format,
    "amazon-2018": amazon_format,
    "amazon-2023": amazon_format,
    "topic": tables_format,
    "tables": tables_format,
}
# In this order where the mapping names no format.
DETECTION_ORDER: tuple[Detector, ...] = (
    lcrec_format,
    recbole_format,
    movielens_format,
    tables_format,
    amazon_format,
)


def recognise(source: str, mapping: ColumnMapping | None = None) -> LogFormat:
    """Recognise the format of a log.

    Args:
        source: a folder, a database's URL, or `env:NAME` for a variable that holds the URL.
        mapping: None: that of the folder, where it has one.

    Raises:
        UserError: there is no log, none in a known format, or two files hold the same.
    """
    mapping_file = Path(source) / MAPPING_FILE
    if mapping is None and mapping_file.is_file():
        mapping = ColumnMapping.read(mapping_file)
    mapping = mapping or ColumnMapping()
    if "://" in source or source.startswith("env:"):
        mapping = replace(mapping, format="sql", url=source)
    if mapping.format == "sql" or mapping.url:
        return sql_format(mapping)
    folder = Path(source)
    _require_folder(folder)
    for detect in _detectors(mapping):
        log_format = detect(folder, mapping)
        if log_format is not None:
            return _apply_mapping(log_format, mapping)
    of_format = f" of the format {mapping.format}" if mapping.format else ""
    raise UserError(
        f"{folder}: no log found{of_format}; expected NAME.inter.json (LC-Rec), NAME.inter "
        "(RecBole), ratings.dat, ratings.csv or u.data (MovieLens), Amazon reviews (.json.gz, "
        ".jsonl.gz), events.csv, .tsv, .parquet or .jsonl, or "
        f"{MAPPING_FILE} that says what there is"
    )


def _require_folder(folder: Path) -> None:
    if folder.is_file():
        raise UserError(
            f"{folder}: is a file; name the folder that holds the log, "
            "in which it is called events.*"
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the folder that holds the log")


def _detectors(mapping: ColumnMapping) -> tuple[Detector, ...]:
    """Return the detectors to try, in order."""
    if mapping.format:
        return (DETECTORS[mapping.format],)
    if mapping.files:
        return (tables_format,)
    return DETECTION_ORDER


def _apply_mapping(log_format: LogFormat, mapping: ColumnMapping) -> LogFormat:
    """Let what the person said override what the format implies."""
    tables = tuple(_mapped_table(table, mapping) for table in log_format.tables)
    return replace(log_format, tables=tables, mapping=mapping)


def _mapped_table(table: SourceTable, mapping: ColumnMapping) -> SourceTable:
    columns = dict(table.columns)
    for field_name, column in mapping.names(table.table).items():
        columns[field_name] = (column,)
    return replace(
        table,
        columns=columns,
        delimiter=mapping.delimiter or table.delimiter,
        encoding=mapping.encoding or table.encoding,
        time_unit=mapping.time_unit or table.time_unit,
    )
