"""Promotion: the same bundle passes, one made worse is refused for what is worse, and the page says so."""

import shutil
import time

import numpy as np
import pytest
from conftest import plain_examples
from safetensors.torch import load_file, save_file

from eager_llm.bundle.bundle import Bundle
from eager_llm.bundle.layout import MANIFEST
from eager_llm.bundle.verify import verify_bundle
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, sha256_file, write_json
from eager_llm.data.tables import Tables
from eager_llm.evaluation.metrics import gains, ranking_metrics, target_ranks
from eager_llm.release.checks import Check, check_of
from eager_llm.release.compare import NEW, RUNNING, Comparison, compare, ranking
from eager_llm.release.latency_check import compare_latency
from eager_llm.release.verdict import (
    FIRST,
    PROMOTED,
    REFUSED,
    PromotionPage,
    judge,
    render_promotion,
)
from eager_llm.settings import PromotionSettings, Settings

# Of timings nothing is to be learned on a machine that tests keep busy.
QUICK = PromotionSettings(resamples=300, latency_requests=4, latency_tolerance=100.0)
METRIC, KNOWN = "ndcg@10", "ndcg@10, items that both know"


@pytest.fixture(scope="module")
def loaded(run):
    tables = Tables.load(run.folder / "tables")
    settings = Settings.from_dict(read_json(run.folder / "bundle" / MANIFEST)["settings"])
    examples = plain_examples(tables, settings)
    return Bundle.load(run.folder / "bundle"), examples


def changed(run, folder, name, change):
    """A bundle like the run's, with the weights of one file changed; every checksum is right."""
    shutil.copytree(run.folder / "bundle", folder)
    weights = {key: change(value) for key, value in load_file(folder / name).items()}
    save_file(weights, folder / name, {"format": "pt"})
    manifest = read_json(folder / MANIFEST)
    manifest["files"][name]["sha256"] = sha256_file(folder / name)
    write_json(folder / MANIFEST, manifest)
    verify_bundle(folder)
    return Bundle.load(folder)


def by_name(comparison):
    return {check.name: check for check in comparison.checks}


def test_a_bundle_is_no_worse_than_itself(loaded):
    bundle, examples = loaded
    found = compare(bundle, bundle, examples, QUICK, 0)
    assert list(found.table) == [RUNNING, NEW, "co-occurrence", "popularity"]
    assert found.table[RUNNING] == found.table[NEW]
    for name, check in by_name(found).items():
        assert check.passed, name
        if not name.startswith("milliseconds"):
            assert check.running == pytest.approx(check.new)
            assert check.worst == pytest.approx(0.0, abs=1e-6)
    assert by_name(found)[METRIC].running == pytest.approx(found.table[RUNNING][METRIC])
    assert found.new_items["targets"] == 0
    verdict = judge(found, "a", "b")
    assert (verdict.outcome, verdict.reasons) == (PROMOTED, [])


def test_an_adapter_and_evidence_that_were_broken_are_refused_for_the_recommendations_alone(
    run, loaded, tmp_path
):
    bundle, examples = loaded
    worse = changed(
        run, tmp_path / "worse", "adapter/adapter_model.safetensors", lambda w: w * 50 + 1
    )
    worse.recommender.set_item_prior(None)
    found = compare(bundle, worse, examples, QUICK, 0)
    failed = {name for name, check in by_name(found).items() if not check.passed}
    assert failed == {METRIC, KNOWN}  # with the adapter off it reads and writes as before
    verdict = judge(found, "a", "b")
    assert verdict.outcome == REFUSED
    assert verdict.reasons[0].startswith("ndcg@10: ")
    assert "the tolerance is 5.0%" in verdict.reasons[0]


def test_a_backbone_that_lost_its_language_is_refused_for_that(run, loaded, tmp_path):
    bundle, examples = loaded
    noise = np.random.default_rng(0)
    worse = changed(
        run, tmp_path / "mute", "backbone/model.safetensors",
        lambda w: w + 2 * w.std() * w.new_tensor(noise.normal(size=w.shape)) if w.ndim > 1 else w,
    )  # fmt: skip
    found = by_name(compare(bundle, worse, examples, QUICK.replace(tolerance=1.0), 0))
    assert not found["perplexity of held-out texts, log by character"].passed
    assert found[METRIC].passed  # all may be lost


def test_each_bundle_answers_as_its_service_would(loaded):
    bundle, examples = loaded
    history = list(examples["history"].iloc[-1])
    plain, foreign, unknown = ranking(bundle, [history, ["ghost", *history], ["ghost"]])
    assert plain == foreign
    assert unknown == bundle.fallback[:10]


def test_an_item_that_is_not_answered_is_a_miss():
    places = target_ranks([["a", "b"], ["b"], []], ["b", "a", "a"])
    assert places.tolist() == [2, np.inf, np.inf]
    assert gains(np.array([1.0, 3.0, 11.0, np.inf]), METRIC).tolist() == [1.0, 0.5, 0.0, 0.0]
    assert gains(np.array([1.0, 3.0, 11.0, np.inf]), "recall@5").tolist() == [1.0, 1.0, 0.0, 0.0]
    assert ranking_metrics([["a", "b"], ["b"]], ["b", "a"])["recall@5"] == 0.5


@pytest.mark.parametrize(
    ("worst", "tolerance", "passed"),
    [(-0.04, 0.05, True), (-0.06, 0.05, False), (0.01, 0.0, True), (-np.inf, 1.0, False)],
)
def test_what_cannot_be_told_from_a_loss_beyond_the_tolerance_does_not_pass(
    worst, tolerance, passed
):
    check = Check("ndcg@10", 0.5, 0.49, worst, tolerance, "40 users")
    assert check.passed is passed
    assert judge(Comparison([check], {}), "a", "b").outcome == (PROMOTED if passed else REFUSED)


def test_too_few_users_to_tell_is_refused_too():
    rng = np.random.default_rng(0)
    # Two ways of equal quality that differ on every user: twelve of them say nothing.
    hits = rng.permutation(np.repeat([0.0, 1.0], 6))
    found = check_of(
        METRIC,
        1 - hits,
        hits,
        sizes=np.ones(12),
        units=np.arange(12),
        unit_name="users",
        tolerance=0.05,
        settings=QUICK,
        seed=0,
    )
    assert found.running == found.new == 0.5
    assert not found.passed


def test_the_first_bundle_has_nothing_to_be_compared_with():
    assert judge(None, "", "b").outcome == FIRST


def test_without_a_test_part_there_is_no_comparison(loaded):
    bundle, examples = loaded
    with pytest.raises(UserError, match="no test split"):
        compare(bundle, bundle, examples[examples["split"] == "train"], QUICK, 0)


def test_the_page_names_the_reasons_the_drift_and_the_commands(loaded):
    check = Check("<ndcg>", 0.5, 0.4, -0.3, 0.05, "40 users")
    verdict = judge(Comparison([check], {}), "running-1", "new-2")
    plan = {"action": "build", "reasons": ["shift of the pauses: 0.4"], "new_items": [],
            "drift": {"shift of the pauses": {"found": 0.4, "most": 0.25}}}  # fmt: skip
    page = render_promotion(
        PromotionPage(
            verdict, {"source": "a shop"}, plan, [check], {}, {}, 0.95, ["helm upgrade shop"]
        )
    )
    for text in (
        "new-2: refused",
        "running-1",
        "&lt;ndcg&gt;: 0.4 after 0.5",
        "shift of the pauses: 0.4",
        "0.400",
        "helm upgrade shop",
    ):
        assert text in page
    assert "<ndcg>" not in page


@pytest.mark.parametrize(("slower", "passed"), [(1, True), (3, False)])
def test_only_a_loss_of_time_that_is_certain_is_refused(monkeypatch, slower, passed):
    pauses = iter([0.004, 0.004 * slower])

    def asker(_):
        pause = next(pauses)
        return lambda _: time.sleep(pause)

    monkeypatch.setattr("eager_llm.release.latency_check._client", asker)
    settings = PromotionSettings(latency_requests=10, resamples=200)
    check = compare_latency(None, None, [["a"]] * 10, settings, seed=0)
    assert check.passed == passed
