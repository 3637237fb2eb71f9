"""Folders of tables: what is written under today's names is read under earlier ones, too."""

import pytest

from eager_llm.core.errors import UserError
from eager_llm.data.tables import (
    METADATA,
    Tables,
    metadata_file,
    read_metadata,
    require_tables,
    write_metadata,
)


def test_tables_of_an_earlier_version_are_read_and_written_under_the_new_name(shop, tmp_path):
    Tables(shop.events, shop.items, None, {"source": "a shop"}).save(tmp_path / "tables")
    metadata_file(tmp_path / "tables").rename(tmp_path / "tables" / "facts.json")
    assert Tables.load(tmp_path / "tables").metadata == {"source": "a shop"}
    write_metadata(tmp_path / "tables", {"source": "another"})
    assert read_metadata(tmp_path / "tables") == {"source": "another"}
    assert sorted(path.name for path in (tmp_path / "tables").glob("*.json")) == [METADATA]


def test_a_folder_without_metadata_is_refused(shop, tmp_path):
    shop.save(tmp_path / "tables")
    metadata_file(tmp_path / "tables").unlink()
    with pytest.raises(UserError, match=r"holds no metadata\.json; make it with: eager-llm import"):
        require_tables(tmp_path / "tables")
