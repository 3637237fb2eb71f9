"""Bring people's logs into the engine, row by row checked; what is refused is kept with its reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pyarrow as pa

from eager_llm.core.duckdb_engine import engine, literal, one, run
from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.data.attributes import kept_attributes, packed, spread
from eager_llm.data.importing.column_mapping import FIELDS, ColumnMapping
from eager_llm.data.importing.formats import SourceTable, recognise
from eager_llm.data.importing.lcrec import lcrec_frames
from eager_llm.data.importing.readers import Reader, Relation, readers, rejected
from eager_llm.data.importing.streams import Stream
from eager_llm.data.importing.timestamps import fault, microseconds
from eager_llm.data.tables import ITEM_COLUMNS, TEXT_COLUMNS, Tables
from eager_llm.data.text_cleaning import LONGEST, clean_text
from eager_llm.settings import DataSettings

if TYPE_CHECKING:
    from eager_llm.data.importing.on_ray import Workers

NAMED_FAULTS = 5
ITEM_BATCH = 5_000
SCHEMA = """
CREATE TABLE events_here (row BIGINT, user_id VARCHAR, item_id VARCHAR, us BIGINT, event_type VARCHAR, weight DOUBLE, fault VARCHAR);
CREATE VIEW events_in AS SELECT * FROM events_here;
CREATE TABLE items_in (item_id VARCHAR, title VARCHAR, description VARCHAR, brand VARCHAR, categories VARCHAR, attributes VARCHAR);
CREATE TABLE intentions_in (user_id VARCHAR, item_id VARCHAR, intention VARCHAR, preference VARCHAR);
CREATE TABLE aliases (item_id VARCHAR, same_as VARCHAR);
CREATE TABLE faults ("table" VARCHAR, file VARCHAR, row BIGINT, reason VARCHAR, kept BOOLEAN);
"""
PART_FAULTS = "CREATE OR REPLACE TEMP TABLE part_faults (file VARCHAR, row BIGINT, unit VARCHAR, reason VARCHAR)"


def import_path(
    path: Path, mapping: ColumnMapping | None = None, settings: DataSettings | None = None
) -> Tables:
    """Read a folder in a known form into memory; for logs that fit there.

    Raises:
        UserError: nothing there has a known form, or a file is broken; file, row and field named.
    """
    with engine() as connection:
        metadata = stage(connection, str(path), settings or DataSettings(), mapping)
        events = connection.execute(
            "SELECT user_id, item_id, make_timestamptz(us) AS timestamp, event_type, weight FROM events_in "
            "ORDER BY user_id, us, item_id"
        ).df()
        optional = [name for name in ("event_type", "weight") if events[name].isna().all()]
        events = events.drop(columns=optional)
        events["timestamp"] = events["timestamp"].dt.as_unit("us")
        items = connection.execute(
            f"SELECT {spread(connection, 'items_in')} FROM items_in ORDER BY ALL"
        ).df()
        wishes = connection.execute("SELECT * FROM intentions_in ORDER BY ALL").df()
    return Tables(events, items, wishes if len(wishes) else None, metadata)


def stage(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    settings: DataSettings,
    mapping: ColumnMapping | None = None,
    workers: "Workers | None" = None,
) -> dict[str, Any]:
    """Fill `events_in`, `items_in`, `intentions_in` and `faults` from a folder or a database.

    Args:
        workers: read the files of the events; None: this process does.

    Returns:
        Where it comes from, and how many rows were refused or changed.

    Raises:
        UserError: the source is broken, or more of its rows than `data.bad_rows` allows.
    """
    connection.execute(SCHEMA)
    form = recognise(source, mapping)
    if form.lcrec is not None:
        _stage_frames(connection, *lcrec_frames(form.lcrec))
    for part in form.parts:
        _stage_part(connection, part, form.mapping, settings, workers)
    if form.mapping.item_aliases:
        _stage_aliases(connection, Path(source) / form.mapping.item_aliases)
    if not one(connection, "SELECT count(*) FROM events_in"):
        raise UserError(f"{source}: no row of the log is readable")
    if form.lcrec is None and "items" not in {part.table for part in form.parts}:
        connection.execute(
            "INSERT INTO items_in SELECT DISTINCT item_id, '', '', '', '', NULL FROM events_in"
        )
    return {
        "source": form.source, "form": form.name, "ordinal_time": form.lcrec is not None,
        "rows_refused": one(connection, "SELECT count(*) FROM faults WHERE NOT kept"),
        "texts_cut": one(connection, "SELECT count(*) FROM faults WHERE kept"),
    }  # fmt: skip


def stage_tables(connection: duckdb.DuckDBPyConnection, tables: Tables) -> None:
    """Fill the same tables from frames in memory."""
    connection.execute(SCHEMA)
    _stage_frames(connection, tables.events, tables.items, tables.intentions)


def stage_folder(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Add what an earlier import kept and set quarantine, so that a log can grow.

    Raises:
        UserError: `folder` holds no imported tables.
    """
    if not (folder / "events.parquet").is_file():
        raise UserError(
            f"{folder}: holds no events.parquet to add to; import without --append first"
        )
    for file in (folder / "events.parquet", folder / "dropped" / "events.parquet"):
        if file.is_file():
            _insert_events(connection, f"read_parquet({literal(str(file))})")
    for file in (folder / "items.parquet", folder / "dropped" / "items.parquet"):
        if file.is_file():
            _add_known_items(connection, f"read_parquet({literal(str(file))})")
    for file in (folder / "intentions.parquet", folder / "dropped" / "intentions.parquet"):
        if file.is_file():
            connection.execute(
                f"INSERT INTO intentions_in SELECT * FROM read_parquet({literal(str(file))})"
            )


def _add_known_items(connection: duckdb.DuckDBPyConnection, source: str) -> None:
    """Add items of an earlier import; what is new says more of an item, unless it says nothing."""
    bare = " AND ".join(f"{column} = ''" for column in TEXT_COLUMNS)
    connection.execute(
        f"DELETE FROM items_in WHERE {bare} AND attributes IS NULL AND item_id IN (SELECT item_id FROM {source})"
    )
    connection.execute(
        f"INSERT INTO items_in SELECT * FROM ({_items_from(connection, source)}) "
        "WHERE item_id NOT IN (SELECT item_id FROM items_in)"
    )


def _items_from(connection: duckdb.DuckDBPyConnection, source: str) -> str:
    kinds = {
        row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    }
    others = {column: kind for column, kind in kinds.items() if column not in ITEM_COLUMNS}
    return f"SELECT {', '.join(ITEM_COLUMNS)}, {packed(others)} FROM {source}"


def _insert_events(connection: duckdb.DuckDBPyConnection, source: str) -> None:
    columns = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    # What was recorded, before simultaneous events were given an order.
    moment = "coalesce(recorded_at, timestamp)" if "recorded_at" in columns else "timestamp"
    kind = "event_type" if "event_type" in columns else "NULL"
    weight = "weight" if "weight" in columns else "NULL"
    connection.execute(
        f"INSERT INTO events_here SELECT NULL, user_id, item_id, epoch_us(CAST({moment} AS TIMESTAMPTZ)), {kind}, {weight}, "
        f"NULL FROM {source}"
    )


def _stage_frames(
    connection: duckdb.DuckDBPyConnection,
    events: pd.DataFrame,
    items: pd.DataFrame | None,
    intentions: pd.DataFrame | None = None,
) -> None:
    connection.register("frame_in", events.reset_index(drop=True))
    _insert_events(connection, "frame_in")
    if items is None:
        connection.execute(
            "INSERT INTO items_in SELECT DISTINCT item_id, '', '', '', '', NULL FROM events_in"
        )
    else:
        connection.register("frame_in", items.reset_index(drop=True))
        connection.execute(f"INSERT INTO items_in {_items_from(connection, 'frame_in')}")
    if intentions is not None:
        connection.register("frame_in", intentions.reset_index(drop=True))
        connection.execute(
            "INSERT INTO intentions_in SELECT user_id, item_id, intention, preference FROM frame_in"
        )


def _stage_part(
    connection: duckdb.DuckDBPyConnection,
    part: SourceTable,
    mapping: ColumnMapping,
    settings: DataSettings,
    workers: "Workers | None",
) -> None:
    if workers and part.table == "events" and part.files:
        _judge(connection, part.table, workers.read(connection, part, mapping), settings)
        return
    _judge(connection, part.table, read_part(connection, part, mapping), settings)
    if part.table == "events":
        connection.execute("INSERT INTO events_here BY NAME SELECT * FROM events_raw")
        connection.execute("DROP TABLE events_raw")
    else:
        _insert_texts(connection, part, settings.clean_markup)


def read_part(
    connection: duckdb.DuckDBPyConnection, part: SourceTable, mapping: ColumnMapping
) -> int:
    """Read every file of a part: first all rows at full speed, then, where some are broken, their numbers.

    Returns:
        How many rows there were; the readable ones are in TABLE_raw, the others in `part_faults`.
    """
    read = 0
    connection.execute(PART_FAULTS)
    target = f"{part.table}_raw"
    connection.execute(f"DROP TABLE IF EXISTS {target}")
    for reader in readers(connection, part):
        relation = reader.open()
        checked = _checked(part, relation.sql, mapping)
        exists = one(
            connection, f"SELECT count(*) FROM duckdb_tables() WHERE table_name = {literal(target)}"
        )
        into = f"INSERT INTO {target}" if exists else f"CREATE TABLE {target} AS"
        before = one(connection, f"SELECT count(*) FROM {target}") if exists else 0
        _read(connection, relation, f"reading {Path(relation.origin).name}", f"{into} {checked}")
        lost = (
            rejected(connection, relation.delimited, not part.header) if relation.delimited else []
        )
        rows = one(connection, f"SELECT count(*) FROM {target}") - before
        if rows + len(lost) == 0:
            raise UserError(f"{relation.origin}: the file has a header but no rows")
        read += rows + len(lost)
        if one(connection, f"SELECT count(*) FROM {target} WHERE fault IS NOT NULL"):
            _collect(connection, part, reader, relation, mapping, lost)
        unit = [(relation.origin, line, "line", reason) for line, reason in lost]
        if unit:
            connection.executemany("INSERT INTO part_faults VALUES (?, ?, ?, ?)", unit)
        connection.execute(f"DELETE FROM {target} WHERE fault IS NOT NULL")
        if part.kind == "sql" or part.kind in ("jsonl", "topic"):
            connection.unregister("lines_in")
    return read


def _read(connection: duckdb.DuckDBPyConnection, relation: Relation, label: str, sql: str) -> None:
    try:
        run(connection, label, sql)
    except duckdb.OutOfMemoryException:
        raise  # the file is not at fault
    except duckdb.Error as error:
        if relation.stream:
            relation.stream.check()
        raise UserError(f"{relation.origin}: not readable: {str(error).splitlines()[0]}") from None
    if relation.stream:
        relation.stream.check()


def _checked(part: SourceTable, sql: str, mapping: ColumnMapping) -> str:
    """Return the relation with `fault`: why a row cannot be kept, or NULL."""
    faults = ["broken"]
    ids = [column for column in ("user_id", "item_id") if column in FIELDS[part.table]]
    for column in ids:
        faults.append(f"CASE WHEN coalesce({column}, '') = '' THEN '{column} is empty' END")
        if part.kind in ("jsonl", "topic"):
            faults.append(
                f"CASE WHEN {column}[1] IN ('{{', '[') THEN '{column} is no plain value: ' || {column}[:40] END"
            )
    if part.table != "events":
        return f"SELECT * EXCLUDE (broken), coalesce({', '.join(faults)}) AS fault FROM ({sql})"
    moment = microseconds("timestamp", mapping.time_format, part.time_unit)
    # Typed columns ingest_increment as microseconds, marked.
    moment = (
        f"CASE WHEN timestamp LIKE '%us' THEN try_cast(timestamp[:-3] AS BIGINT) ELSE {moment} END"
        if part.kind == "parquet"
        else moment
    )
    faults.append(fault("timestamp", "us"))
    faults.append(
        "CASE WHEN weight IS NOT NULL AND weight <> '' AND NOT coalesce(isfinite(try_cast(weight AS DOUBLE)) "
        "AND try_cast(weight AS DOUBLE) >= 0, false) THEN 'weight ''' || weight[:40] || ''' is not a number of 0 or more' END"
    )
    return (
        f"SELECT row, user_id, item_id, us, nullif(event_type, '') AS event_type, try_cast(weight AS DOUBLE) AS weight, "
        f"coalesce({', '.join(faults)}) AS fault FROM (SELECT *, {moment} AS us FROM ({sql}))"
    )


def _collect(
    connection: duckdb.DuckDBPyConnection,
    part: SourceTable,
    reader: Reader,
    relation: Relation,
    mapping: ColumnMapping,
    lost: list[tuple[int, str]],
) -> None:
    """Note the faulty rows with their numbers; delimited files are read again for them, in order."""
    unit = "line" if part.kind in ("jsonl", "topic") else "row"
    source = f"(SELECT row, fault FROM {part.table}_raw WHERE fault IS NOT NULL)"
    row = "row"
    if not relation.numbered:
        again = reader.open(numbered=True)
        source = f"(SELECT row, fault FROM ({_checked(part, again.sql, mapping)}) WHERE fault IS NOT NULL)"
        # Lines that were refused as such are rows too: shift those after them.
        first = 1 if part.header else 2
        readable = [line - first - place for place, (line, _) in enumerate(lost)]
        if readable:
            row = f"row + len(list_filter({readable}, x -> x < row))"
        connection.execute("SET preserve_insertion_order = true")
    _read(
        connection, relation, "naming the broken rows",
        f"INSERT INTO part_faults SELECT {literal(relation.origin)}, {row}, '{unit}', fault FROM {source}",
    )  # fmt: skip
    connection.execute("SET preserve_insertion_order = false")


def _judge(
    connection: duckdb.DuckDBPyConnection, table: str, read: int, settings: DataSettings
) -> None:
    """Refuse the import where too many rows are broken; else keep them in the report."""
    broken = one(connection, "SELECT count(*) FROM part_faults")
    if not broken:
        return
    if broken > settings.bad_rows * read:
        first = connection.execute(
            f"SELECT file, unit, row, reason FROM part_faults ORDER BY file, row LIMIT {NAMED_FAULTS}"
        )
        named = [f"{file}: {unit} {row}: {reason}" for file, unit, row, reason in first.fetchall()]
        more = f"\n  and {broken - len(named)} more" if broken > len(named) else ""
        raise UserError(
            "\n  ".join(named)
            + more
            + f"\n  {broken} of {read} rows of the {table} are broken; mend them, or let a share "
            "of them go into the report with data.bad_rows (now " + f"{settings.bad_rows:g})"
        )
    connection.execute(
        f"INSERT INTO faults SELECT '{table}', file, row, reason, false FROM part_faults"
    )
    say(f"{table}: {broken} of {read} rows refused; they are named in dropped/rows.parquet")


def _insert_texts(connection: duckdb.DuckDBPyConnection, part: SourceTable, markup: bool) -> None:
    """Clean the text of items and intentions, batch by batch."""
    table = part.table
    others = ("attributes",) if table == "items" else ()
    texts = TEXT_COLUMNS if table == "items" else ("intention", "preference")
    ids = ("item_id",) if table == "items" else ("user_id", "item_id")
    cursor = connection.cursor()
    found = cursor.execute(
        f"SELECT {', '.join((*ids, *texts, *others))} FROM {table}_raw"
    ).to_arrow_reader(ITEM_BATCH)
    schema = pa.schema([(name, pa.string()) for name in (*ids, *texts, *others)])

    def cleaned() -> Iterator[pa.RecordBatch]:
        for batch in found:
            cells = [batch.column(name).to_pylist() for name in ids]
            cells += [
                [clean_text(value, markup) for value in batch.column(name).to_pylist()]
                for name in texts
            ]
            cells += [
                [kept_attributes(v, part, markup) for v in batch.column(name).to_pylist()]
                for name in others
            ]
            yield pa.record_batch(
                [pa.array(column, pa.string()) for column in cells], schema=schema
            )

    stream = Stream(schema, cleaned())
    connection.register("cleaned", stream.reader)
    connection.execute(f"INSERT INTO {table}_in SELECT * FROM cleaned")
    stream.check()
    connection.unregister("cleaned")
    cursor.close()
    for column in texts:
        connection.execute(
            f"INSERT INTO faults SELECT '{table}', NULL, row, '{column} of item ' || item_id[:60] || ' cut from ' || "
            f"length({column}) || ' to {LONGEST} characters', true FROM {table}_raw WHERE length({column}) > {LONGEST}"
        )
    connection.execute(f"DROP TABLE {table}_raw")


def _stage_aliases(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    try:
        aliases = pd.read_csv(file, dtype=str, keep_default_na=False)[["item_id", "same_as"]]
    except FileNotFoundError:
        raise UserError(f"{file}: no such file, as item_aliases says") from None
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: not readable as a CSV of item_id, same_as: {error}") from None
    both = set(aliases["item_id"]) & set(aliases["same_as"])
    if both or aliases["item_id"].duplicated().any():
        raise UserError(
            f"{file}: an item stands for another once, and not for one that is merged itself: {', '.join(sorted(both)[:5])}"
        )
    connection.register("frame_in", aliases)
    connection.execute("INSERT INTO aliases SELECT item_id, same_as FROM frame_in")
