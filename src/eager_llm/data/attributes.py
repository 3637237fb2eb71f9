"""What a shop keeps of an item beyond its text, such as price and stock: columns that can be filtered by.

Which there are is known when all files are read, so an item carries them as a JSON object until then.
"""

import json
from collections.abc import Mapping as Pairs
from typing import TYPE_CHECKING

import duckdb

from eager_llm.core.duckdb_engine import literal, name
from eager_llm.data.tables import ITEM_COLUMNS
from eager_llm.data.text_cleaning import clean_text

if TYPE_CHECKING:
    from eager_llm.data.importing.formats import SourceTable

EVERY = ("*",)


def at(key: str) -> str:
    """Return SQL for the JSON path of a key."""
    return literal('$."' + key + '"')


def packed(columns: Pairs[str, str]) -> str:
    """Return SQL that makes the object of `columns` (name → DuckDB type), NULL where there are none."""
    cells = []
    for column, kind in columns.items():
        value = name(column)
        if kind in ("DOUBLE", "FLOAT"):
            value = f"CASE WHEN isfinite({value}) THEN {value} END"
        elif kind.startswith(("TIMESTAMP", "DATE", "TIME")):
            value = f"CAST({value} AS VARCHAR)"
        cells.append(f"{literal(column)}, {value}")
    return f"CAST(json_object({', '.join(cells)}) AS VARCHAR)" if cells else "CAST(NULL AS VARCHAR)"


def kept_attributes(text: str | None, part: "SourceTable", markup: bool) -> str | None:
    """Return the object without our fields, without what is empty, and with plain values only."""
    if text is None:
        return None
    ours = {name.lower() for names in part.columns.values() for name in names} | set(ITEM_COLUMNS)
    kept = {}
    for key, value in json.loads(text).items():
        key = key.split(":")[0].strip().replace('"', "'")  # RecBole's columns carry their type
        if isinstance(value, (str, list)):
            value = clean_text(value, markup)
        if key and key.lower() not in ours and isinstance(value, (str, int, float)) and value != "":
            kept[key] = value
    return json.dumps(kept, ensure_ascii=False) if kept else None


def spread(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """Return SQL for the columns of `table`'s items, the attributes each as a column of its type.

    A column is numbers, or truth values, where all that is filled reads so; cells with leading
    zeros, such as article numbers, stay text, and text that is missing is empty.
    """
    keys = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(attributes)) FROM {table} WHERE attributes IS NOT NULL"
    ).fetchall()
    spellings: dict[str, list[str]] = {}
    for key in sorted(row[0] for row in keys):
        spellings.setdefault(key.lower(), []).append(key)
    columns = list(ITEM_COLUMNS)
    for names in spellings.values():
        found = ", ".join(f"json_extract_string(attributes, {at(key)})" for key in names)
        columns.append(f"{_typed(connection, table, f'coalesce({found})')} AS {name(names[0])}")
    return ", ".join(columns)


def _typed(connection: duckdb.DuckDBPyConnection, table: str, value: str) -> str:
    row = connection.execute(
        f"SELECT count(v) = count(*), bool_and(lower(v) IN ('true', 'false')), "
        f"coalesce(bool_and(isfinite(try_cast(v AS DOUBLE)) AND NOT regexp_matches(v, '^[+-]?0[0-9]')), false) "
        f"AND count(v) = count(try_cast(v AS DOUBLE)), bool_and(regexp_matches(v, '^[+-]?[0-9]{{1,18}}$')) "
        f"FROM (SELECT {value} AS v FROM {table})"
    ).fetchone()
    full, truth, number, whole = row or (False, False, False, False)
    if truth and full:
        return f"(lower({value}) = 'true')"
    if number:
        return f"CAST({value} AS {'BIGINT' if whole and full else 'DOUBLE'})"
    return f"coalesce({value}, '')"
