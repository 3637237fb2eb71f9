import json
import shutil

import pytest

from eager_llm.bundle.bundle import Bundle
from eager_llm.bundle.store import fetch_bundle, store_bundle, version_name
from eager_llm.bundle.verify import verify_bundle
from eager_llm.core.errors import UserError
from eager_llm.core.files import sha256_file
from eager_llm.index.item_index import ItemIndex


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
