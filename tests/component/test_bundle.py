import json
import os
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eager_llm.backbone.tuned_model import held_out_items
from eager_llm.bundle.bundle import Bundle
from eager_llm.bundle.gates import run_bundle_gates
from eager_llm.bundle.layout import (
    LANGUAGE,
    MANIFEST,
    METRICS,
    REFRESH_PLAN,
    bundle_file,
    read_language,
)
from eager_llm.bundle.store import fetch_bundle, store_bundle, version_name
from eager_llm.bundle.verify import bundle_faults, verify_bundle
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, sha256_file, write_json
from eager_llm.data.tables import read_catalogue
from eager_llm.evaluation.methods import MODEL, MODEL_WITH_PRIOR, PRIOR_ALONE
from eager_llm.index.item_index import ItemIndex
from eager_llm.settings import AcceptanceSettings

EARLIER_FILES = {"item_prior.safetensors": "neighbours.safetensors", "templates.json": "tasks.json"}
EARLIER_METHODS = {
    MODEL_WITH_PRIOR: "EAGER-LLM",
    MODEL: "EAGER-LLM, model alone",
    PRIOR_ALONE: "neighbours alone",
}


@pytest.fixture
def bundle(run, tmp_path):
    shutil.copytree(run.folder / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


def refused(folder):
    with pytest.raises(UserError) as error:
        Bundle.load(folder)
    return str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "backbone/model.safetensors",
        "trie.safetensors",
        "item_index.parquet",
        "adapter/adapter_config.json",
    ],
)
def test_one_changed_byte_is_refused(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    assert f"{name} has changed since it was packed" in refused(bundle)


def test_an_index_that_the_model_was_not_tuned_on_is_refused(bundle):
    """Also where every checksum is right."""
    index = ItemIndex.load(bundle / "item_index.parquet")
    other = ItemIndex(
        index.item_ids[::-1], index.codes, index.sources, index.branching, index.centroids
    )
    other.save(bundle / "item_index.parquet")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["item_index.parquet"]["sha256"] = sha256_file(bundle / "item_index.parquet")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert "the model was tuned on another item index" in refused(bundle)


def test_a_missing_and_an_added_file_are_refused(bundle):
    (bundle / "fallback.parquet").unlink()
    (bundle / "extra.pkl").write_bytes(b"x")
    message = refused(bundle)
    assert "fallback.parquet is missing" in message
    assert "extra.pkl is not in the manifest" in message


def test_a_linked_or_unlisted_folder_is_refused(bundle, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(bundle / "adapter", elsewhere)
    (bundle / "adapter").symlink_to(elsewhere, target_is_directory=True)
    message = refused(bundle)
    assert "adapter is a link to a folder" in message
    assert "adapter/adapter_config.json is missing" in message
    (bundle / "adapter").unlink()
    shutil.move(elsewhere, bundle / "adapter")
    (bundle / "another" / "folder").mkdir(parents=True)
    os.mkfifo(bundle / "pipe")
    (bundle / "dangling").symlink_to("nowhere")
    (bundle / "lost+found").mkdir()
    faults = bundle_faults(bundle)
    assert faults == [
        "another is a folder that is not in the manifest",
        "another/folder is a folder that is not in the manifest",
        "dangling is neither a file nor a folder",
        "pipe is neither a file nor a folder",
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, 'no "files"'),
        ([], 'no "files"'),
        ({"trie.safetensors": "abc"}, "'trie.safetensors' has no \"sha256\""),
        ({"trie.safetensors": {"bytes": 3}}, "'trie.safetensors' has no \"sha256\""),
    ],
)
def test_a_manifest_that_does_not_list_its_files_is_refused(bundle, files, said):
    manifest = read_json(bundle / MANIFEST)
    manifest.pop("files")
    if files is not None:
        manifest["files"] = files
    write_json(bundle / MANIFEST, manifest)
    assert said.replace("'", '"') in refused(bundle).replace("'", '"')


def test_whole_numbers_stay_whole_beside_empty_cells(bundle, tmp_path):
    written = pd.DataFrame({"item_id": ["a", "b"], "code": pd.array([2**53 + 1, None], "Int64")})
    table = pa.table({"item_id": ["a", "b"], "code": pa.array([2**53 + 1, None], pa.int64())})
    pq.write_table(table, tmp_path / "items.parquet")
    found = read_catalogue(tmp_path / "items.parquet")
    pd.testing.assert_frame_equal(found, written, check_dtype=False)
    assert found["code"][0] == 2**53 + 1


def test_another_schema_version_is_refused(bundle):
    manifest = bundle / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace('"schema_version": 4', '"schema_version": 9', 1)
    )
    assert "schema version 9; this release reads 4 and 3" in refused(bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    assert "no manifest.json there" in refused(tmp_path)


def test_a_bundle_moves_and_still_answers(bundle):
    loaded = Bundle.load(bundle)
    history = loaded.recommender.index.item_ids[:3]
    answer = loaded.recommender.recommend([history], 5)[0]
    assert len(answer) == 5
    assert all(loaded.title(item) for item, _ in answer)
    assert len(loaded.fallback) == len(set(loaded.fallback))


def test_a_bundle_holds_no_pickle(bundle):
    files = verify_bundle(bundle)["files"]
    assert {name.rsplit(".", 1)[-1] for name in files} <= {
        "json",
        "safetensors",
        "parquet",
        "md",
        "jinja",
    }


def test_a_bundle_is_fetched_by_uri_whole_or_not_at_all(bundle, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(bundle), "/shop/bundle", recursive=True)
    for _ in range(2):  # a second time replaces the first
        there = fetch_bundle("memory://shop/bundle", tmp_path / "fetched")
        assert verify_bundle(there) == verify_bundle(bundle)
    assert fetch_bundle(str(bundle), tmp_path / "other") == bundle
    for place in ("memory://nowhere", "nosuchscheme://bundle"):
        with pytest.raises(UserError, match="the bundle cannot be read"):
            fetch_bundle(place, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_bundle_is_stored_under_its_day_and_version_and_fetched_again(bundle, tmp_path):
    name = version_name(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert name == f"{manifest['packed_at'][:10]}-{Bundle.load(bundle).version}"
    for store in (str(tmp_path / "store"), "memory://bundles/shop"):
        assert store_bundle(bundle, store) == name
        verify_bundle(fetch_bundle(f"{store}/{name}", tmp_path / "fetched"))
    with pytest.raises(UserError, match="cannot be written"):
        store_bundle(bundle, "nosuchscheme://somewhere")
    (bundle / "generation.json").write_text("{}")
    with pytest.raises(UserError, match="has changed since it was packed"):
        store_bundle(bundle, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def as_version_3(folder):
    """Give a bundle's files, keys and rows the names that they have in version 3."""
    for name, earlier in EARLIER_FILES.items():
        (folder / name).rename(folder / earlier)
    record = read_json(folder / "tuned_on.json")
    record["unread"] = record.pop("held_out")
    write_json(folder / "tuned_on.json", record)
    metrics = read_json(folder / METRICS)
    for split in ("validation", "test"):
        rows = metrics[split]
        metrics[split] = {EARLIER_METHODS.get(name, name): row for name, row in rows.items()}
    write_json(folder / METRICS, metrics)
    for name in (METRICS, LANGUAGE):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("of held-out texts", "of unseen texts"))
    (folder / "night.json").write_text("{}")
    manifest = read_json(folder / MANIFEST)
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    manifest["files"] = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path)} for path in paths
    }
    manifest["schema_version"] = 3
    manifest["gates_gone_on_without"] = ["metrics-kept"]
    write_json(folder / MANIFEST, manifest)


def test_a_bundle_of_the_version_before_loads_and_answers_the_same(bundle, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(bundle, earlier)
    as_version_3(earlier)
    loaded, current = Bundle.load(earlier), Bundle.load(bundle)
    assert loaded.manifest["schema_version"] == 3
    assert loaded.manifest["waived_gates"] == ["metrics-kept"]
    histories = [current.recommender.index.item_ids[start : start + 3] for start in range(10)]
    assert loaded.recommender.recommend(histories, 5) == current.recommender.recommend(histories, 5)
    assert loaded.metrics == current.metrics
    assert read_language(earlier) == read_language(bundle)
    assert held_out_items(earlier) == held_out_items(bundle)
    assert bundle_file(earlier, REFRESH_PLAN) == earlier / "night.json"
    assert bundle_file(bundle, REFRESH_PLAN) == bundle / "refresh_plan.json"
    for results in (
        run_bundle_gates(earlier, AcceptanceSettings()),
        run_bundle_gates(bundle, AcceptanceSettings(baseline=str(earlier))),
    ):
        assert all(result.passed for result in results)


def test_a_bundle_of_the_version_before_is_refused_for_a_changed_byte_and_an_added_file(bundle):
    as_version_3(bundle)
    data = bytearray((bundle / "neighbours.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "neighbours.safetensors").write_bytes(data)
    (bundle / "templates.json").write_text("{}")
    message = refused(bundle)
    assert "neighbours.safetensors has changed since it was packed" in message
    assert "templates.json is not in the manifest" in message
