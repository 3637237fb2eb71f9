"""Each step's page says what its code says."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import pages

from pipelines.graphs.placement import STEPS


@pytest.mark.parametrize("name", pages.steps())
def test_the_committed_page_is_what_the_code_says(name):
    assert (ROOT / "components" / name / "README.md").read_text(encoding="utf-8") == pages.page(
        name
    ), "run: make pages"


def test_every_step_has_its_row_and_every_row_its_step():
    assert set(pages.steps()) == set(STEPS)


def test_a_page_names_all_that_goes_in_and_out_with_its_meaning():
    text = pages.page("tune_model")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [
        "tables", "examples", "item_index", "embeddings", "settings", "checkpoints", "model", "metrics",
    ]  # fmt: skip
    assert not any(row.rstrip("| ").endswith("none") for row in rows)
    row = STEPS["tune_model"]
    assert f"{row.memory} asked for, {row.memory_limit} at most" in text
    assert f"{row.retries} times" in text
