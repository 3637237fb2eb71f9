import json

import pandas as pd
import pytest

from eager_llm.core.duckdb_engine import engine
from eager_llm.core.errors import UserError
from eager_llm.data.importing.importer import import_path
from eager_llm.data.prepare import prepare

ITEM = {"title": "Saw", "description": "cuts", "brand": "B", "categories": "Tools,Saws"}


@pytest.fixture
def lcrec(tmp_path):
    (tmp_path / "Shop.inter.json").write_text(json.dumps({"u": [1, 2], "v": [2]}))
    (tmp_path / "Shop.item.json").write_text(json.dumps({"1": ITEM, "2": {**ITEM, "brand": None}}))
    return tmp_path


def refused(folder):
    with pytest.raises(UserError) as error:
        import_path(folder)
    return str(error.value)


def test_lcrec_keeps_the_order_and_says_that_there_is_no_clock(lcrec):
    tables = import_path(lcrec)
    assert tables.events["item_id"].tolist() == ["1", "2", "2"]
    assert (
        tables.events["timestamp"].is_monotonic_increasing
        or tables.events["user_id"].nunique() == 2
    )
    assert tables.metadata["ordinal_time"]
    assert tables.items["brand"].tolist() == ["B", ""]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables_come_in_three_forms(tmp_path, kind):
    events = pd.DataFrame(
        {"user_id": ["u"], "item_id": ["007"], "timestamp": ["2024-01-02T03:04:05Z"]}
    )
    writers = {
        "csv": lambda path: events.to_csv(path, index=False),
        "jsonl": lambda path: path.write_text(events.to_json(orient="records", lines=True)),
        "parquet": lambda path: events.to_parquet(path),
    }
    writers[kind](tmp_path / f"events.{kind}")
    tables = import_path(tmp_path)
    assert tables.events["item_id"].tolist() == ["007"]
    assert tables.events["timestamp"].iat[0] == pd.Timestamp("2024-01-02 03:04:05", tz="UTC")
    assert tables.items["item_id"].tolist() == ["007"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_other_columns_of_items_are_kept_in_their_type(tmp_path, kind):
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    items = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "price": [1.5, None],
            "new": [True, False],
            "sku": ["007", "1"],
            "colour": ["red", None],
        }
    )
    writers = {
        "csv": lambda path: items.to_csv(path, index=False),
        "jsonl": lambda path: path.write_text(items.to_json(orient="records", lines=True)),
        "parquet": lambda path: items.to_parquet(path),
    }
    writers[kind](tmp_path / f"items.{kind}")
    found = import_path(tmp_path).items
    assert found["price"].iat[0] == 1.5
    assert pd.isna(found["price"].iat[1])
    assert found["new"].tolist() == [True, False]
    assert found["sku"].tolist() == ["007", "1"]
    assert found["colour"].tolist() == ["red", ""]


def test_seconds_since_1970_are_times_too(tmp_path):
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nu,a,86400\n")
    assert import_path(tmp_path).events["timestamp"].iat[0] == pd.Timestamp("1970-01-02", tz="UTC")


def test_malformed_json_names_file_and_line(lcrec):
    (lcrec / "Shop.inter.json").write_text('{"u": [1],\n "v": [2')
    assert "Shop.inter.json: line 2" in refused(lcrec)


def test_a_duplicate_id_is_named(lcrec):
    (lcrec / "Shop.item.json").write_text('{"1": {"title": "a"}, "1": {"title": "b"}}')
    assert "the id '1' appears twice" in refused(lcrec)


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "events.csv").write_text("user_id,item\nu,a\n")
    message = refused(tmp_path)
    assert "events.csv: column item_id, timestamp is missing; found user_id, item" in message


@pytest.mark.parametrize("name", ["events.csv", "events.jsonl", "Shop.inter.json"])
def test_an_empty_file_is_named(tmp_path, name):
    (tmp_path / name).write_text("")
    assert f"{name}: the file is empty" in refused(tmp_path)


def test_a_title_that_is_not_utf8_names_its_line(lcrec):
    (lcrec / "Shop.item.json").write_bytes(b'{"1":\n {"title": "caf\xe9"}}')
    message = refused(lcrec)
    assert "Shop.item.json: line 2: byte 0xe9 is not UTF-8" in message
    assert "caf" in message


def test_a_csv_title_that_is_not_utf8_names_its_line(tmp_path):
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    (tmp_path / "items.csv").write_bytes(b"item_id,title\na,caf\xe9\n")
    assert "items.csv: line 2: byte 0xe9" in refused(tmp_path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("u,a,yesterday", "row 1: timestamp 'yesterday'"),
        (",a,1", "row 1: user_id is empty"),
        ("u,a,", "timestamp ''"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, said):
    (tmp_path / "events.csv").write_text(f"user_id,item_id,timestamp\n{row}\n")
    assert said in refused(tmp_path)


def test_a_broken_line_of_json_lines_is_named(tmp_path):
    (tmp_path / "events.jsonl").write_text(
        '{"user_id": "u", "item_id": "a", "timestamp": 1}\n[1]\n'
    )
    assert "events.jsonl: line 2: expected an object" in refused(tmp_path)


@pytest.mark.parametrize("text", ['{"u": 1}', "[]", "{}", '{"u": [{"a": 1}]}'])
def test_lcrec_of_another_shape_is_refused(lcrec, text):
    (lcrec / "Shop.inter.json").write_text(text)
    assert "Shop.inter.json" in refused(lcrec)


def test_a_folder_without_a_log_says_what_is_expected(tmp_path):
    assert "no log found" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "nowhere")


def test_a_user_with_one_event_is_dropped_and_counted(tmp_path):
    rows = [f"u{n},i{m},{m}" for n in range(3) for m in range(3)] + ["lonely,i0,1"]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    tables = prepare(import_path(tmp_path), 3)
    assert "lonely" not in set(tables.events["user_id"])
    assert tables.metadata["users_outside_core_dropped"] == 1


def fill(memory_gb, scratch):
    """Make a table that needs more, with no disk to spill to."""
    with engine(memory_gb, scratch) as connection:
        connection.execute("SET temp_directory = ''")
        connection.execute(
            "CREATE TEMP TABLE t AS SELECT range AS n, md5(range::VARCHAR) AS m FROM range(5_000_000)"
        )


def test_too_little_memory_is_said_as_such(tmp_path):
    with pytest.raises(
        UserError, match=r"0.05 GB of memory are not enough for this log: raise data.memory_gb"
    ):
        fill(0.05, tmp_path)
