"""The forms that logs come in: which files, which columns, which dialect."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from eager_llm.core.errors import UserError
from eager_llm.data.attributes import EVERY
from eager_llm.data.importing.column_mapping import FIELDS, MAPPING_FILE, ColumnMapping
from eager_llm.data.importing.streams import first_line
from eager_llm.data.tables import INTENTION_COLUMNS

REQUIRED = {
    "events": ("user_id", "item_id", "timestamp"),
    "items": ("item_id",),
    "intentions": INTENTION_COLUMNS,
}
DELIMITED = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*DELIMITED, *JSON_LINES[:2], ".parquet")
Names = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class SourceTable:
    """One table of a log, as somebody keeps it.

    Attributes:
        table: events, items or intentions.
        kind: delimited, jsonl, topic, parquet or sql.
        columns: our field to the names that theirs may have, the first that is there counts.
        header: the columns' names where the file has no header line.
        attributes: what else is kept of an item: names, or `EVERY` other column.
    """

    table: str
    kind: str
    columns: Names
    files: tuple[Path, ...] = ()
    delimiter: str = ""
    quote: str = '"'
    encoding: str = ""
    header: tuple[str, ...] = ()
    query: str = ""
    url: str = ""
    time_unit: str = ""
    attributes: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """Our fields without which a row is none."""
        return REQUIRED[self.table]


@dataclass(frozen=True)
class LogFormat:
    """A log in a known form."""

    name: str
    source: str
    parts: tuple[SourceTable, ...] = ()
    lcrec: Path | None = None
    mapping: ColumnMapping = field(default_factory=ColumnMapping)


def recognise(source: str, mapping: ColumnMapping | None = None) -> LogFormat:
    """Find out the form of a folder or a database.

    Raises:
        UserError: nothing there, nothing known, or two files that say the same.
    """
    if mapping is None and (Path(source) / MAPPING_FILE).is_file():
        mapping = ColumnMapping.read(Path(source) / MAPPING_FILE)
    mapping = mapping or ColumnMapping()
    if "://" in source or source.startswith("env:"):
        mapping = replace(mapping, form="sql", url=source)
    if mapping.form == "sql" or mapping.url:
        return _sql(source, mapping)
    folder = Path(source)
    if folder.is_file():
        raise UserError(
            f"{folder}: is a file; name the folder that holds the log, in which it is called events.*"
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the folder that holds the log")
    finders = {
        "lc-rec": _lcrec, "recbole": _recbole, "movielens": _movielens, "amazon-2018": _amazon,
        "amazon-2023": _amazon, "topic": _tables, "tables": _tables,
    }  # fmt: skip
    asked = [finders[mapping.form]] if mapping.form else [_lcrec, _recbole, _movielens]
    if not mapping.form and not mapping.files:
        asked += [_tables, _amazon]
    elif not mapping.form:
        asked = [_tables]
    for find in asked:
        form = find(folder, mapping)
        if form is not None:
            return _mapped(form, mapping)
    raise UserError(
        f"{folder}: no log found{f' of the form {mapping.form}' if mapping.form else ''}; expected NAME.inter.json "
        "(LC-Rec), NAME.inter (RecBole), ratings.dat, ratings.csv or u.data (MovieLens), Amazon reviews (.json.gz, "
        f".jsonl.gz), events.csv, .tsv, .parquet or .jsonl, or {MAPPING_FILE} that says what there is"
    )


def _mapped(form: LogFormat, mapping: ColumnMapping) -> LogFormat:
    """Let what the person said go before what the form knows."""
    parts = []
    for part in form.parts:
        columns = {
            **part.columns,
            **{ours: (theirs,) for ours, theirs in mapping.names(part.table).items()},
        }
        said = {"columns": columns}
        for name in ("delimiter", "encoding", "time_unit"):
            if getattr(mapping, name):
                said[name] = getattr(mapping, name)
        parts.append(replace(part, **said))  # type: ignore[arg-type]
    return replace(form, parts=tuple(parts), mapping=mapping)


def _own(table: str) -> Names:
    return {ours: (ours,) for ours in FIELDS[table]}


def _single(folder: Path, found: list[Path]) -> Path | None:
    if len(found) > 1:
        raise UserError(
            f"{folder}: several logs ({', '.join(p.name for p in found)}); keep one a folder"
        )
    return found[0] if found else None


def _lcrec(folder: Path, mapping: ColumnMapping) -> LogFormat | None:
    log = _single(folder, sorted(folder.glob("*.inter.json")))
    return LogFormat("LC-Rec JSON", log.name, lcrec=log) if log else None


def _recbole(folder: Path, mapping: ColumnMapping) -> LogFormat | None:
    """RecBole's atomic files: tabs, a header of name:type, no quoting."""
    log = _single(folder, sorted(folder.glob("*.inter")))
    if log is None:
        return None
    events: Names = {
        "user_id": ("user_id:token",),
        "item_id": ("item_id:token",),
        "timestamp": ("timestamp:float", "timestamp:token"),
    }
    parts = [SourceTable("events", "delimited", events, (log,), "\t", "")]
    catalogue = log.with_suffix(".item")
    if catalogue.is_file():
        kinds = ("token_seq", "token")
        items: Names = {"item_id": ("item_id:token",)}
        for ours, names in {
            "title": ("title", "movie_title", "name"), "description": ("description",), "brand": ("brand",),
            "categories": ("categories", "category", "class", "genre", "genres"),
        }.items():  # fmt: skip
            items[ours] = tuple(f"{name}:{kind}" for name in names for kind in kinds)
        parts.append(
            SourceTable("items", "delimited", items, (catalogue,), "\t", "", attributes=EVERY)
        )
    return LogFormat("RecBole atomic files", log.name, tuple(parts))


def _movielens(folder: Path, mapping: ColumnMapping) -> LogFormat | None:
    """MovieLens: 1M and 10M (`::`), 20M and later (CSV), 100K (tabs and bars)."""
    events: Names = {"user_id": ("userId",), "item_id": ("movieId",), "timestamp": ("timestamp",)}
    items: Names = {"item_id": ("movieId",), "title": ("title",), "categories": ("genres",)}
    rating = ("userId", "movieId", "rating", "timestamp")
    if (folder / "ratings.dat").is_file():
        log, catalogue = (
            SourceTable(
                "events", "delimited", events, (folder / "ratings.dat",), "::", "", "", rating
            ),
            folder / "movies.dat",
        )
        # As published: no quoting, and titles in Latin-1.
        film = SourceTable(
            "items",
            "delimited",
            items,
            (catalogue,),
            "::",
            "",
            "latin-1",
            ("movieId", "title", "genres"),
        )
    elif (folder / "ratings.csv").is_file() and "movieId" in first_line(folder / "ratings.csv"):
        log, catalogue = (
            SourceTable("events", "delimited", events, (folder / "ratings.csv",)),
            folder / "movies.csv",
        )
        film = SourceTable("items", "delimited", items, (catalogue,))
    elif (folder / "u.data").is_file():
        log, catalogue = (
            SourceTable("events", "delimited", events, (folder / "u.data",), "\t", "", "", rating),
            folder / "u.item",
        )
        columns = (
            "movieId",
            "title",
            "released",
            "video",
            "url",
            *(f"genre{n}" for n in range(19)),
        )
        film = SourceTable("items", "delimited", items, (catalogue,), "|", "", "latin-1", columns)
    else:
        return None
    return LogFormat("MovieLens", log.files[0].name, (log, film) if catalogue.is_file() else (log,))


def _amazon(folder: Path, mapping: ColumnMapping) -> LogFormat | None:
    """Amazon Reviews: 2018 (`reviewerID`, seconds) and 2023 (`user_id`, `parent_asin`, milliseconds)."""
    files = [p for p in sorted(folder.iterdir()) if p.name.removesuffix(".gz").endswith(JSON_LINES)]
    logs = [p for p in files if not p.name.startswith("meta_")]
    if not logs:
        return None
    keys = {path: _keys(path) for path in logs}
    older = tuple(p for p in logs if {"reviewerID", "asin"} <= keys[p])
    newer = tuple(p for p in logs if {"user_id", "parent_asin"} <= keys[p])
    if older and newer:
        raise UserError(
            f"{folder}: Amazon reviews of 2018 ({older[0].name}) and of 2023 ({newer[0].name}); keep one"
        )
    if not (older or newer):
        return None
    metas = tuple(p for p in files if p.name.startswith("meta_"))
    if older:
        events: Names = {
            "user_id": ("reviewerID",),
            "item_id": ("asin",),
            "timestamp": ("unixReviewTime",),
        }
        items: Names = {
            "item_id": ("asin",),
            "brand": ("brand",),
            "categories": ("category", "categories"),
        }
    else:
        events = {
            "user_id": ("user_id",),
            "item_id": ("parent_asin", "asin"),
            "timestamp": ("timestamp",),
        }
        items = {
            "item_id": ("parent_asin",),
            "brand": ("store",),
            "categories": ("categories", "main_category"),
        }
    items = {**items, "title": ("title",), "description": ("description",)}
    log = SourceTable("events", "jsonl", events, older or newer, time_unit="s" if older else "ms")
    parts = (
        (log, SourceTable("items", "jsonl", items, metas, attributes=("price",)))
        if metas
        else (log,)
    )
    return LogFormat(f"Amazon Reviews {'2018' if older else '2023'}", log.files[0].name, parts)


def _keys(path: Path) -> set[str]:
    try:
        row = json.loads(first_line(path))
    except (json.JSONDecodeError, RecursionError):
        return set()
    return set(row) if isinstance(row, dict) else set()


def _tables(folder: Path, mapping: ColumnMapping) -> LogFormat | None:
    parts = []
    for table in FIELDS:
        files = _files(folder, table, mapping)
        if not files:
            continue
        suffix = "".join(s for s in files[0].suffixes if s != ".gz")[-8:]
        kind = (
            "parquet"
            if suffix.endswith(".parquet")
            else "jsonl"
            if suffix.endswith(JSON_LINES)
            else "delimited"
        )
        columns = _own(table)
        if (
            kind == "jsonl"
            and table == "events"
            and (mapping.form == "topic" or _is_topic(files[0]))
        ):
            kind = "topic"
        delimiter = "\t" if suffix.endswith(".tsv") else ""
        parts.append(SourceTable(table, kind, columns, files, delimiter, attributes=EVERY))
    if not parts or parts[0].table != "events":
        return None
    first = parts[0].files[0]
    name = (
        "event topic"
        if parts[0].kind == "topic"
        else first.name.removesuffix(".gz").rsplit(".", 1)[-1]
    )
    return LogFormat(name, first.name, tuple(parts))


def _is_topic(path: Path) -> bool:
    return {"topic", "partition", "offset"} <= _keys(path)


def _files(folder: Path, table: str, mapping: ColumnMapping) -> tuple[Path, ...]:
    """Find `events.csv`, or its parts `events-*.csv`, or what the mapping names."""
    if table in mapping.files:
        found = sorted(folder.glob(mapping.files[table]))
        if not found:
            raise UserError(
                f"{folder}: no file is called {mapping.files[table]}, as files.{table} says"
            )
        return tuple(found)
    plain = [folder / f"{table}{suffix}{gz}" for suffix in SUFFIXES for gz in ("", ".gz")]
    found = [path for path in plain if path.is_file()]
    if len(found) > 1:
        raise UserError(f"{folder}: {' and '.join(p.name for p in found)} say the same; keep one")
    if found:
        return tuple(found)
    parts = [
        p
        for p in sorted(folder.glob(f"{table}-*"))
        if p.name.removesuffix(".gz").endswith(SUFFIXES)
    ]
    kinds = {p.name.removesuffix(".gz").rsplit(".", 1)[-1] for p in parts}
    if len(kinds) > 1:
        raise UserError(f"{folder}: {table}-* come as {' and '.join(sorted(kinds))}; keep one kind")
    return tuple(parts)


def _sql(source: str, mapping: ColumnMapping) -> LogFormat:
    if "events" not in mapping.queries:
        raise UserError(
            "a database needs a query for the events: queries.events in the mapping, or --query events=SELECT"
        )
    parts = tuple(
        SourceTable(
            table,
            "sql",
            {o: (c,) for o, c in {**{f: f for f in FIELDS[table]}, **mapping.names(table)}.items()},
            query=query,
            url=mapping.url,
            attributes=EVERY,
        )
        for table in FIELDS
        if (query := mapping.queries.get(table))
    )
    return LogFormat("SQL", "the query for events", parts, mapping=mapping)
