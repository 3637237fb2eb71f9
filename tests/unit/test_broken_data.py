"""One broken sample a fault: a clear error or a row in the report, never a crash or half a table."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from eager_llm.core.errors import UserError
from eager_llm.data.importing.column_mapping import ColumnMapping
from eager_llm.data.tables import Tables
from eager_llm.settings import Settings
from eager_llm.steps.ingest_data import ingest

GOOD = [f"u{n % 5},i{n % 3},{n}" for n in range(30)]
TOLERANT = ["data.min_interactions=1", "data.bad_rows=0.5"]


def bring(folder, *overrides):
    return ingest(
        str(folder), Settings.read(None, ["data.min_interactions=1", *overrides]), folder / "out"
    )


def write(folder, rows, header="user_id,item_id,timestamp"):
    folder.mkdir(exist_ok=True)
    data = [row if isinstance(row, bytes) else row.encode() for row in [header, *GOOD, *rows]]
    (folder / "events.csv").write_bytes(b"\n".join(data) + b"\n")
    return folder


CSV_FAULTS = {
    "negative time": ("u,a,-5", "row 31: timestamp '-5' is before 1970"),
    "far future": ("u,a,99999999999", "row 31: timestamp '99999999999' is later than tomorrow"),
    "infinite time": ("u,a,infinity", "row 31: timestamp 'infinity'"),
    "mixed encodings": (b"u,caf\xe9,5", "line 32: byte 0xe9 is not UTF-8"),
    "quote that never closes": ('"u,a,5', "line 32: a quote is not closed"),
    "quote inside": ('u,"a"b,5', "line 32: a quote is not closed, or stands inside a value"),
    "too few": ("u,a", "line 32: fewer columns than the header"),
    "too many": ("u,a,5,6", "line 32: more columns than the header"),
    "no user": (",a,5", "row 31: user_id is empty"),
}


@pytest.mark.parametrize("fault", CSV_FAULTS)
def test_a_broken_row_refuses_the_import_or_goes_into_the_report(tmp_path, fault):
    row, said = CSV_FAULTS[fault]
    write(tmp_path, [row])
    with pytest.raises(UserError) as error:
        bring(tmp_path)
    assert said in str(error.value)
    assert "events.csv" in str(error.value)
    assert not (tmp_path / "out").exists()
    metadata = bring(tmp_path, "data.bad_rows=0.5")
    assert metadata["rows_refused"] == 1
    assert metadata["events"] == 30
    report = pd.read_parquet(tmp_path / "out" / "dropped" / "rows.parquet")
    number, reason = said.split(" ", 1)[1].split(": ", 1)
    assert report["row"].tolist() == [int(number)]
    assert report["file"].iat[0].endswith("events.csv")
    assert reason in report["reason"].iat[0]


def test_rows_after_a_refused_line_keep_their_numbers(tmp_path):
    write(tmp_path, ["u,a", "u,a,5", "u,a,yesterday", "u,a,5,6,7", "u,b,-1"])
    bring(tmp_path, "data.bad_rows=0.5")
    report = pd.read_parquet(tmp_path / "out" / "dropped" / "rows.parquet").sort_values("row")
    assert [(row, reason.split(" ")[0]) for row, reason in zip(report["row"], report["reason"], strict=True)] == [
        (32, "fewer"), (33, "timestamp"), (35, "more"), (35, "timestamp"),
    ]  # fmt: skip
    # Lines are counted with the header, rows without it: row 33 stands in line 34.


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_truncated_gzip_is_named(tmp_path, kind):
    rng = np.random.default_rng(0)
    rows = [("user" + str(rng.integers(10**9)), n) for n in range(5000)]
    text = {
        "csv": "user_id,item_id,timestamp\n" + "".join(f"{user},{n},{n}\n" for user, n in rows),
        "jsonl": "".join(
            json.dumps({"user_id": u, "item_id": n, "timestamp": n}) + "\n" for u, n in rows
        ),
    }[kind]
    whole = gzip.compress(text.encode())
    (tmp_path / f"events.{kind}.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"events\.{kind}\.gz: the compressed data is cut off"):
        bring(tmp_path, "data.bad_rows=1")
    assert not (tmp_path / "out").exists()
    (tmp_path / f"events.{kind}.gz").write_bytes(whole)
    assert bring(tmp_path)["events"] == 5000


JSON_FAULTS = {
    "not UTF-8": (
        b'{"user_id": "caf\xe9", "item_id": 1, "timestamp": 1}',
        "byte 0xe9 is not UTF-8",
    ),
    "cut off": (b'{"user_id": "u"', "not valid JSON"),
    "an array": (b"[1, 2]", "expected an object"),
    "an object for an id": (
        b'{"user_id": {"a": 1}, "item_id": 1, "timestamp": 1}',
        "user_id is no plain value",
    ),
    "nesting": (
        b'{"user_id": ' + b"[" * 100_000 + b"]" * 100_000 + b', "item_id": 1, "timestamp": 1}',
        "user_id is no plain value",
    ),
    "nesting without end": (b'{"user_id": ' + b'{"a":' * 100_000, "not valid JSON"),
    "no time": (b'{"user_id": "u", "item_id": 1}', "timestamp ''"),
}


@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_a_broken_line_of_json(tmp_path, fault):
    line, said = JSON_FAULTS[fault]
    good = b'{"user_id": "u", "item_id": 1, "timestamp": 1}\n'
    (tmp_path / "events.jsonl").write_bytes(good + b"\n" + line + b"\n" + good)
    with pytest.raises(UserError) as error:
        bring(tmp_path)
    assert "events.jsonl: line 3: " in str(error.value)
    assert said in str(error.value)
    assert bring(tmp_path, "data.bad_rows=0.5")["rows_refused"] == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_title_of_ten_megabytes_is_cut_and_reported(tmp_path, kind):
    write(tmp_path, [])
    title = "x" * 10_000_000
    if kind == "csv":
        (tmp_path / "items.csv").write_text(f"item_id,title\ni0,{title}\ni1,b\ni2,c\n")
    else:
        rows = [{"item_id": f"i{n}", "title": t} for n, t in enumerate([title, "b", "c"])]
        (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert bring(tmp_path)["texts_cut"] == 1
    items = Tables.load(tmp_path / "out").items.set_index("item_id")
    assert items["title"].str.len().tolist() == [65_536, 1, 1]
    report = pd.read_parquet(tmp_path / "out" / "dropped" / "rows.parquet")
    assert report["reason"].tolist() == ["title of item i0 cut from 10000000 to 65536 characters"]
    assert report["kept"].all()


def test_parquet_that_is_none(tmp_path):
    (tmp_path / "events.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"events\.parquet: not readable as Parquet"):
        bring(tmp_path)


def test_a_failed_import_leaves_the_earlier_tables(tmp_path):
    write(tmp_path, [])
    bring(tmp_path)
    before = (tmp_path / "out" / "events.parquet").read_bytes()
    write(tmp_path, ["u,a,never"])
    with pytest.raises(UserError):
        bring(tmp_path)
    assert (tmp_path / "out" / "events.parquet").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_tables_never_take_the_place_of_the_log_or_of_other_files(tmp_path):
    write(tmp_path / "log", [])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    settings = Settings.read(None, ["data.min_interactions=1"])
    for out, said in (
        ("log", "the log lies there"),
        (".", "the log lies there"),
        ("mine", "holds other files"),
    ):
        with pytest.raises(UserError, match=said):
            ingest(str(tmp_path / "log"), settings, tmp_path / out)
    assert (tmp_path / "log" / "events.csv").exists()
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    ingest(str(tmp_path / "log"), settings, tmp_path / "log" / "tables")
    ingest(str(tmp_path / "log"), settings, tmp_path / "log" / "tables")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("delimiter: abcde", "at most 4 bytes"), ("delimiter: ab", "column user_id, item_id, timestamp is missing"),
        ("encoding: klingon", "klingon"), ("time_format: '%Q'", "%Q"),
        ("!!python/object/apply:os.getcwd []", "not readable as YAML"),
    ],
)  # fmt: skip
def test_a_wrong_mapping_is_named(tmp_path, entry, said):
    write(tmp_path, [])
    (tmp_path / "import.yaml").write_text(entry + "\n")
    with pytest.raises(UserError, match=said):
        bring(tmp_path)


def test_a_database_file_that_is_missing_is_named_and_not_made(tmp_path):
    mapping = ColumnMapping(queries={"events": "SELECT 1"})
    with pytest.raises(UserError, match=r"none\.db: no such database"):
        ingest(f"sqlite:///{tmp_path / 'none.db'}", Settings(), tmp_path / "out", mapping)
    assert not (tmp_path / "none.db").exists()


def test_markup_rules_types_bots_and_sessions(tmp_path):
    rows = [
        "h,a,0,view",
        "h,a,100,buy",
        "h,b,10000,view",
        "h,c,10060,ad",
        *[f"bot,a,{n},view" for n in range(50)],
    ]
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,timestamp,event_type\n" + "\n".join(rows) + "\n"
    )
    (tmp_path / "items.csv").write_text(
        'item_id,title,brand\na,"<p>Saw &amp;amp; <script>x()</script>Co</p>",X\nb,SAW &amp; CO,x\nc,other,\n'
    )
    metadata = bring(
        tmp_path, "data.event_types=view=1,buy=5", "data.max_daily_events=20", "data.session_gap_minutes=30",
        "data.merge_items_by=title,brand",
    )  # fmt: skip
    tables = Tables.load(tmp_path / "out")
    assert metadata["events_of_bots_dropped"] == 50
    assert metadata["events_of_other_types_dropped"] == 1
    assert metadata["items_merged"] == 1
    assert tables.items["title"].tolist() == ["Saw & Co"]
    assert tables.events["item_id"].tolist() == ["a", "a", "a"]
    assert tables.events["weight"].tolist() == [1, 5, 1]
    assert tables.events["session"].tolist() == [1, 1, 2]
    quarantine = pd.read_parquet(tmp_path / "out" / "dropped" / "events.parquet")
    assert quarantine["reason"].value_counts().to_dict() == {
        "user with over 20 events on a day": 50,
        "event type not kept": 1,
    }


def test_item_aliases(tmp_path):
    write(tmp_path, [])
    (tmp_path / "same.csv").write_text("item_id,same_as\ni2,i1\n")
    (tmp_path / "import.yaml").write_text("item_aliases: same.csv\n")
    bring(tmp_path)
    assert set(Tables.load(tmp_path / "out").events["item_id"]) == {"i0", "i1"}
