"""Each format on a small log, written here from the format's published description."""

import gzip
import json

import pandas as pd
import pytest

from eager_llm.core.errors import UserError
from eager_llm.data.importing.column_mapping import ColumnMapping
from eager_llm.data.importing.importer import import_path
from eager_llm.data.tables import Tables
from eager_llm.settings import Settings
from eager_llm.steps.ingest_data import ingest

NOON = pd.Timestamp("2018-01-02 12:00:00", tz="UTC")
SECONDS = int(NOON.timestamp())


def lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


def test_amazon_2018(tmp_path):
    review = {"overall": 5.0, "verified": True, "reviewTime": "01 2, 2018", "reviewerID": "A1", "asin": "B0",
              "reviewText": "fine", "unixReviewTime": SECONDS}  # fmt: skip
    lines(tmp_path / "Tools_5.json.gz", [review])
    meta = {
        "asin": "B0",
        "title": "Saw &amp; <b>Blade</b>",
        "brand": "X",
        "category": ["Tools", "Saws"],
        "description": ["a", "b"],
    }
    lines(tmp_path / "meta_Tools.json.gz", [meta])
    tables = import_path(tmp_path)
    assert tables.metadata["form"] == "Amazon Reviews 2018"
    assert tables.events.iloc[0].tolist() == ["A1", "B0", NOON]
    assert tables.items.iloc[0].tolist() == ["B0", "Saw & Blade", "a,b", "X", "Tools,Saws"]


def test_amazon_2023_joins_variants_by_their_parent(tmp_path):
    review = {
        "rating": 5.0,
        "title": "Nice",
        "asin": "B1",
        "parent_asin": "B0",
        "user_id": "A1",
        "timestamp": SECONDS * 1000,
    }
    lines(
        tmp_path / "Tools.jsonl.gz",
        [review, {**review, "asin": "B2", "timestamp": SECONDS * 1000 + 5}],
    )
    meta = {
        "parent_asin": "B0",
        "title": "Saw",
        "store": "X",
        "categories": ["Tools"],
        "description": [],
        "main_category": "T",
    }
    lines(tmp_path / "meta_Tools.jsonl.gz", [meta])
    tables = import_path(tmp_path)
    assert tables.metadata["form"] == "Amazon Reviews 2023"
    assert tables.events["item_id"].tolist() == ["B0", "B0"]
    assert tables.events["timestamp"].tolist() == [NOON, NOON + pd.Timedelta(milliseconds=5)]
    assert tables.items.iloc[0].tolist() == ["B0", "Saw", "", "X", "Tools"]


def test_recbole_atomic_files(tmp_path):
    (tmp_path / "ml.inter").write_text(
        f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t4\t{SECONDS}.0\n"
    )
    (tmp_path / "ml.item").write_text(
        'item_id:token\tmovie_title:token_seq\tclass:token_seq\n7\tThe "Saw\tDrama Crime\n'
    )
    tables = import_path(tmp_path)
    assert tables.metadata["form"] == "RecBole atomic files"
    assert tables.events.iloc[0].tolist() == ["1", "7", NOON]
    assert tables.items.iloc[0].tolist() == ["7", 'The "Saw', "", "", "Drama Crime"]


@pytest.mark.parametrize("release", ["1m", "20m", "100k"])
def test_movielens(tmp_path, release):
    if release == "1m":
        (tmp_path / "ratings.dat").write_text(f"1::7::5::{SECONDS}\n")
        (tmp_path / "movies.dat").write_bytes(
            "7::Amélie (2001)::Comedy|Romance\n".encode("latin-1")
        )
    elif release == "20m":
        (tmp_path / "ratings.csv").write_text(
            f"userId,movieId,rating,timestamp\n1,7,3.5,{SECONDS}\n"
        )
        (tmp_path / "movies.csv").write_text(
            'movieId,title,genres\n7,"Amélie (2001)",Comedy|Romance\n', encoding="utf-8"
        )
    else:
        (tmp_path / "u.data").write_text(f"1\t7\t5\t{SECONDS}\n")
        row = "|".join(["7", "Amélie (2001)", "01-Jan-2001", "", "http://x", *["0"] * 19])
        (tmp_path / "u.item").write_bytes((row + "\n").encode("latin-1"))
    tables = import_path(tmp_path)
    assert tables.metadata["form"] == "MovieLens"
    assert tables.events.iloc[0].tolist() == ["1", "7", NOON]
    assert tables.items["title"].tolist() == ["Amélie (2001)"]


def test_an_event_topic_with_payloads_as_objects_and_as_text(tmp_path):
    payload = {"user": {"id": "u"}, "sku": "a", "at": "2018-01-02T12:00:00Z", "kind": "view"}
    record = {
        "topic": "clicks",
        "partition": 0,
        "offset": 1,
        "ts": SECONDS * 1000,
        "payload": payload,
    }
    again = {**record, "payload": json.dumps({**payload, "sku": "b"})}
    undated = {**record, "payload": {"user": {"id": "u"}, "sku": "c", "kind": "buy"}}
    # A topic delivers at least once: the first record comes twice.
    lines(tmp_path / "events.jsonl", [record, record, again, undated])
    (tmp_path / "import.yaml").write_text(
        "columns:\n  events: {user_id: user.id, item_id: sku, timestamp: at, event_type: kind}\n"
    )
    metadata = ingest(
        str(tmp_path), Settings.read(None, ["data.min_interactions=1"]), tmp_path / "out"
    )
    tables = Tables.load(tmp_path / "out")
    assert metadata["form"] == "event topic"
    assert metadata["duplicate_events_dropped"] == 1
    assert sorted(tables.events["item_id"]) == ["a", "b", "c"]
    assert sorted(tables.events["event_type"]) == ["buy", "view", "view"]


def test_a_sql_query(tmp_path):
    import sqlite3

    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE log (customer INTEGER, sku TEXT, at TEXT)")
        database.execute("INSERT INTO log VALUES (5, '007', '2018-01-02 12:00:00')")
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    query = {"events": "SELECT customer, sku, at FROM log"}
    mapping = ColumnMapping(
        queries=query,
        columns={"events": {"user_id": "customer", "item_id": "sku", "timestamp": "at"}},
    )
    ingest(url, Settings.read(None, ["data.min_interactions=1"]), tmp_path / "out", mapping)
    assert Tables.load(tmp_path / "out").events.iloc[0].tolist() == ["5", "007", NOON]
    wrong = ColumnMapping(queries={"events": "SELECT missing FROM log"})
    with pytest.raises(UserError, match="no such column: missing"):
        ingest(url, Settings(), tmp_path / "other", wrong)
    assert not (tmp_path / "other").exists()


def test_other_names_by_a_mapping_and_by_parts(tmp_path):
    (tmp_path / "clicks-1.tsv").write_text("who\twhat\twhen\nu\ta\t02.01.2018 12:00\n")
    (tmp_path / "clicks-2.tsv").write_text("who\twhat\twhen\nu\tb\t02.01.2018 13:00\n")
    mapping = ColumnMapping(files={"events": "clicks-*.tsv"}, time_format="%d.%m.%Y %H:%M")
    mapping = mapping.with_columns(
        ["events.user_id=who", "events.item_id=what", "events.timestamp=when"]
    )
    tables = import_path(tmp_path, mapping)
    assert tables.events["item_id"].tolist() == ["a", "b"]
    assert tables.events["timestamp"].iat[0] == NOON


def test_a_mapping_with_mistakes_names_them_all(tmp_path):
    (tmp_path / "import.yaml").write_text(
        "form: excel\ncolumns: {events: {buyer: x}}\ncolour: red\n"
    )
    with pytest.raises(UserError) as error:
        import_path(tmp_path)
    message = str(error.value)
    assert all(
        word in message
        for word in (
            "import.yaml",
            "form = 'excel'",
            "columns.events.buyer",
            "colour: no such entry",
        )
    )


@pytest.mark.parametrize(
    "text",
    [
        "2018-01-02T12:00:00Z", "2018-01-02 12:00:00", "2018-01-02T14:00:00+02:00", "2018-01-02T07:00-0500",
        "20180102T120000Z", "Tue, 02 Jan 2018 12:00:00 GMT", "2018/01/02 12:00:00", str(SECONDS), f"{SECONDS}.0",
        str(SECONDS * 1000), str(SECONDS * 10**6), str(SECONDS * 10**9),
    ],
)  # fmt: skip
def test_times_in_every_usual_form(tmp_path, text):
    (tmp_path / "events.csv").write_text(f'user_id,item_id,timestamp\nu,a,"{text}"\n')
    assert import_path(tmp_path).events["timestamp"].iat[0] == NOON


def test_a_parquet_file_of_typed_columns(tmp_path):
    frame = pd.DataFrame(
        {
            "user_id": [1.0, 2.0],
            "item_id": [7, 8],
            "timestamp": [NOON, NOON + pd.Timedelta(microseconds=1)],
        }
    )
    frame.to_parquet(tmp_path / "events.parquet")
    items = pd.DataFrame({"item_id": [7, 8], "title": ["a", "b"], "categories": [["x", "y"], []]})
    items.to_parquet(tmp_path / "items.parquet")
    tables = import_path(tmp_path)
    assert tables.events["user_id"].tolist() == ["1", "2"]
    assert tables.events["timestamp"].tolist() == frame["timestamp"].tolist()
    assert tables.items["categories"].tolist() == ["x,y", ""]
