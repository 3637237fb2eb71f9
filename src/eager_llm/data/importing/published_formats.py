"""The formats of published data sets: LC-Rec, RecBole, MovieLens, Amazon Reviews."""

from pathlib import Path

from eager_llm.core.errors import UserError
from eager_llm.data.attributes import ALL_COLUMNS
from eager_llm.data.importing.column_mapping import ColumnMapping
from eager_llm.data.importing.source_table import ColumnNames, LogFormat, SourceTable
from eager_llm.data.importing.streams import JSON_SUFFIXES, first_line, json_keys

RECBOLE_EVENTS: ColumnNames = {
    "user_id": ("user_id:token",),
    "item_id": ("item_id:token",),
    "timestamp": ("timestamp:float", "timestamp:token"),
}
# Without their types, of which a text has one of two.
RECBOLE_TEXTS: ColumnNames = {
    "title": ("title", "movie_title", "name"),
    "description": ("description",),
    "brand": ("brand",),
    "categories": ("categories", "category", "class", "genre", "genres"),
}
RECBOLE_TEXT_TYPES = ("token_seq", "token")

MOVIELENS_EVENTS: ColumnNames = {
    "user_id": ("userId",),
    "item_id": ("movieId",),
    "timestamp": ("timestamp",),
}
MOVIELENS_ITEMS: ColumnNames = {
    "item_id": ("movieId",),
    "title": ("title",),
    "categories": ("genres",),
}
RATING_HEADER = ("userId", "movieId", "rating", "timestamp")
MOVIE_HEADER = ("movieId", "title", "genres")
GENRES_100K = 19
MOVIE_HEADER_100K = (
    "movieId",
    "title",
    "released",
    "video",
    "url",
    *(f"genre{number}" for number in range(GENRES_100K)),
)

AMAZON_TEXTS: ColumnNames = {"title": ("title",), "description": ("description",)}
AMAZON_2018_EVENTS: ColumnNames = {
    "user_id": ("reviewerID",),
    "item_id": ("asin",),
    "timestamp": ("unixReviewTime",),
}
AMAZON_2018_ITEMS: ColumnNames = {
    "item_id": ("asin",),
    "brand": ("brand",),
    "categories": ("category", "categories"),
    **AMAZON_TEXTS,
}
# Variants of an item join under their parent.
AMAZON_2023_EVENTS: ColumnNames = {
    "user_id": ("user_id",),
    "item_id": ("parent_asin", "asin"),
    "timestamp": ("timestamp",),
}
AMAZON_2023_ITEMS: ColumnNames = {
    "item_id": ("parent_asin",),
    "brand": ("store",),
    "categories": ("categories", "main_category"),
    **AMAZON_TEXTS,
}


def lcrec_format(folder: Path, mapping: ColumnMapping) -> LogFormat | None:
    """Recognise LC-Rec JSON: histories in order, without a clock."""
    log = _single_file(folder, "*.inter.json")
    if log is None:
        return None
    return LogFormat("LC-Rec JSON", log.name, lcrec=log)


def recbole_format(folder: Path, mapping: ColumnMapping) -> LogFormat | None:
    """Recognise RecBole's atomic files: tabs, a header of name:type, no quoting."""
    log = _single_file(folder, "*.inter")
    if log is None:
        return None
    tables = [SourceTable("events", "delimited", RECBOLE_EVENTS, (log,), delimiter="\t", quote="")]
    catalogue = log.with_suffix(".item")
    if catalogue.is_file():
        tables.append(
            SourceTable(
                "items",
                "delimited",
                _recbole_item_columns(),
                (catalogue,),
                delimiter="\t",
                quote="",
                attributes=ALL_COLUMNS,
            )
        )
    return LogFormat("RecBole atomic files", log.name, tuple(tables))


def _recbole_item_columns() -> ColumnNames:
    columns: ColumnNames = {"item_id": ("item_id:token",)}
    for field_name, names in RECBOLE_TEXTS.items():
        typed = [f"{name}:{kind}" for name in names for kind in RECBOLE_TEXT_TYPES]
        columns[field_name] = tuple(typed)
    return columns


def _single_file(folder: Path, pattern: str) -> Path | None:
    """Return the file of a pattern, or None. Raises UserError where there are several."""
    files = sorted(folder.glob(pattern))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{folder}: several logs ({names}); keep one a folder")
    return files[0] if files else None


def movielens_format(folder: Path, mapping: ColumnMapping) -> LogFormat | None:
    """Recognise MovieLens: 1M and 10M (`::`), 20M and later (CSV), 100K (tabs and bars)."""
    csv_log = folder / "ratings.csv"
    if (folder / "ratings.dat").is_file():
        ratings, movies = _movielens_1m(folder)
    elif csv_log.is_file() and "movieId" in first_line(csv_log):
        ratings = SourceTable("events", "delimited", MOVIELENS_EVENTS, (csv_log,))
        movies = SourceTable("items", "delimited", MOVIELENS_ITEMS, (folder / "movies.csv",))
    elif (folder / "u.data").is_file():
        ratings, movies = _movielens_100k(folder)
    else:
        return None
    tables = [ratings]
    if movies.files[0].is_file():
        tables.append(movies)
    return LogFormat("MovieLens", ratings.files[0].name, tuple(tables))


def _movielens_1m(folder: Path) -> tuple[SourceTable, SourceTable]:
    """Return ratings and movies as published: no quoting, and titles in Latin-1."""
    ratings = SourceTable(
        "events",
        "delimited",
        MOVIELENS_EVENTS,
        (folder / "ratings.dat",),
        delimiter="::",
        quote="",
        header=RATING_HEADER,
    )
    movies = SourceTable(
        "items",
        "delimited",
        MOVIELENS_ITEMS,
        (folder / "movies.dat",),
        delimiter="::",
        quote="",
        encoding="latin-1",
        header=MOVIE_HEADER,
    )
    return ratings, movies


def _movielens_100k(folder: Path) -> tuple[SourceTable, SourceTable]:
    """Return ratings and movies as published, titles in Latin-1."""
    ratings = SourceTable(
        "events",
        "delimited",
        MOVIELENS_EVENTS,
        (folder / "u.data",),
        delimiter="\t",
        quote="",
        header=RATING_HEADER,
    )
    movies = SourceTable(
        "items",
        "delimited",
        MOVIELENS_ITEMS,
        (folder / "u.item",),
        delimiter="|",
        quote="",
        encoding="latin-1",
        header=MOVIE_HEADER_100K,
    )
    return ratings, movies


def amazon_format(folder: Path, mapping: ColumnMapping) -> LogFormat | None:
    """Recognise Amazon Reviews: 2018 (`reviewerID`, seconds), 2023 (`parent_asin`, milliseconds)."""
    reviews: list[Path] = []
    metas: list[Path] = []
    for file in sorted(folder.iterdir()):
        if file.name.removesuffix(".gz").endswith(JSON_SUFFIXES):
            files = metas if file.name.startswith("meta_") else reviews
            files.append(file)
    keys = {file: json_keys(file) for file in reviews}
    older = [file for file in reviews if {"reviewerID", "asin"} <= keys[file]]
    newer = [file for file in reviews if {"user_id", "parent_asin"} <= keys[file]]
    if older and newer:
        raise UserError(
            f"{folder}: Amazon reviews of 2018 ({older[0].name}) and of 2023 ({newer[0].name}); "
            "keep one"
        )
    if older:
        events = SourceTable("events", "jsonl", AMAZON_2018_EVENTS, tuple(older), time_unit="s")
        items = AMAZON_2018_ITEMS
        name = "Amazon Reviews 2018"
    elif newer:
        events = SourceTable("events", "jsonl", AMAZON_2023_EVENTS, tuple(newer), time_unit="ms")
        items = AMAZON_2023_ITEMS
        name = "Amazon Reviews 2023"
    else:
        return None
    tables = [events]
    if metas:
        tables.append(SourceTable("items", "jsonl", items, tuple(metas), attributes=("price",)))
    return LogFormat(name, events.files[0].name, tuple(tables))
