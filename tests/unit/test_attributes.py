import pandas as pd
import pytest

from eager_llm.core.duckdb_engine import engine
from eager_llm.data.demo_shop import demo_shop
from eager_llm.data.importing.importer import import_path, stage
from eager_llm.data.prepare import clean, prepare, save
from eager_llm.data.staging import stage_folder
from eager_llm.settings import DataSettings

EVENTS = "user_id,item_id,timestamp\n" + "\n".join(
    f"u{n},{item},{n}" for n in range(3) for item in "ab"
)
CORE = DataSettings(min_interactions=2)


def written(source, target, earlier=None):
    target.mkdir()
    with engine() as connection:
        metadata = stage(connection, str(source), CORE)
        if earlier:
            stage_folder(connection, earlier)
        save(connection, target, {**metadata, **clean(connection, CORE)})
    return pd.read_parquet(target / "items.parquet").set_index("item_id")


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "events.csv").write_text(EVENTS)
    (folder / "items.csv").write_text(
        'item_id,title,price,"a ""b"", it\'s",Brand\na,Saw,1.5,x,Bosch\nb,Axe,,y,\n'
    )
    return folder


def test_prepared_tables_keep_what_can_be_filtered_by():
    shop = demo_shop()
    found = prepare(shop, 3).items.set_index("item_id")
    asked = shop.items.set_index("item_id").loc[found.index]
    assert found["price"].tolist() == asked["price"].tolist()
    assert found["stock"].tolist() == asked["stock"].tolist()
    assert found["stock"].dtype.kind == "i"


def test_written_tables_keep_them_typed(shop, tmp_path):
    items = written(shop, tmp_path / "tables")
    assert items.loc["a", "price"] == 1.5
    assert pd.isna(items.loc["b", "price"])
    assert items["a 'b', it's"].tolist() == ["x", "y"]
    assert items["brand"].tolist() == ["", ""], (
        "a column of another spelling fills no field, and hides none"
    )


def test_a_log_that_grows_takes_the_newer_price_and_keeps_texts_it_is_not_told_again(
    shop, tmp_path
):
    first = written(shop, tmp_path / "first")
    (shop / "items.csv").write_text("item_id,title,price\na,Saw,2.5\nb,Axe,3\n")
    assert written(shop, tmp_path / "second", tmp_path / "first")["price"].tolist() == [2.5, 3.0]
    (shop / "items.csv").unlink()
    third = written(shop, tmp_path / "third", tmp_path / "first")
    assert third["title"].tolist() == first["title"].tolist() == ["Saw", "Axe"]
    assert third["price"].iat[0] == 1.5


def test_json_lines_keep_plain_values_and_lists_of_them(tmp_path):
    (tmp_path / "events.csv").write_text(EVENTS)
    rows = [
        '{"item_id": "a", "tags": ["x", "y"], "deep": {"no": 1}}',
        '{"item_id": "b", "sizes": [1, 2], "Tags": "z"}',
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(rows))
    items = import_path(tmp_path).items.set_index("item_id")
    assert items["Tags"].tolist() == ["x,y", "z"], "two spellings are one column"
    assert items["sizes"].tolist() == ["", "1,2"]
    assert "deep" not in items
