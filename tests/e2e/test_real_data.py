"""Real logs, where they are: the folder that EAGER_LLM_DATA names, by default ../shared/data."""

import os
from pathlib import Path

import pytest
from conftest import ROOT, plain_examples

from eager_llm.data.importing.importer import import_path
from eager_llm.data.prepare import prepare
from eager_llm.evaluation.evaluate import evaluate_baselines
from eager_llm.settings import Settings

DATA = Path(os.environ.get("EAGER_LLM_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="module")
def scientific():
    if not (DATA / "scientific").is_dir():
        pytest.skip(
            f"no real data: {DATA / 'scientific'} is missing; name its parent by EAGER_LLM_DATA"
        )
    return prepare(import_path(DATA / "scientific"), 5)


def test_scientific_is_read_whole(scientific):
    assert scientific.metadata["users"] == 8317
    assert scientific.metadata["items"] == 4344
    assert scientific.metadata["events"] == 58492


def test_the_baselines_reach_what_is_known_of_them(scientific):
    """Published protocol: popularity about 0.026 (ties at random), co-occurrence 0.10 to 0.11."""
    examples = plain_examples(scientific, Settings())
    table = evaluate_baselines(examples, scientific.items["item_id"].tolist(), "test", seed=0)
    assert 0.10 <= table["co-occurrence"]["recall@10"] <= 0.11
    assert 0.02 <= table["popularity"]["recall@10"] <= 0.03


@pytest.mark.parametrize("name", ["beauty", "instruments"])
def test_logs_with_little_or_no_text_are_read(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no real data: {DATA / name} is missing; name its parent by EAGER_LLM_DATA")
    tables = import_path(DATA / name)
    assert (tables.items["title"] == "").all()
    assert tables.items["categories"].ne("").any() == (name == "beauty")
