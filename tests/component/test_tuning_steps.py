"""The steps `tune` and `evaluate` on files, with every part and with none."""

import json

import pytest
from tuning_inputs import write_inputs

from eager_llm.backbone.tuned_model import load_tuned
from eager_llm.core.errors import UserError
from eager_llm.evaluation.language import MEASURES, STRENGTHS
from eager_llm.index.item_index import ItemIndex
from eager_llm.prompts.templates import DEFAULT_FILE, read_templates
from eager_llm.settings import Settings
from eager_llm.steps.evaluate_model import evaluate
from eager_llm.steps.tune_model import tune

FEW = {"tuning": {"epochs": 1, "language_items": 10, "validation_users": 20}}
NOTHING = {
    "index": {"sources": ["behaviour"]}, "annealing": {"epochs": 0},
    "tuning": {**FEW["tuning"], "contrast_weight": 0.0, "text_tasks": False, "language_items": 0},
}  # fmt: skip


def with_changes(settings, changes):
    values = settings.to_dict()
    return Settings.from_dict({name: {**section, **changes.get(name, {})} if isinstance(section, dict) else section
                               for name, section in values.items()})  # fmt: skip


def run_steps(shop, examples, settings, folder):
    paths = write_inputs(shop, examples, settings, folder)
    tune(**paths, settings=settings, checkpoints=folder / "checkpoints", out=folder / "model")
    few = folder / "few"
    examples.groupby("split").head(20).to_parquet(few)
    places = {"tables": paths["tables"], "examples": few, "item_index": paths["item_index"]}
    metrics, report = folder / "metrics.json", folder / "report.html"
    evaluate(**places, model=folder / "model", settings=settings, metrics=metrics, report=report)
    return json.loads(metrics.read_text()), report.read_text()


def test_language_is_measured_before_and_after_each_stage_and_along_the_adapter_scale(
    shop, examples, settings, tmp_path
):
    metrics, page = run_steps(shop, examples, with_changes(settings, FEW), tmp_path)
    moments = [
        "before stage 1",
        "after stage 1",
        "after stage 2, adapter off",
        "after stage 2, adapter on",
    ]
    assert list(metrics["language"]) == moments
    assert all(set(row) == set(MEASURES) for row in metrics["language"].values())
    assert metrics["language"][moments[1]] == pytest.approx(
        metrics["language"][moments[2]], rel=1e-5
    )
    assert [row["strength"] for row in metrics["adapter"]] == list(STRENGTHS)
    assert all(moment in page for moment in moments)
    assert read_templates(tmp_path / "model" / "templates.json") == read_templates(DEFAULT_FILE)


def test_with_every_part_switched_off_a_plain_model_is_left(shop, examples, settings, tmp_path):
    metrics, page = run_steps(shop, examples, with_changes(settings, NOTHING), tmp_path)
    assert not (tmp_path / "model" / "adapter").exists()
    assert metrics["adapter"] == []
    assert "Language" not in page
    assert list(json.loads((tmp_path / "model" / "curves.json").read_text())) == ["stage-1"]
    index = ItemIndex.load(tmp_path / "item_index")
    assert set(index.sources) == {"behaviour"}
    model, _ = load_tuned(tmp_path / "model", index)
    assert not hasattr(model, "merge_and_unload")


def test_ones_own_templates_are_used_and_kept_with_the_model(shop, examples, settings, tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text(DEFAULT_FILE.read_text().replace("What a shopper chose", "Bought so far"))
    paths = write_inputs(shop, examples, settings, tmp_path)
    changes = {"tuning": {**FEW["tuning"], "template_file": str(mine)}, "annealing": {"epochs": 0}}
    places = {"checkpoints": tmp_path / "checkpoints", "out": tmp_path / "model"}
    tune(**paths, settings=with_changes(settings, changes), **places)
    kept = read_templates(tmp_path / "model" / "templates.json")
    assert kept == read_templates(mine)
    assert kept["seqrec"][0].prompt.startswith("Bought so far")
    mine.write_text(mine.read_text().replace("$title", "$titel", 1))
    with pytest.raises(UserError, match=r"mine\.json, line 14: .*\$titel"):
        tune(**paths, settings=with_changes(settings, changes), **places)
