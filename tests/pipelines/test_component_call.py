"""What every component does around its step: arguments in, figures or one message out."""

import json
from pathlib import Path

import pytest

from eager_llm.core.errors import UserError
from eager_llm.settings import Settings
from eager_llm.steps.component_call import flat_figures, run_step


class FakeArtifact:
    def __init__(self, path):
        self.path = str(path)


class FakeMetrics(FakeArtifact):
    def __init__(self, path):
        super().__init__(path)
        self.shown = {}

    def log_metric(self, metric, value):
        self.shown[metric] = value


def test_a_step_takes_paths_settings_and_what_else_there_is(tmp_path):
    metrics = FakeMetrics(tmp_path / "metrics")

    def step(tables, settings, run, folder):
        assert tables == tmp_path / "tables"
        assert settings == Settings().replace(seed=3)
        assert (run, folder) == ("", Path("features"))
        return {"items": 7}

    values = Settings().replace(seed=3).to_dict()
    tables = FakeArtifact(tmp_path / "tables")
    assert run_step(step, tables, values, "", Path("features"), metrics=metrics) == {"items": 7}
    assert metrics.shown == {"items": 7}
    assert json.loads((tmp_path / "metrics").read_text()) == {"items": 7}


def test_figures_of_methods_get_one_name_each():
    figures = {"popularity": {"recall@10": 0.1, "ndcg@10": 0.05}, "loss": 2.0}
    assert flat_figures(figures) == {
        "popularity recall@10": 0.1,
        "popularity ndcg@10": 0.05,
        "loss": 2.0,
    }


def test_a_refused_input_and_wrong_settings_end_the_step_with_their_message():
    def step(*_):
        raise UserError("events.csv: line 3: no user")

    with pytest.raises(SystemExit, match=r"^error: events\.csv: line 3: no user$"):
        run_step(step)
    with pytest.raises(SystemExit, match=r"(?s)^error: .*tuning\.epochs = 0: must be at least 1"):
        run_step(step, {"tuning": {"epochs": 0}})
