"""What the way an index is built does to the recommendations: one model a builder, the same log and settings.

    python benchmarks/index_ablation.py --data $EAGER_LLM_DATA/scientific --seeds 0 1   (30 minutes on 2 cores)
    python benchmarks/index_ablation.py --quick                                        (the made-up demo shop)

Rows: balanced k-means with labels shared by all parents (ours), the same tree with the labels of every parent
shuffled (what a label means then depends on its parent), residual k-means, product quantisation. Stage 1 only.
Measured on the validation part, item-level over the whole catalogue, history kept in the ranking.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from reporting import finish, machine, show

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager_llm.backbone.loading import load_backbone
from eager_llm.data.demo_shop import demo_shop
from eager_llm.data.importing.importer import import_path
from eager_llm.data.prepare import prepare
from eager_llm.data.splits import assign_splits, targets
from eager_llm.data.tables import Tables
from eager_llm.decoding.recommender import Recommender
from eager_llm.encoders.behaviour import behaviour_embedding
from eager_llm.encoders.semantic import semantic_embedding
from eager_llm.evaluation.evaluate import evaluate_baselines, evaluate_model, training_histories
from eager_llm.index.build import build_index
from eager_llm.index.item_index import ItemIndex
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.settings import Settings
from eager_llm.steps.tune_model import tokenizer_texts
from eager_llm.tuning.stages import stage_one
from eager_llm.tuning.trajectories import build_trajectories

METRICS = ("recall@10", "ndcg@10")
BUILDERS = {
    "balanced, shared labels": "balanced",
    "balanced, labels shuffled by parent": "balanced",
    "residual k-means": "residual",
    "product quantisation": "product",
}


def examples_of(tables: Tables, settings: Settings) -> pd.DataFrame:
    """Return each target with the user's history before it."""
    asked = targets(assign_splits(tables, settings.data), settings.data.max_history)
    by_user = {user: (log["timestamp"].to_numpy(), log["item_id"].to_numpy())
               for user, log in tables.events.groupby("user_id")}  # fmt: skip
    histories = []
    for user, moment in zip(asked["user_id"], asked["moment"].to_numpy(), strict=True):
        times, items = by_user[user]
        histories.append(items[times < moment][-settings.data.max_history :].tolist())
    return asked.assign(history=histories)


def shuffled_labels(index: ItemIndex, seed: int) -> ItemIndex:
    """Return the same tree with other labels under every parent below the first level."""
    rng, codes = np.random.default_rng(seed), index.codes.copy()
    for levels in index.levels_of.values():
        parent = index.codes[:, levels.start]
        for level in range(levels.start + 1, levels.stop):
            compact = np.unique(parent, return_inverse=True)[1]
            names = rng.permuted(
                np.tile(np.arange(index.branching), (compact.max() + 1, 1)), axis=1
            )
            codes[:, level] = names[compact, index.codes[:, level]]
            parent = compact * index.branching + index.codes[:, level]
    return replace(index, codes=codes)


def measure(
    tables: Tables,
    examples: pd.DataFrame,
    embeddings: dict[str, np.ndarray],
    index: ItemIndex,
    settings: Settings,
) -> dict[str, float]:
    """Tune stage 1 over an index and return the metrics on validation."""
    model, tokenizer = load_backbone(
        settings.backbone, index, tokenizer_texts(tables, settings), settings.seed
    )
    prompt_builder = PromptBuilder(tokenizer, index, tables.items, settings.tuning.text_tokens)
    train = build_trajectories(examples, index, tables.intentions)
    with tempfile.TemporaryDirectory() as folder:
        stage_one(model, prompt_builder, train, embeddings, settings, Path(folder))
    recommender = Recommender(
        model.eval(), prompt_builder, index, settings.decoding, settings.data.max_history
    )
    return evaluate_model(recommender, examples, "validation", show=False)


def run_seed(tables: Tables, settings: Settings) -> dict[str, dict[str, float]]:
    """Measure every builder, and the baselines, with one seed."""
    examples, seed = examples_of(tables, settings), settings.seed
    item_ids = tables.items["item_id"].tolist()
    rows = {item: row for row, item in enumerate(item_ids)}
    train = [[rows[item] for item in history] for history in training_histories(examples)]
    embeddings: Any = {
        "semantic": semantic_embedding(tables.items, settings.semantic, seed),
        "behaviour": behaviour_embedding(train, len(item_ids), settings.behaviour, seed),
    }
    found = {}
    for name, builder in BUILDERS.items():
        index = build_index(item_ids, embeddings, settings.index.replace(builder=builder), seed)
        if "shuffled" in name:
            index = shuffled_labels(index, seed)
        started = time.perf_counter()
        found[name] = {
            **measure(tables, examples, embeddings, index, settings),
            "levels": index.levels,
        }
        print(
            f"{name}, seed {seed}: {found[name]}, {time.perf_counter() - started:.0f} s", flush=True
        )
    return {**found, **evaluate_baselines(examples, item_ids, "validation", seed)}


def main() -> None:
    """Measure every builder with every seed and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of a log; default: the made-up demo shop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", type=Path, help="YAML file of settings")
    parser.add_argument(
        "--set", action="append", default=[], help="such as tuning.epochs=6; repeatable"
    )
    parser.add_argument(
        "--quick", action="store_true", help="the demo shop, one epoch, under 50 seconds"
    )
    arguments = parser.parse_args()
    quick = [
        "tuning.epochs=2",
        "index.branching=16",
        "backbone.hidden=32",
        "backbone.layers=1",
        "behaviour.epochs=1",
    ]
    overrides = [*(quick if arguments.quick else []), "index.workers=0", *arguments.set]
    raw = (
        import_path(arguments.data)
        if arguments.data and not arguments.quick
        else demo_shop(0, 300 if arguments.quick else 1200)
    )
    runs = []
    for seed in arguments.seeds:
        settings = Settings.read(arguments.settings, [*overrides, f"seed={seed}"])
        runs.append(run_seed(prepare(raw, settings.data.min_interactions), settings))
    lines = []
    for name in runs[0]:
        values = [np.array([run[name][metric] for run in runs]) for metric in METRICS]
        lines.append(
            [name, *(cell for v in values for cell in (float(v.mean()), float(v.max() - v.min())))]
        )
    print(machine())
    title = f"{raw.metadata.get('source', 'log')}, validation part, {len(runs)} seeds, {settings.tuning.epochs} epochs"
    show(title, ("index", "Recall@10", "spread", "NDCG@10", "spread"), lines)
    finish(
        {
            line[0]: dict(
                zip(("recall@10", "recall_spread", "ndcg@10", "ndcg_spread"), line[1:], strict=True)
            )
            for line in lines
        }
    )


if __name__ == "__main__":
    main()
