"""Steps on the model: index, tune, evaluate, pack."""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from eager_llm.acceptance import run_bundle_gates
from eager_llm.bundle import pack_bundle
from eager_llm.catalogue.features import Features
from eager_llm.catalogue.gates import require
from eager_llm.catalogue.tables import TEXT_COLUMNS, Tables, item_titles
from eager_llm.decoding.recommender import Recommender
from eager_llm.encoders.behaviour import behaviour_embedding
from eager_llm.encoders.semantic import semantic_embedding
from eager_llm.evaluation.evaluate import (
    evaluate_baselines,
    evaluate_model,
    table_text,
    training_histories,
)
from eager_llm.evaluation.report import ReportData, render_report
from eager_llm.files import content_digest, read_json, whole_file, whole_folder, write_json
from eager_llm.index.build import build_index
from eager_llm.index.gates import run_index_gates
from eager_llm.index.item_index import ItemIndex, prefix_purity
from eager_llm.progress import say
from eager_llm.settings import Settings
from eager_llm.steps.data import read_examples, rows_of
from eager_llm.steps.timing import timed
from eager_llm.tuning.backbone import for_decoding, load_backbone, load_tuned, save_tuned
from eager_llm.tuning.stages import stage_one, stage_two
from eager_llm.tuning.tasks import DEFAULT_FILE, INTENTION_TASKS, TaskBook, trajectories

MODEL_NAME = "EAGER-LLM"
SAMPLED_USERS = 3


@timed
def index(
    tables: Path,
    examples: Path,
    settings: Settings,
    repository: Path,
    features: Path,
    out: Path,
    embeddings: Path,
    report: Path,
) -> dict[str, float]:
    """Encode the items by both sources, build the item index, and publish it as features if its gates hold."""
    device = _prepare_torch(settings)
    loaded = Tables.load(tables)
    item_ids = loaded.items["item_id"].tolist()
    found: dict[str, np.ndarray] = {}
    if "semantic" in settings.index.sources:
        found["semantic"] = semantic_embedding(loaded.items, settings.semantic, settings.seed, device)
    if "behaviour" in settings.index.sources:
        rows = {item: row for row, item in enumerate(item_ids)}
        train = [[rows[item] for item in history] for history in training_histories(read_examples(examples))]
        found["behaviour"] = behaviour_embedding(train, len(item_ids), settings.behaviour, settings.seed, device)
    with whole_folder(embeddings) as draft:
        for source, embedding in found.items():
            np.save(draft / f"{source}.npy", embedding, allow_pickle=False)
    files = {source: embeddings / f"{source}.npy" for source in found}
    built = build_index(item_ids, files, settings.index, settings.seed)
    with whole_file(out) as draft_file:
        built.save(draft_file)
        even, memory = settings.index.builder == "balanced", settings.data.memory_gb
        found_items = tables / "items.parquet"
        results = run_index_gates(draft_file, found_items, files, even, settings.gates, memory, rows_of(report))
        require(results, report, "Index gates")
    service = Features(repository, features).publish_index(
        item_ids, [built.tokens(item) for item in item_ids], built.version_name
    )
    say(f"feature service {service}")
    say(f"item index: {len(item_ids)} items, {built.levels} tokens an item, no collisions")
    purity = prefix_purity(built, loaded.items, "categories")
    return {"items": len(item_ids), "levels": built.levels, **{f"purity_{s}": v for s, v in purity.items()}}


@timed
def tune(
    tables: Path,
    examples: Path,
    item_index: Path,
    embeddings: Path,
    settings: Settings,
    checkpoints: Path,
    out: Path,
) -> dict[str, float]:
    """Run both stages, going on from the checkpoint of the same inputs and settings if there is one."""
    device = _prepare_torch(settings)
    loaded, asked = Tables.load(tables), read_examples(examples)
    built = ItemIndex.load(item_index)
    sources = {s: np.load(embeddings / f"{s}.npy", allow_pickle=False) for s in settings.index.sources}
    # Checkpoints belong to their inputs: another index or setting starts anew.
    folder = checkpoints / _tuning_key([tables / "items.parquet", examples, item_index, embeddings], settings)
    model, tokenizer = load_backbone(settings.backbone, built, _tokenizer_texts(loaded), settings.seed)
    model.to(device)
    book = TaskBook(tokenizer, built, loaded.items, settings.tuning.text_tokens)
    train = trajectories(asked, built, loaded.intentions)
    if loaded.intentions is None:
        say(f"no intentions table: the tasks {' and '.join(INTENTION_TASKS)} are left out")
    recommender = Recommender(model, book, built, settings.decoding, settings.data.max_history)
    validation = asked[asked["part"] == "validation"]
    drawn = validation.sample(min(settings.tuning.validation_users, len(validation)), random_state=settings.seed)
    validate = partial(_validation_ndcg, recommender, drawn)
    curves = {"stage-1": stage_one(model, book, train, sources, settings, folder, validate)}
    with whole_folder(out) as draft:
        save_tuned(model, tokenizer, built, draft)
        if settings.annealing.epochs:
            adapted, curves["stage-2"] = stage_two(model, book, train, settings, folder)
            adapted.save_pretrained(draft / "adapter")
        write_json(draft / "curves.json", curves)
    # A finished job leaves nothing that a later one could mistake for its own.
    shutil.rmtree(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "loss": curves["stage-1"][-1]["loss"]}


@timed
def evaluate(
    tables: Path, examples: Path, item_index: Path, model: Path, settings: Settings, metrics: Path, report: Path
) -> dict[str, dict[str, float]]:
    """Measure the model and the baselines on validation and, once, on test; write the report."""
    device = _prepare_torch(settings)
    loaded, asked = Tables.load(tables), read_examples(examples)
    built = ItemIndex.load(item_index)
    tuned, tokenizer = load_tuned(model, built, device)
    book = TaskBook(tokenizer, built, loaded.items, settings.tuning.text_tokens)
    tuned = for_decoding(tuned, settings.decoding.precision)
    recommender = Recommender(tuned, book, built, settings.decoding, settings.data.max_history)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for part in ("validation", "test"):
        row = evaluate_model(recommender, asked, part)
        result[part] = {MODEL_NAME: row, **evaluate_baselines(asked, built.item_ids, part, settings.seed)}
    write_json(metrics, result)
    say(table_text(result["test"]))
    data = ReportData(
        title=f"{MODEL_NAME} on {loaded.facts['source']}",
        made_up=bool(loaded.facts.get("made_up")),
        facts=loaded.facts,
        table=result["test"],
        validation=result["validation"],
        curves=read_json(model / "curves.json"),
        samples=_samples(recommender, loaded.items, asked, settings.seed),
        # The bundle's gates come after, with settings of their own.
        settings={name: section for name, section in settings.to_dict().items() if name != "acceptance"},
        notes=_notes(loaded),
    )
    with whole_file(report) as draft:
        draft.write_text(render_report(data), encoding="utf-8")
    return result["test"]


@timed
def pack(
    tables: Path,
    examples: Path,
    item_index: Path,
    model: Path,
    metrics: Path,
    settings: Settings,
    out: Path,
    report: Path,
) -> None:
    """Pack the bundle that serving loads, if its gates hold."""

    def check(bundle: Path) -> dict[str, Any]:
        results = run_bundle_gates(bundle, settings.acceptance, rows_of(report))
        require(results, report, "Bundle gates")
        excused = [result.name for result in results if result.excused]
        return {"gates_gone_on_without": excused} if excused else {}

    loaded, found = Tables.load(tables), read_json(metrics)
    pack_bundle(out, model, item_index, loaded.items, read_examples(examples), settings, found, loaded.facts, check)


def _prepare_torch(settings: Settings) -> str:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return "cuda" if torch.cuda.is_available() else "cpu"


def _tuning_key(inputs: list[Path], settings: Settings) -> str:
    digest = hashlib.sha256(json.dumps(settings.to_dict(), sort_keys=True).encode())
    for path in [*inputs, DEFAULT_FILE]:
        digest.update(content_digest(path).encode())
    return digest.hexdigest()[:16]


def _tokenizer_texts(tables: Tables) -> list[str]:
    texts = [text for name in TEXT_COLUMNS for text in tables.items[name] if text]
    if tables.intentions is not None:
        texts += [*tables.intentions["intention"].unique(), *tables.intentions["preference"].unique()]
    return [*texts, DEFAULT_FILE.read_text(encoding="utf-8")]


def _validation_ndcg(recommender: Recommender, drawn: pd.DataFrame) -> float:
    return evaluate_model(recommender, drawn, "validation", show=False)["ndcg@10"]


def _samples(recommender: Recommender, items: pd.DataFrame, examples: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    asked = examples[examples["part"] == "test"]
    asked = asked.sample(min(SAMPLED_USERS, len(asked)), random_state=seed)
    titles = item_titles(items)
    ranked = recommender.recommend(asked["history"].map(list).tolist(), 5)
    rows = zip(asked["user_id"], asked["history"], asked["item_id"], ranked, strict=True)
    return [
        {
            "user": user,
            "history": [titles[item] for item in history],
            "target": titles[target],
            "recommended": [titles[item] for item, _ in row],
        }
        for user, history, target, row in rows
    ]


def _notes(tables: Tables) -> list[str]:
    notes = []
    if tables.intentions is None:
        notes.append(f"No intentions table: the tasks {' and '.join(INTENTION_TASKS)} were left out.")
    if tables.facts.get("ordinal_time"):
        notes.append("The log has an order but no clock: its times are positions.")
    return notes
