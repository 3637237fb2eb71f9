"""What the choices of stage 1 do to the recommendations: one model a choice, the same log, index and seeds.

    python benchmarks/tuning_choices.py --seeds 0 1                                    (the made-up demo shop)
    python benchmarks/tuning_choices.py --data $EAGER_LLM_DATA/scientific --settings pipelines/settings/small.yaml
    python benchmarks/tuning_choices.py --quick

Stage 1 only, the last epoch kept; measured on the validation part, item-level over the whole catalogue, history kept in
the ranking.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from index_ablation import METRICS, examples_of, measure
from reporting import finish, machine, show

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager_llm.core.compute import prepare_torch
from eager_llm.data.demo_shop import demo_shop
from eager_llm.data.importing.importer import import_path
from eager_llm.data.prepare import prepare
from eager_llm.data.tables import Tables
from eager_llm.encoders.behaviour import behaviour_embedding
from eager_llm.encoders.semantic import semantic_embedding
from eager_llm.evaluation.evaluate import training_histories
from eager_llm.index.build import build_index
from eager_llm.settings import Settings

DEMO = Path(__file__).resolve().parents[1] / "pipelines" / "settings" / "demo.yaml"
CHOICES = {
    "as set": [],
    "loss over the level": ["tuning.loss=level"],
    "tokens start from centroids": ["backbone.new_tokens=centroids"],
    "both": ["tuning.loss=level", "backbone.new_tokens=centroids"],
    "no contrast": ["tuning.contrast_weight=0"],
    "items left out": ["tuning.item_dropout=0.2"],
    "no text tasks": ["tuning.text_tasks=false"],
}


def run_seed(
    tables: Tables, file: Path | None, overrides: list[str], chosen: list[str]
) -> dict[str, dict[str, float]]:
    """Measure every choice with one seed, over one index."""
    settings = Settings.read(file, overrides)
    examples, ids = examples_of(tables, settings), tables.items["item_id"].tolist()
    rows = {item: row for row, item in enumerate(ids)}
    train = [[rows[item] for item in history] for history in training_histories(examples)]
    embeddings: Any = {
        "semantic": semantic_embedding(tables.items, settings.semantic, settings.seed),
        "behaviour": behaviour_embedding(train, len(ids), settings.behaviour, settings.seed),
    }
    index = build_index(ids, embeddings, settings.index.replace(workers=0), settings.seed)
    found = {}
    for name in chosen:
        started = time.process_time()
        row = measure(
            tables, examples, embeddings, index, Settings.read(file, [*overrides, *CHOICES[name]])
        )
        found[name] = {**row, "seconds": time.process_time() - started}
        print(f"{name}, seed {settings.seed}: {found[name]}", flush=True)
    return found


def main() -> None:
    """Measure every choice with every seed and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of a log; default: the made-up demo shop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--settings", type=Path, help="YAML file of settings; default: the demo shop's"
    )
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument(
        "--set", action="append", default=[], help="such as tuning.epochs=6; repeatable"
    )
    parser.add_argument("--quick", action="store_true", help="a small demo shop, two epochs")
    arguments = parser.parse_args()
    prepare_torch(1)
    quick = ["tuning.epochs=2", "backbone.hidden=32", "backbone.layers=1", "behaviour.epochs=1"]
    overrides = ["index.workers=0", *(quick if arguments.quick else []), *arguments.set]
    file = arguments.settings or (None if arguments.data else DEMO)
    raw = (
        import_path(arguments.data)
        if arguments.data
        else demo_shop(0, 300 if arguments.quick else 1200)
    )
    tables = prepare(raw, Settings.read(file, overrides).data.min_interactions)
    runs = [
        run_seed(tables, file, [*overrides, f"seed={seed}"], arguments.choices)
        for seed in arguments.seeds
    ]
    lines, figures = [], {}
    for name in runs[0]:
        values = {key: np.array([run[name][key] for run in runs]) for key in (*METRICS, "seconds")}
        figures[name] = {key: float(v.mean()) for key, v in values.items()}
        figures[name] |= {f"{key} spread": float(np.ptp(values[key])) for key in METRICS}
        spread = [figures[name][key] for metric in METRICS for key in (metric, f"{metric} spread")]
        lines.append([name, *spread, figures[name]["seconds"]])
    print(machine())
    title = f"{raw.metadata.get('source', 'log')}, validation part, {len(runs)} seeds, last epoch"
    show(title, ("choice", "Recall@10", "spread", "NDCG@10", "spread", "processor seconds"), lines)
    finish(figures)


if __name__ == "__main__":
    main()
