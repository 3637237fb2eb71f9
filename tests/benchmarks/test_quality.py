"""What the quality table stands on: the rivals count what they say, both conventions, no tie by item number."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from torch.nn import functional

sys.path.insert(0, str(ROOT / "benchmarks"))

from quality import OURS, RIVALS, metrics_of, settings_of
from quality_rivals import SASRec, cross_entropy_backward, ease, next_item_counts, sasrec
from quality_table import parts_of, rows_of

from eager_llm.settings import Settings

SETTINGS = ROOT / "benchmarks" / "quality_settings"


def case(histories, targets, items, seed=0):
    ids = [f"i{n}" for n in range(items)]
    return SimpleNamespace(
        ids=ids,
        settings=SimpleNamespace(seed=seed),
        asked=lambda part: (histories, [ids[t] for t in targets]),
    )


def test_next_item_counts_by_hand():
    scores = next_item_counts([[0, 1], [0, 1], [0, 2], [3, 0]], 4, 0, lambda s: 0.0)([[3, 0], [2]])
    assert np.allclose(scores[0], [0, 2, 1, 0], atol=1e-8), "only the last item counts"
    assert scores[1].argmax() == 0, "where nothing followed, popularity decides"


def test_ease_by_hand():
    # 0 and 1 are always together, 2 is by itself: for 0, the ridge leaves G01 / (G11 + ridge).
    scores = ease([[0, 1], [1, 0], [2]], 3, 0, lambda s: s([[0]])[0, 1])([[0], [2], []])
    assert scores[0] == pytest.approx([0, 2 / 12, 0], abs=1e-6), (
        "the ridge that the judge likes most is 10"
    )
    assert scores[1] == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_rival_keeps_its_row_where_only_our_settings_change():
    plan = {
        "settings": {"tuning.epochs": 3, "data.min_interactions": 5},
        "tiger-style": {"tuning.epochs": 2},
    }
    assert settings_of("sasrec", plan, []) == ["data.min_interactions=5"]
    assert settings_of("eager-llm", plan, ["seed=1"]) == [
        "tuning.epochs=3",
        "data.min_interactions=5",
        "seed=1",
    ]
    assert settings_of("tiger-style", plan, [])[-1] == "tuning.epochs=2"


@pytest.mark.parametrize("file", sorted(SETTINGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_committed_settings_are_settings_and_what_they_skip_is_a_method(file):
    plan = yaml.safe_load(file.read_text())
    assert set(plan.get("skip", [])) <= {*RIVALS, *OURS}
    for method in OURS:
        Settings.read(None, settings_of(method, plan, []))


def test_left_out_the_history_cannot_come():
    def scores(histories):
        return np.tile([3.0, 2.0, 1.0], (len(histories), 1))

    asked = case([[0]], [1], 3)
    assert metrics_of(scores, asked, "test", leave_out=False)["recall@1"] == 0
    assert metrics_of(scores, asked, "test", leave_out=True)["recall@1"] == 1


def test_equal_scores_are_decided_by_lot():
    asked = case([[]] * 400, [0] * 200 + [99] * 200, 100)
    found = metrics_of(
        lambda histories: np.zeros((len(histories), 100)), asked, "test", leave_out=False
    )
    assert found["recall@10"] == pytest.approx(0.1, abs=0.05)
    first = metrics_of(
        lambda histories: np.zeros((len(histories), 100)),
        case([[]] * 400, [0] * 400, 100),
        "test",
        False,
    )
    assert 0 < first["recall@10"] < 0.2, "the first item has no better lot than another"


def test_sasrec_learns_which_item_follows():
    rng = np.random.default_rng(0)
    train = [[(start + step) % 10 for step in range(6)] for start in rng.integers(10, size=200)]

    def judge(scores):
        return float(
            np.mean(scores([[n] for n in range(10)]).argmax(1) == (np.arange(10) + 1) % 10)
        )

    assert judge(sasrec(train, 10, 0, judge, epochs=15, dropouts=(0.1,))) >= 0.9


def test_sasrecs_gradients_by_hand_are_those_of_the_cross_entropy():
    torch.manual_seed(0)
    model = SASRec(50, 8, 1, 2, 20, dropout=0.0)
    ids, targets = torch.randint(50, (9, 5)), torch.randint(50, (45,))
    functional.cross_entropy(model.logits(model(ids).flatten(0, 1)), targets).backward()
    expected = {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad()
    cross_entropy_backward(model, model(ids).flatten(0, 1), targets, chunk=7)
    for name, gradient in expected.items():
        assert torch.allclose(model.get_parameter(name).grad, gradient, atol=1e-7), name


def test_rows_are_means_with_the_widest_range_and_published_ones_are_marked(tmp_path):
    def row(seed, value):
        table = dict.fromkeys(("recall@5", "recall@10", "ndcg@5", "ndcg@10"), value)
        return {"method": "eager-llm", "seed": seed, "kept": table, "left out": table, "seconds": 1, "machine": "m",
                "settings": []}  # fmt: skip

    (tmp_path / "shop.jsonl").write_text(
        "".join(json.dumps(row(s, v)) + "\n" for s, v in ((0, 0.1), (1, 0.2)))
    )
    rows = rows_of(tmp_path / "shop.jsonl", [{"method": "a paper", "ndcg@10": 0.3}])
    assert [(r["method"], r["source"], r["history"], r["spread"]) for r in rows] == [
        ("a paper", "published", "kept", None), ("eager-llm", "measured", "kept", 0.1),
        ("eager-llm", "measured", "left out", 0.1),
    ]  # fmt: skip
    assert rows[1]["recall@10"] == 0.15
    assert rows[1]["seeds"] == [0, 1]


def test_our_parts_stand_beside_one_another():
    def row(dataset, method, value):
        return {
            "dataset": dataset,
            "method": method,
            "history": "kept",
            "recall@10": value,
            "ndcg@10": value / 2,
        }

    every = [
        row("a", "EAGER-LLM + item prior", 0.1),
        row("a", "EAGER-LLM", 0.08),
        row("b", "EAGER-LLM + item prior, no contrast", 0.2),
    ]
    heads, lines = parts_of([*every, row("a", "sasrec", 0.3)])
    assert heads == (
        "method",
        "a, with the item prior",
        "a, model alone",
        "b, with the item prior",
        "b, model alone",
    )
    assert lines == [
        ["EAGER-LLM", "0.1000 / 0.0500", "0.0800 / 0.0400", None, None],
        ["EAGER-LLM, no contrast", None, None, "0.2000 / 0.1000", None],
    ]
