"""The suite of a bundle: the pipeline's own passes, each fault fails its own gate and names its rows."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from eager_llm.bundle.gates import run_bundle_gates
from eager_llm.bundle.trie_check import lost_items
from eager_llm.bundle.verify import verify_bundle
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, write_json
from eager_llm.core.project import project_home
from eager_llm.decoding.trie import Trie
from eager_llm.evaluation.methods import MODEL_WITH_PRIOR
from eager_llm.features.feature_store import Features
from eager_llm.index.item_index import ItemIndex
from eager_llm.settings import AcceptanceSettings, Settings
from eager_llm.steps.pack_bundle import pack
from eager_llm.validation.report import GateError


@pytest.fixture
def bundle(run, tmp_path):
    shutil.copytree(run.folder / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


def failed(bundle, settings=AcceptanceSettings(), quarantine=None):
    return {
        result.name: result
        for result in run_bundle_gates(bundle, settings, quarantine)
        if not result.passed
    }


def test_the_bundle_of_a_run_passes_and_says_when_from_what_and_for_which_service(run, bundle):
    assert failed(bundle, AcceptanceSettings(baseline=str(run.folder / "bundle"))) == {}
    manifest = verify_bundle(bundle)
    age = datetime.now(UTC) - datetime.fromisoformat(manifest["packed_at"])
    assert timedelta(0) <= age < timedelta(hours=1)
    events = pd.read_csv(run.source / "events.csv", parse_dates=["timestamp"])["timestamp"]
    first, last = (pd.Timestamp(manifest["data"][name]) for name in ("first_event", "last_event"))
    assert events.min() <= first < last
    assert last - events.max() < pd.Timedelta(seconds=1)
    services = Features(project_home() / "feature_repo", run.folder / "features").services()
    assert manifest["feature_service"] in [service["name"] for service in services]


def test_a_changed_file_is_named(bundle, tmp_path):
    (bundle / "generation.json").write_text("{}")
    found = failed(bundle, quarantine=tmp_path / "rows")
    assert set(found) == {"bundle-files"}
    assert found["bundle-files"].rows == [
        {"fault": "generation.json has changed since it was packed"}
    ]
    assert len(pd.read_parquet(tmp_path / "rows" / "bundle-files.parquet")) == 1


def test_a_fallback_and_a_catalogue_that_do_not_cover_the_index_are_named(bundle):
    fallback = pd.read_parquet(bundle / "fallback.parquet")["item_id"].tolist()
    pd.DataFrame({"item_id": [*fallback[1:], fallback[2], "ghost"]}).to_parquet(
        bundle / "fallback.parquet"
    )
    catalogue = pd.read_parquet(bundle / "catalogue.parquet")
    catalogue.iloc[1:].to_parquet(bundle / "catalogue.parquet")
    found = failed(bundle)
    assert set(found) == {"bundle-files", "bundle-fallback", "bundle-catalogue"}
    said = {(row["item_id"], row["stands"]) for row in found["bundle-fallback"].rows}
    assert said == {(fallback[0], "items only"), ("ghost", "fallback only"), (fallback[2], "twice")}
    assert found["bundle-catalogue"].rows == [
        {"item_id": catalogue["item_id"].iat[0], "stands": "items only"}
    ]


def test_metrics_that_are_no_numbers_or_below_the_accepted_ones_are_named(run, bundle):
    metrics = read_json(bundle / "metrics.json")
    metrics["test"][MODEL_WITH_PRIOR]["recall@10"] *= 0.8
    metrics["test"]["popularity"]["ndcg@5"] = float("nan")
    write_json(bundle / "metrics.json", metrics)
    accepted = str(run.folder / "bundle")
    found = failed(bundle, AcceptanceSettings(baseline=accepted))
    assert {"metrics-finite", "metrics-kept"} <= set(found)
    assert [row["metric"] for row in found["metrics-kept"].rows] == ["recall@10"]
    assert found["metrics-finite"].rows[0]["method"] == "popularity"
    assert "metrics-kept" not in failed(
        bundle, AcceptanceSettings(baseline=accepted, max_metric_drop=0.25)
    )
    del metrics["test"][MODEL_WITH_PRIOR]
    write_json(bundle / "metrics.json", metrics)
    assert {"metrics-given", "metrics-kept"} <= set(
        failed(bundle, AcceptanceSettings(baseline=accepted))
    )


def test_a_trie_of_another_index_loses_items(bundle):
    index = ItemIndex.load(bundle / "item_index.parquet")
    other = ItemIndex(index.item_ids, index.codes[::-1], index.sources, index.branching)
    other.save(bundle / "item_index.parquet")
    found = failed(bundle)["bundle-decodable"]
    assert found.broken == len(index.item_ids) - len(index.item_ids) % 2
    assert found.rows[0] == {"item_id": index.item_ids[0], "found": f"item {index.item_ids[-1]}"}


@pytest.mark.parametrize("seed", range(5))
def test_walking_the_trie_equals_looking_paths_up(seed):
    """Random paths, some of them changed after the trie was built: the obvious dictionary says who is lost."""
    rng = np.random.default_rng(seed)
    levels = int(rng.integers(2, 6))
    paths = np.unique(rng.integers(0, 5, (120, levels)), axis=0)
    rng.shuffle(paths)
    # Two more levels, on which nothing branches: the trie keeps them as tails.
    paths, levels = np.hstack([paths, rng.integers(0, 5, (len(paths), 2))]), levels + 2
    tokens = paths * 2 + 100 + 50 * np.arange(levels)
    ids = [f"i{n}" for n in range(len(tokens))]
    trie = Trie.build(tokens)
    assert len(lost_items(ids, tokens, trie)) == 0
    changed = tokens.copy()
    for row in rng.choice(len(tokens), 20, replace=False):
        changed[row, rng.integers(levels)] += rng.integers(-6, 7)
    home = {tuple(path): item for path, item in zip(tokens.tolist(), ids, strict=True)}
    expected = {i: home.get(tuple(path)) for i, path in zip(ids, changed.tolist(), strict=True)}
    found = lost_items(ids, changed, trie)
    assert set(found["item_id"]) == {item for item, there in expected.items() if there != item}
    for item, end in found.itertuples(index=False):
        assert end == f"item {expected[item]}" if expected[item] else end.startswith("no item")


def test_a_bundle_that_fails_is_not_packed_unless_a_person_says_so(run, bundle, tmp_path):
    outputs = {
        name: next((run.folder / "artifacts").rglob(name))
        for name in ("examples", "item_index", "model", "table")
    }
    tables = next(path for path in (run.folder / "artifacts").rglob("validated") if path.is_dir())
    metrics = read_json(outputs["table"])
    metrics["test"][MODEL_WITH_PRIOR] = dict.fromkeys(metrics["test"][MODEL_WITH_PRIOR], 0.0)
    write_json(tmp_path / "metrics.json", metrics)

    def packed(**acceptance):
        acceptance["baseline"] = str(bundle)
        settings = Settings.from_dict(
            {**verify_bundle(bundle)["settings"], "acceptance": acceptance}
        )
        inputs = (
            tables,
            outputs["examples"],
            outputs["item_index"],
            outputs["model"],
            tmp_path / "metrics.json",
        )
        pack(*inputs, settings, tmp_path / "packed", tmp_path / "gates.html")

    with pytest.raises(GateError, match="--waive metrics-kept"):
        packed()
    assert not (tmp_path / "packed").exists()
    packed(waived=["metrics-kept"])
    assert verify_bundle(tmp_path / "packed")["waived_gates"] == ["metrics-kept"]
    assert json.loads((tmp_path / "packed" / "manifest.json").read_text())["data"]["source"]


def test_a_baseline_that_is_no_bundle_is_refused(bundle, tmp_path):
    with pytest.raises(UserError, match=r"acceptance\.baseline: .* holds no metrics\.json"):
        run_bundle_gates(bundle, AcceptanceSettings(baseline=str(tmp_path / "nothing")))
