"""Logs and embeddings in object stores: read by their URI, and named where the store is away."""

import json
import subprocess
import sys

import fsspec
import pytest
from conftest import ROOT, write_csv

from eager_llm.core.errors import UserError
from eager_llm.core.stores import fetch_folder, in_store, store_digest
from eager_llm.data.demo_shop import demo_shop
from eager_llm.index.shards import Shards
from eager_llm.settings import Settings
from eager_llm.steps.ingest_data import ingest
from pipelines.fingerprint import fingerprint

ENDPOINT = "http://127.0.0.1:9"  # discard: nobody listens there


@pytest.fixture
def away(monkeypatch):
    pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": ENDPOINT, "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_MAX_ATTEMPTS": "1", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def test_a_log_is_read_by_its_uri_as_from_its_folder(tmp_path):
    folder = write_csv(demo_shop(seed=0, users=200), tmp_path / "shop")
    here = ingest(str(folder), Settings(), tmp_path / "here")
    there = ingest(folder.as_uri(), Settings(), tmp_path / "there")
    assert there == {**here, "source": folder.as_uri()}
    for name in ("events.parquet", "items.parquet"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"shop", "here", "there"}, "the copy of the log is still there"


def test_the_import_yaml_of_a_store_is_read_from_there(tmp_path):
    shop = demo_shop(seed=0, users=200)
    folder = write_csv(shop, tmp_path / "shop")
    named = shop.events.rename(columns={"user_id": "customer"})
    named.to_csv(folder / "events.csv", index=False)
    (folder / "import.yaml").write_text("columns: {events: {user_id: customer}}\n")
    command = [
        sys.executable,
        "-m",
        "eager_llm.cli.main",
        "import",
        folder.as_uri(),
        "--out",
        str(tmp_path / "tables"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert folder.as_uri() in done.stdout


@pytest.mark.parametrize(
    ("place", "stored"),
    [
        ("s3://shop/log", True),
        ("file:///log", True),
        ("postgresql://shop/log", False),
        ("my-shop", False),
        ("demo", False),
    ],
)
def test_stores_are_told_from_databases_and_folders(place, stored):
    assert in_store(place) == stored


def test_a_log_in_a_store_that_is_away_is_named_and_leaves_nothing(away, tmp_path):
    with pytest.raises(UserError, match=rf"^s3://shop/log: the log cannot be read: .*{ENDPOINT}"):
        ingest("s3://shop/log", Settings(), tmp_path / "tables")
    assert not list(tmp_path.iterdir())


def test_embeddings_in_a_store_that_is_away_are_named(away):
    with pytest.raises(
        UserError, match=rf"^s3://shop/\*\.npy: the semantic embedding cannot be read: .*{ENDPOINT}"
    ):
        Shards.open("s3://shop/*.npy", "semantic")


def test_nothing_there_is_named(tmp_path):
    with pytest.raises(
        UserError, match="memory://nowhere: the bundle cannot be read: nothing is there"
    ):
        fetch_folder("memory://nowhere", tmp_path / "bundle", "the bundle")


def test_a_store_cannot_write_outside_of_the_folder(tmp_path, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe("/climbing/a", b"a")
    monkeypatch.setattr(type(memory), "find", lambda self, path, **_: [f"{path}/../../out"])
    with pytest.raises(UserError, match="outside of its folder"):
        fetch_folder("memory://climbing", tmp_path / "in" / "bundle", "the bundle")
    assert not (tmp_path / "out").exists()


def test_a_changed_log_in_a_store_runs_again():
    memory = fsspec.filesystem("memory")
    memory.pipe("/changing/events.csv", b"a")
    first, mark = store_digest("memory://changing"), fingerprint("memory://changing", Settings())
    assert store_digest("memory://changing") == first
    memory.pipe("/changing/events.csv", b"longer")
    assert store_digest("memory://changing") != first
    assert fingerprint("memory://changing", Settings()) != mark


def test_the_images_that_read_stores_hold_what_speaks_to_s3():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    for name in ("data", "training", "serving"):
        assert any(wanted.startswith("s3fs") for wanted in extras[name]), json.dumps(extras[name])
