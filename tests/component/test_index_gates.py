"""The suite of an item index: a good one passes, each fault fails its own gate and names its rows."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eager_llm.core.errors import UserError
from eager_llm.index.build import build_index
from eager_llm.index.gates import run_index_gates
from eager_llm.settings import GateSettings, Settings
from eager_llm.validation.report import GateError, require_passed

ITEMS = [f"item-{n:02}" for n in range(50)]


@pytest.fixture
def place(tmp_path):
    """A folder with an index of two sources and three levels each, its catalogue and its embeddings."""
    rng = np.random.default_rng(0)
    vectors = {
        name: rng.normal(size=(len(ITEMS), 4)).astype(np.float32)
        for name in ("semantic", "behaviour")
    }
    settings = Settings.from_dict({"index": {"branching": 4, "workers": 0}}).index
    build_index(ITEMS, vectors, settings, 0).save(tmp_path / "index.parquet")
    pd.DataFrame({"item_id": ITEMS}).to_parquet(tmp_path / "items.parquet")
    for name, matrix in vectors.items():
        np.save(tmp_path / f"{name}.npy", matrix)
    return tmp_path


def results(place, settings=GateSettings(), even=True):
    files = {name: place / f"{name}.npy" for name in ("semantic", "behaviour")}
    found = run_index_gates(
        place / "index.parquet",
        place / "items.parquet",
        files,
        even,
        settings,
        quarantine=place / "rows",
    )
    return {result.name: result for result in found}


def failures(found):
    return {name for name, result in found.items() if not result.passed}


def rewrite(place, change):
    """Change the rows of the items in the index file, as another tool might have written them."""
    table = pq.read_table(place / "index.parquet")
    frame = table.select(["item_id", "codes"]).to_pandas()
    frame = change(frame[frame["item_id"].notna()].reset_index(drop=True))
    fresh = pa.table({"item_id": frame["item_id"], "codes": frame["codes"].map(list)})
    pq.write_table(fresh.replace_schema_metadata(table.schema.metadata), place / "index.parquet")


def with_codes(row, codes):
    def change(frame):
        frame.at[row, "codes"] = codes
        return frame

    return change


def test_a_good_index_passes(place):
    assert failures(results(place)) == set()


def test_an_item_without_a_path_and_a_path_without_an_item_are_named(place):
    rewrite(
        place, lambda frame: frame.assign(item_id=frame["item_id"].replace({"item-07": "ghost"}))
    )
    found = results(place)
    assert failures(found) == {"index-complete", "index-known"}
    assert found["index-complete"].rows == [{"item_id": "item-07"}]
    assert pd.read_parquet(place / "rows" / "index-known.parquet")["item_id"].tolist() == ["ghost"]


def test_two_paths_of_an_item_are_named(place):
    rewrite(
        place, lambda frame: frame.assign(item_id=frame["item_id"].replace({"item-07": "item-08"}))
    )
    assert results(place)["index-once"].rows == [{"item_id": "item-08", "paths": "2"}]


@pytest.mark.parametrize("codes", [[0, 0, 0, 0, 0], [0, 0, 4, 0, 0, 0], [0, -1, 0, 0, 0, 0]])
def test_a_path_of_other_levels_or_labels_is_named(place, codes):
    rewrite(place, with_codes(3, codes))
    found = results(place)
    assert "index-levels" in failures(found)
    assert found["index-levels"].rows[0]["item_id"] == "item-03"


def test_a_collision_in_one_source_is_named(place):
    codes = pq.read_table(place / "index.parquet", columns=["codes"])["codes"].to_pylist()
    rewrite(place, with_codes(3, [*codes[3][:3], *codes[4][3:]]))
    found = results(place, even=False)
    assert failures(found) == {"index-unique", "index-capacity"}
    row = found["index-unique"].rows[0]
    assert (row["source"], row["items"], row["first"], row["last"]) == (
        "behaviour",
        "2",
        "item-03",
        "item-04",
    )


def test_a_node_beyond_its_even_share_is_named_where_shares_are_even(place):
    # The fullest first node of the semantic tree takes one item more, on a path that is free.
    codes = [
        tuple(c)
        for c in pq.read_table(place / "index.parquet", columns=["codes"])["codes"].to_pylist()
        if c
    ]
    firsts = [c[0] for c in codes]
    fullest = max(set(firsts), key=firsts.count)
    moved = next(row for row, first in enumerate(firsts) if first != fullest)
    taken = {c[:3] for c in codes}
    free = next(p for p in ((fullest, a, b) for a in range(4) for b in range(4)) if p not in taken)
    rewrite(place, with_codes(moved, [*free, *codes[moved][3:]]))
    found = results(place)
    assert failures(found) == {"index-capacity"}
    assert any(
        row["source"] == "semantic" and row["items"] == "14" for row in found["index-capacity"].rows
    )
    assert failures(results(place, even=False)) == set()


def test_vectors_that_are_missing_not_finite_or_zero_are_named(place):
    matrix = np.load(place / "semantic.npy")
    matrix[5, 1], matrix[6] = np.nan, 0
    np.save(place / "semantic.npy", matrix)
    np.save(place / "behaviour.npy", np.load(place / "behaviour.npy")[:-1])
    found = results(place)
    assert failures(found) == {"embeddings-finite", "embeddings-complete"}
    kept = pd.read_parquet(place / "rows" / "embeddings-finite.parquet")
    assert kept[["item_id", "fault"]].values.tolist() == [
        ["item-05", "not finite"],
        ["item-06", "zero"],
    ]
    assert found["embeddings-complete"].rows == [{"source": "behaviour", "vectors": "49"}]


def test_a_person_may_go_on_without_a_gate_of_the_index(place):
    rewrite(place, lambda frame: frame[frame["item_id"] != "item-07"])
    with pytest.raises(
        GateError, match=r"index gates did not pass:\n.*\[index-complete\]: item_id=item-07"
    ):
        require_passed(list(results(place).values()), place / "report.html", "Index gates")
    waived = results(place, GateSettings(waived=["index-complete", "known-items", "metrics-kept"]))
    require_passed(list(waived.values()), place / "report.html", "Index gates")
    assert "FAILED, gone on without" in (place / "report.html").read_text()


def test_a_file_that_is_no_index_is_refused(place):
    pd.DataFrame({"item_id": ITEMS}).to_parquet(place / "index.parquet")
    with pytest.raises(UserError, match="item index version None"):
        results(place)
