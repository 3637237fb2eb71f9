"""What a shop keeps of an item beyond its text, such as price and stock: columns to filter by.

Which columns there are is clear only after all files are read. Until then an item carries its
attributes as the text of one JSON object.
"""

import json
from collections.abc import Collection, Mapping

import duckdb

from eager_llm.core.duckdb_engine import identifier, literal
from eager_llm.data.tables import ITEM_COLUMNS
from eager_llm.data.text_cleaning import clean_text

# In place of names: every column that is not a field of ours.
ALL_COLUMNS = ("*",)


def json_path(key: str) -> str:
    """Return SQL for the JSON path of a key."""
    return literal('$."' + key + '"')


def attributes_object(columns: Mapping[str, str]) -> str:
    """Return SQL that makes one JSON object of columns; NULL where there are none.

    Args:
        columns: name → DuckDB type.
    """
    if not columns:
        return "CAST(NULL AS VARCHAR)"
    pairs = []
    for column, kind in columns.items():
        pairs.append(literal(column))
        pairs.append(_json_value(column, kind))
    return f"CAST(json_object({', '.join(pairs)}) AS VARCHAR)"


def _json_value(column: str, kind: str) -> str:
    """Return SQL for a column as JSON can hold it: no infinity, times as text."""
    value = identifier(column)
    if kind in ("DOUBLE", "FLOAT"):
        return f"CASE WHEN isfinite({value}) THEN {value} END"
    if kind.startswith(("TIMESTAMP", "DATE", "TIME")):
        return f"CAST({value} AS VARCHAR)"
    return value


def clean_attributes(text: str | None, field_names: Collection[str], markup: bool) -> str | None:
    """Return an item's object with texts, numbers and truth values only; None where none is left.

    Args:
        text: the object as JSON, or None.
        field_names: lower-case names of columns that fill our fields, and so are no attributes.
        markup: take HTML out of texts.
    """
    if text is None:
        return None
    attributes: dict[str, str | int | float] = {}
    for column, value in json.loads(text).items():
        # RecBole's columns carry their type: price:float.
        key = column.split(":")[0].strip()
        key = key.replace('"', "'")
        if not key or key.lower() in field_names:
            continue
        if isinstance(value, (str, list)):
            value = clean_text(value, markup)
        if isinstance(value, (str, int, float)) and value != "":
            attributes[key] = value
    if not attributes:
        return None
    return json.dumps(attributes, ensure_ascii=False)


def item_columns(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """Return SQL for the columns of the items in `table`, each attribute as a column of its type.

    A column is numbers, or truth values, where all that is filled reads so. Cells with leading
    zeros, such as article numbers, stay text. Missing text is empty. Names that differ only in
    their case are one column.
    """
    rows = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(attributes)) FROM {table} WHERE attributes IS NOT NULL"
    ).fetchall()
    spellings: dict[str, list[str]] = {}
    for (key,) in sorted(rows):
        spellings.setdefault(key.lower(), []).append(key)
    columns = list(ITEM_COLUMNS)
    for keys in spellings.values():
        values = [f"json_extract_string(attributes, {json_path(key)})" for key in keys]
        value = f"coalesce({', '.join(values)})"
        cell = _typed(connection, table, value)
        column = identifier(keys[0])
        columns.append(f"{cell} AS {column}")
    return ", ".join(columns)


def _typed(connection: duckdb.DuckDBPyConnection, table: str, value: str) -> str:
    """Return SQL for a text expression in the type that all its values read as."""
    row = connection.execute(
        "SELECT count(v) = count(*), bool_and(lower(v) IN ('true', 'false')), "
        "coalesce(bool_and(isfinite(try_cast(v AS DOUBLE)) "
        "AND NOT regexp_matches(v, '^[+-]?0[0-9]')), false) "
        "AND count(v) = count(try_cast(v AS DOUBLE)), "
        "bool_and(regexp_matches(v, '^[+-]?[0-9]{1,18}$')) "
        f"FROM (SELECT {value} AS v FROM {table})"
    ).fetchone()
    complete, all_truth, all_numbers, all_whole = row or (False, False, False, False)
    if all_truth and complete:
        return f"(lower({value}) = 'true')"
    if not all_numbers:
        return f"coalesce({value}, '')"
    if all_whole and complete:
        return f"CAST({value} AS BIGINT)"
    return f"CAST({value} AS DOUBLE)"
