"""Fixtures: a small made-up shop, an untrained model over it, and one real run of the pipeline."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

from eager_llm.backbone.loading import load_backbone  # noqa: E402
from eager_llm.data.demo_shop import demo_shop  # noqa: E402
from eager_llm.data.prepare import prepare  # noqa: E402
from eager_llm.data.splits import assign_splits, targets  # noqa: E402
from eager_llm.data.tables import Tables  # noqa: E402
from eager_llm.decoding.recommender import Recommender  # noqa: E402
from eager_llm.index.build import build_index  # noqa: E402
from eager_llm.index.item_index import ItemIndex  # noqa: E402
from eager_llm.prompts.builder import PromptBuilder  # noqa: E402
from eager_llm.settings import Settings  # noqa: E402

SMALL = [
    "index.branching=32", "index.workers=0", "index.iterations=5",
    "backbone.hidden=32", "backbone.layers=2", "backbone.heads=2", "backbone.vocabulary=400",
    "behaviour.epochs=1", "behaviour.dim=16", "semantic.dim=16",
    "tuning.epochs=2", "tuning.validate_every=1", "tuning.validation_users=50",
    "tuning.text_tokens=12",
]  # fmt: skip


# The folder of a test says of what kind it is; `pytest -m unit` runs the quick ones.
KINDS = {"unit": "unit", "benchmarks": "unit", "serving": "service", "e2e": "e2e"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder."""
    tests = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(tests).parts[0]
        kind = KINDS.get(folder, "component")
        item.add_marker(getattr(pytest.mark, kind))


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.read(None, SMALL)


@pytest.fixture(scope="session")
def shop() -> Tables:
    return prepare(demo_shop(seed=0, users=200), 3)


def plain_examples(tables: Tables, settings: Settings) -> pd.DataFrame:
    """The examples as the feature store returns them, by an obvious loop over the log."""
    max_history = settings.data.max_history
    examples = targets(assign_splits(tables, settings.data), max_history)
    events_of_user = dict(iter(tables.events.groupby("user_id")))
    histories = []
    for user, timestamp in zip(examples["user_id"], examples["moment"], strict=True):
        events = events_of_user[user]
        past = events[events["timestamp"] < timestamp]
        histories.append(past["item_id"].tolist()[-max_history:])
    return examples.assign(history=histories)


@pytest.fixture(scope="session")
def examples(shop: Tables, settings: Settings) -> pd.DataFrame:
    return plain_examples(shop, settings)


@dataclass
class Small:
    model: Any
    prompt_builder: PromptBuilder
    index: ItemIndex
    embeddings: dict[str, np.ndarray]
    recommender: Recommender


def make_small(tables: Tables, settings: Settings) -> Small:
    rng = np.random.default_rng(settings.seed)
    item_ids = tables.items["item_id"].tolist()
    embeddings = {
        name: rng.normal(size=(len(item_ids), 8)).astype(np.float32)
        for name in settings.index.sources
    }
    index = build_index(item_ids, embeddings, settings.index, settings.seed)
    texts = [*tables.items["title"], *tables.items["description"]]
    model, tokenizer = load_backbone(settings.backbone, index, texts, settings.seed)
    prompt_builder = PromptBuilder(tokenizer, index, tables.items, settings.tuning.text_tokens)
    recommender = Recommender(
        model.eval(), prompt_builder, index, settings.decoding, settings.data.max_history
    )
    return Small(model, prompt_builder, index, embeddings, recommender)


@pytest.fixture
def small(shop: Tables, settings: Settings) -> Small:
    return make_small(shop, settings)


def write_csv(tables: Tables, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tables.events.to_csv(folder / "events.csv", index=False)
    tables.items.to_csv(folder / "items.csv", index=False)
    if tables.intentions is not None:
        tables.intentions.to_csv(folder / "intentions.csv", index=False)
    return folder


def run_command(source: Path, name: str, runs: Path, *overrides: str) -> list[str]:
    """The command line of a small real run; a process of its own, as people start it."""
    command = [
        sys.executable, "-m", "eager_llm.cli.main", "run",
        "--data", str(source), "--name", name, "--runs", str(runs),
    ]  # fmt: skip
    for override in [*SMALL, "index.workers=2", "threads=1", *overrides]:
        command += ["--set", override]
    return command


@dataclass
class Run:
    folder: Path
    source: Path
    output: str


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of the whole pipeline through every engine."""
    # kfp takes these letters of a path for a command, unless its runner is mended.
    base = tmp_path_factory.mktemp("run-of-python3")
    source = write_csv(demo_shop(seed=0, users=200), base / "shop")
    command = run_command(source, "first", base)
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return Run(base / "first", source, done.stdout)


@pytest.fixture(scope="session")
def service(run: Run) -> Any:
    """The running service over that run, on loopback; its second bundle is its first."""
    from running import serving

    with serving(run, "--second", str(run.folder / "bundle")) as client:
        yield client


def user_of(run: Run) -> str:
    """A user that the online store knows."""
    histories = pd.read_parquet(run.folder / "features" / "user_history.parquet")
    return str(histories["user_id"].iat[0])
