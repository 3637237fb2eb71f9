"""How good the recommendations are, beside what is obvious and what is published: from import to test metrics.

    python benchmarks/quality.py --data scientific                     (a folder under $EAGER_LLM_DATA, three seeds)
    python benchmarks/quality.py --data beauty --methods eager-llm sasrec --seeds 0
    python benchmarks/quality.py --quick                               (the made-up demo shop, tiny models)

Each data set has its committed settings in benchmarks/quality_settings. What was measured is kept, method by method and
seed by seed, in benchmarks/quality_rows, so that a run goes on where another stopped; a row of other settings is measured
anew. docs/results.json and the table of docs/results.md are written from these rows. Leave-one-out, the last 20 items
read, item-level over the whole catalogue, ties broken at random, every choice made on validation; the test part is looked
at once for each method and seed. Both conventions: the history kept in the ranking (as published figures have it) and left
out. The steps are the pipeline's, without the engines around them.
"""

import argparse
import copy
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from index_ablation import examples_of
from quality_rivals import (
    Scores,
    co_occurrence,
    ease,
    next_item_counts,
    popularity,
    prior_alone,
    sasrec,
)
from quality_table import (
    HISTORIES,
    PRIOR_ALONE,
    WHOLE,
    row_of_model,
    row_with_prior,
    write_results,
)
from reporting import finish, machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager_llm.backbone.loading import load_backbone
from eager_llm.core.compute import prepare_torch
from eager_llm.core.files import whole_file
from eager_llm.data.demo_shop import demo_shop
from eager_llm.data.importing.importer import import_path
from eager_llm.data.prepare import prepare
from eager_llm.data.tables import Tables
from eager_llm.decoding.inference_weights import optimize_for_inference
from eager_llm.decoding.recommender import Recommender, Request
from eager_llm.encoders.behaviour import behaviour_embedding
from eager_llm.encoders.semantic import semantic_embedding
from eager_llm.evaluation.evaluate import choose_prior_weight, evaluate_model, training_histories
from eager_llm.evaluation.metrics import ranking_metrics
from eager_llm.index.build import build_index
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.settings import Settings
from eager_llm.steps.examples import validation_sample
from eager_llm.steps.item_prior import fit_item_prior
from eager_llm.steps.tune_model import tokenizer_texts
from eager_llm.tuning.stages import stage_one, stage_two
from eager_llm.tuning.trajectories import build_trajectories

ROOT = Path(__file__).resolve().parents[1]
K, BATCH = 10, 512
JUDGED = 4000  # validation users that a rival's settings are chosen by
RIVALS = {
    "popularity": popularity,
    "next-item counts": next_item_counts,
    "co-occurrence, tuned": co_occurrence,
    "ease, tuned": ease,
    "sasrec": sasrec,
}
# What an ablation changes; where the data set's settings have it so already, it is ours, and not measured again.
OURS: dict[str, list[str]] = {
    "eager-llm": [],
    "eager-llm, semantic source only": ["index.sources=semantic"],
    "eager-llm, behaviour source only": ["index.sources=behaviour"],
    "eager-llm, no contrast": ["tuning.contrast_weight=0"],
    "eager-llm, no text tasks": ["tuning.text_tasks=false"],
    "eager-llm, with text tasks": ["tuning.text_tasks=true"],
    # The rival's backbone is not cut down with ours.
    "tiger-style": [
        "index.sources=semantic", "index.builder=residual", "tuning.contrast_weight=0", "tuning.text_tasks=false",
        "annealing.epochs=0", "item_prior.weights=[0]", "backbone.hidden=128", "backbone.layers=3", "backbone.heads=4",
    ],
}  # fmt: skip
# Measured with what WHOLE is made of, which is not made again for them.
NO_STAGE_TWO = "eager-llm, no stage 2"
QUICK = [
    "tuning.epochs=2", "tuning.validate_every=2", "tuning.validation_users=50", "index.branching=16",
    "backbone.hidden=32", "backbone.layers=1", "behaviour.epochs=1", "semantic.dim=16",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One log, its split, and one seed.

    Attributes:
        made: embeddings of this log and seed; methods share them, and the first one's seconds have them.
    """

    tables: Tables
    settings: Settings
    device: str = "cpu"
    made: dict[tuple[str, Any], np.ndarray] = field(default_factory=dict)

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Each target with the history before it."""
        return examples_of(self.tables, self.settings)

    @cached_property
    def ids(self) -> list[str]:
        """Item ids in the order of the index."""
        return self.tables.items["item_id"].tolist()

    @cached_property
    def train(self) -> list[list[int]]:
        """The training part of each user, as item rows."""
        rows = {item: row for row, item in enumerate(self.ids)}
        return [[rows[item] for item in history] for history in training_histories(self.examples)]

    def asked(self, part: str) -> tuple[list[list[int]], list[str]]:
        """Return the histories of a part as item rows, and the targets."""
        rows = {item: row for row, item in enumerate(self.ids)}
        found = self.examples[self.examples["split"] == part]
        return [[rows[item] for item in history] for history in found["history"]], found[
            "item_id"
        ].tolist()

    def embedding(self, source: str) -> np.ndarray:
        """Return a source's embedding."""
        settings, seed = getattr(self.settings, source), self.settings.seed
        key = (
            source,
            (settings, self.settings.data.min_interactions, self.settings.data.max_history),
        )
        if key not in self.made:
            self.made[key] = (
                semantic_embedding(self.tables.items, settings, seed, self.device)
                if source == "semantic"
                else behaviour_embedding(self.train, len(self.ids), settings, seed, self.device)
            )
        return self.made[key]


def metrics_of(
    scores: Scores, case: Case, part: str, leave_out: bool, users: int | None = None
) -> dict[str, float]:
    """Return the metrics of a method that scores all items, over all users or so many drawn ones."""
    histories, targets = case.asked(part)
    if users is not None and users < len(targets):
        drawn = np.random.default_rng(case.settings.seed).choice(len(targets), users, replace=False)
        histories, targets = [histories[n] for n in drawn], [targets[n] for n in drawn]
    lots, ranked = np.random.default_rng(case.settings.seed), []
    for start in range(0, len(histories), BATCH):
        group = histories[start : start + BATCH]
        table = scores(group).astype(np.float64)
        table += 1e-12 * lots.random(table.shape)
        if leave_out:
            for row, history in enumerate(group):
                table[row, history] = -np.inf
        best = torch.from_numpy(table).topk(min(K, table.shape[1]), dim=1).indices.numpy()
        ranked += np.asarray(case.ids, dtype=object)[best].tolist()
    return ranking_metrics(ranked, targets)


def metrics_of_model(recommender: Recommender, case: Case, leave_out: bool) -> dict[str, float]:
    """Return the test metrics of a model."""
    found = case.examples[case.examples["split"] == "test"]
    requests = [
        Request(list(history), K, exclude_history=leave_out) for history in found["history"]
    ]
    ranked = [
        [item for item, _ in answer.items] for answer in recommender.answer(requests, show=True)
    ]
    return ranking_metrics(ranked, found["item_id"].tolist())


def tuned(name: str, case: Case, folder: Path) -> dict[str, Recommender]:
    """Train both stages as the settings say; of the whole method, the model before stage 2 is a row, too."""
    settings, tables = case.settings, case.tables
    embeddings: Any = {source: case.embedding(source) for source in settings.index.sources}
    index = build_index(case.ids, embeddings, settings.index, settings.seed)
    model, tokenizer = load_backbone(
        settings.backbone, index, tokenizer_texts(tables, settings), settings.seed
    )
    model.to(case.device)
    prompt_builder = PromptBuilder(tokenizer, index, tables.items, settings.tuning.text_tokens)
    train = build_trajectories(case.examples, index, tables.intentions)
    recommender = Recommender(
        model, prompt_builder, index, settings.decoding, settings.data.max_history
    )
    judges = validation_sample(case.examples, settings.tuning.validation_users, settings.seed)
    validate = partial(_ndcg, recommender, judges)
    stage_one(model, prompt_builder, train, embeddings, settings, folder, validate)
    models = {name: model.eval()}
    if settings.annealing.epochs:
        if name == WHOLE:
            models[NO_STAGE_TWO] = copy.deepcopy(model)
        models[name], _ = stage_two(model, prompt_builder, train, settings, folder)
    ready = {}
    for row, found in models.items():
        ready[row] = recommender.with_model(optimize_for_inference(found.eval()))
    return ready


def _ndcg(recommender: Recommender, drawn: pd.DataFrame) -> float:
    return evaluate_model(recommender, drawn, "validation", show=False)["ndcg@10"]


def measure(name: str, case: Case) -> dict[str, dict[str, Any]]:
    """Return a row a method that was measured: metrics by convention, seconds, and what validation chose."""
    started = time.perf_counter()
    if name in RIVALS:

        def judge(scores: Scores) -> float:
            return metrics_of(scores, case, "validation", False, JUDGED)["ndcg@10"]

        scores = RIVALS[name](case.train, len(case.ids), case.settings.seed, judge)
        rows = {
            name: {way: metrics_of(scores, case, "test", way == "left out") for way in HISTORIES}
        }
    else:
        with tempfile.TemporaryDirectory() as folder:
            models = tuned(name, case, Path(folder))
        item_prior = fit_item_prior(
            case.examples, case.tables.items, models[name].index, case.settings
        )
        rows = {}
        for row, recommender in models.items():
            rows |= measure_model(row, recommender, item_prior, case)
    return {row: {**found, "seconds": time.perf_counter() - started} for row, found in rows.items()}


def measure_model(
    name: str, recommender: Recommender, item_prior: ItemPriorTable, case: Case
) -> dict[str, dict[str, Any]]:
    """Return the rows of a tuned model: with the item prior weighed as validation says, and alone."""
    settings = case.settings
    weights, users = settings.item_prior.weights, settings.item_prior.validation_users
    chosen, tried = replace(item_prior, weight=weights[0]), {}
    if len(weights) > 1:  # else there is nothing to choose
        judges = validation_sample(case.examples, users, settings.seed)
        chosen, tried = choose_prior_weight(recommender, item_prior, judges, weights)
    with_prior = row_with_prior(name)
    parts: dict[str, ItemPriorTable | None] = {with_prior: chosen}
    if any(weights):  # what a part of the model does shows where it answers alone
        parts[row_of_model(name)] = None
    rows: dict[str, dict[str, Any]] = {}
    for row, part_prior in parts.items():
        recommender.set_item_prior(part_prior)
        rows[row] = {
            way: metrics_of_model(recommender, case, way == "left out") for way in HISTORIES
        }
    rows[with_prior] |= {
        "prior_weight": chosen.weight,
        "validation": {f"{w:g}": ndcg for w, ndcg in tried.items()},
    }
    if name == WHOLE:
        alone = prior_alone(chosen, case.train, case.settings.seed)
        rows[PRIOR_ALONE] = {
            way: metrics_of(alone, case, "test", way == "left out") for way in HISTORIES
        }
    return rows


def run(
    dataset: str, load: Callable[[], Tables], file: Path, arguments: argparse.Namespace, device: str
) -> Path:
    """Measure what is not measured yet, and return the file of everything measured."""
    record = arguments.out / f"{dataset}.jsonl"
    known = (
        [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []
    )
    plan = yaml.safe_load(file.read_text(encoding="utf-8"))
    raw, ours = load(), settings_of(WHOLE, plan, arguments.set)
    for seed in arguments.seeds:
        whole = digest_of(WHOLE, settings_from(ours, seed))
        made: dict[tuple[str, Any], np.ndarray] = {}
        for name in arguments.methods:
            chosen = settings_of(name, plan, arguments.set)
            settings = settings_from(chosen, seed)
            resolved = digest_of(name, settings)
            as_ours = name != WHOLE and resolved == whole
            same = [
                r
                for r in known
                if (r["method"], r["seed"], r["resolved"]) == (name, seed, resolved)
            ]
            if name in plan.get("skip", []) or as_ours or same:
                continue
            known = [r for r in known if (r["run"], r["seed"]) != (name, seed)]  # of other settings
            case = Case(prepare(raw, settings.data.min_interactions), settings, device, made)
            for row, found in measure(name, case).items():
                known.append(
                    {"dataset": dataset, "method": row, "seed": seed, "run": name, "machine": machine(),
                     "settings": chosen, "resolved": resolved, **found}
                )  # fmt: skip
                print(json.dumps(known[-1]), flush=True)
            arguments.out.mkdir(parents=True, exist_ok=True)
            with whole_file(record) as draft:
                draft.write_text("".join(json.dumps(r) + "\n" for r in known))
    return record


def settings_of(name: str, plan: dict[str, Any], given: list[str]) -> list[str]:
    """Return a method's settings; a rival has its own, and shares only what is said of the data."""
    shared = _overrides(plan, "settings")
    if name in RIVALS:
        return [override for override in [*shared, *given] if override.startswith("data.")]
    return [*shared, *OURS[name], *_overrides(plan, name), *given]


def settings_from(chosen: list[str], seed: int) -> Settings:
    """Resolve a method's settings for a seed; nothing here needs Ray."""
    return Settings.read(None, ["index.workers=0", f"seed={seed}", *chosen])


def digest_of(name: str, settings: Settings) -> str:
    """Name the settings that a method's row stands on, defaults among them; the seed is a column of its own."""
    sections = settings.to_dict()
    # What a report shows has no part in a row.
    del sections["report"]
    standing = {**sections, "seed": None, "ray": None, "threads": None}
    if name in RIVALS:
        standing = sections["data"]
    return hashlib.sha256(json.dumps(standing, sort_keys=True).encode()).hexdigest()[:16]


def _overrides(plan: dict[str, Any], section: str) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in plan.get(section, {}).items()]


def main() -> None:
    """Measure one data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        default="demo",
        help="name of a folder in $EAGER_LLM_DATA with its settings; or demo",
    )
    parser.add_argument("--methods", nargs="+", default=[*RIVALS, *OURS], choices=[*RIVALS, *OURS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        help="such as tuning.epochs=6; repeatable; noted in the row",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "quality_rows",
        help="where the measured rows are kept",
    )
    parser.add_argument(
        "--docs", type=Path, help="folder of results.md and results.json; none: only printed"
    )
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0: every core")
    parser.add_argument(
        "--quick", action="store_true", help="the demo shop, one seed, tiny models; keeps nothing"
    )
    arguments = parser.parse_args()
    device = prepare_torch(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.quick:
            arguments.data, arguments.seeds, arguments.out = "demo", [0], Path(scratch)
            arguments.set = [*QUICK, *arguments.set]
            RIVALS["sasrec"] = partial(sasrec, epochs=5, dropouts=(0.2,))
        file = ROOT / "benchmarks" / "quality_settings" / f"{arguments.data}.yaml"
        if not file.is_file():
            parser.error(f"--data {arguments.data}: no {file.name} in benchmarks/quality_settings")
        folder = (
            Path(os.environ.get("EAGER_LLM_DATA", ROOT.parent / "shared" / "data")) / arguments.data
        )
        if arguments.data != "demo" and not folder.is_dir():
            parser.error(
                f"{folder}: no such folder; EAGER_LLM_DATA names the one that holds {arguments.data}"
            )
        users = 300 if arguments.quick else 1200
        load = (
            partial(demo_shop, 0, users)
            if arguments.data == "demo"
            else partial(import_path, folder)
        )
        print(machine())
        run(arguments.data, load, file, arguments, device)
        finish({"rows": write_results(arguments.out, file.parent, arguments.docs)})


if __name__ == "__main__":
    main()
