"""Steps on the model: index, tune, evaluate, pack."""

import hashlib
import json
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.backbone.loading import load_backbone
from eager_llm.backbone.tuned_model import (
    ADAPTER,
    TEMPLATES,
    held_out_items,
    load_tuned,
    save_tuned,
)
from eager_llm.bundle.gates import run_bundle_gates
from eager_llm.bundle.layout import CURVES, LANGUAGE, WAIVED_GATES
from eager_llm.bundle.pack import pack_bundle
from eager_llm.core.compute import prepare_torch
from eager_llm.core.files import content_digest, read_json, whole_file, whole_folder, write_json
from eager_llm.core.progress import say
from eager_llm.data.tables import TEXT_COLUMNS, Tables, item_titles
from eager_llm.decoding.inference_weights import optimize_for_inference
from eager_llm.decoding.recommender import Recommender
from eager_llm.encoders.behaviour import behaviour_embedding
from eager_llm.encoders.semantic import semantic_embedding
from eager_llm.evaluation.evaluate import (
    choose_prior_weight,
    evaluate_baselines,
    evaluate_model,
    table_text,
    training_histories,
)
from eager_llm.evaluation.language import MEASURES, LanguageProbe, sweep_adapter
from eager_llm.evaluation.methods import MODEL, MODEL_WITH_PRIOR
from eager_llm.evaluation.report import ReportData, render_report
from eager_llm.features.feature_store import Features
from eager_llm.index.build import build_index
from eager_llm.index.gates import run_index_gates
from eager_llm.index.item_index import ItemIndex, prefix_purity
from eager_llm.item_prior.table import FILE as NEIGHBOURS
from eager_llm.item_prior.table import ItemPriorTable, build_item_prior
from eager_llm.item_prior.tfidf import item_tfidf
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.prompts.templates import template_file
from eager_llm.settings import AFTER_TUNING, Settings
from eager_llm.steps.data import read_examples, rows_of
from eager_llm.steps.distributed import distributed
from eager_llm.steps.memory import within_memory
from eager_llm.steps.timing import timed
from eager_llm.tuning.distributed_context import DistributedContext
from eager_llm.tuning.examples import INTENTION_TASKS, held_out_rows
from eager_llm.tuning.on_ray import on_workers
from eager_llm.tuning.stages import stage_one, stage_two
from eager_llm.tuning.trajectories import build_trajectories
from eager_llm.validation.report import require_passed

SAMPLED_USERS = 3


@timed
@distributed(("tables", "examples"), ("out", "embeddings", "report"), ("repository", "features"))
@within_memory("build_index", "semantic.batch", "index.workers")
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
    loaded = Tables.load(tables)
    item_ids = loaded.items["item_id"].tolist()
    found = embed(loaded, read_examples(examples), settings, prepare_torch(settings.threads))
    files = save_embeddings(found, embeddings)
    # Where a job was lost, what it had finished is found again by the next one.
    jobs = Path(settings.ray.shared) / "index-jobs" if settings.ray.shared else None
    built = build_index(item_ids, files, settings.index, settings.seed, jobs)
    with whole_file(out) as draft_file:
        built.save(draft_file)
        even, memory = settings.index.builder == "balanced", settings.data.memory_gb
        found_items = tables / "items.parquet"
        results = run_index_gates(
            draft_file, found_items, files, even, settings.gates, memory, rows_of(report)
        )
        require_passed(results, report, "Index gates")
    service = Features(repository, features).publish_index(
        item_ids, [built.tokens(item) for item in item_ids], built.version_name
    )
    say(f"feature service {service}")
    say(f"item index: {len(item_ids)} items, {built.levels} tokens an item, no collisions")
    purity = prefix_purity(built, loaded.items, "categories")
    return {
        "items": len(item_ids),
        "levels": built.levels,
        **{f"purity_{s}": v for s, v in purity.items()},
    }


def embed(
    tables: Tables, examples: pd.DataFrame, settings: Settings, device: str
) -> dict[str, np.ndarray]:
    """Encode the catalogue by the sources of the index, float32 [items, dim] each; behaviour of the training part."""
    found: dict[str, np.ndarray] = {}
    if "semantic" in settings.index.sources:
        found["semantic"] = semantic_embedding(
            tables.items, settings.semantic, settings.seed, device
        )
    if "behaviour" in settings.index.sources:
        rows = {item: row for row, item in enumerate(tables.items["item_id"])}
        train = [[rows[item] for item in history] for history in training_histories(examples)]
        found["behaviour"] = behaviour_embedding(
            train, len(rows), settings.behaviour, settings.seed, device
        )
    return found


def save_embeddings(found: dict[str, np.ndarray], folder: Path) -> dict[str, Path]:
    """Write a .npy a source, all or none; return their paths."""
    with whole_folder(folder) as draft:
        for source, embedding in found.items():
            np.save(draft / f"{source}.npy", embedding, allow_pickle=False)
    return {source: folder / f"{source}.npy" for source in found}


@timed
@distributed(("tables", "examples", "item_index", "embeddings"), ("out",), ("checkpoints",))
@within_memory("tune_model", "tuning.batch_tokens", "tuning.loss_tokens")
def tune(
    tables: Path,
    examples: Path,
    item_index: Path,
    embeddings: Path,
    settings: Settings,
    checkpoints: Path,
    out: Path,
) -> dict[str, float]:
    """Run both stages, in this process or on Ray Train's workers, which need to reach all these paths.

    Goes on from the checkpoint of the same inputs and settings if there is one.
    """
    paths = {
        "tables": tables, "examples": examples, "item_index": item_index, "embeddings": embeddings,
        "checkpoints": checkpoints, "out": out,
    }  # fmt: skip
    config = {
        "settings": settings.to_dict(),
        **{name: str(path.resolve()) for name, path in paths.items()},
    }
    tuning = settings.tuning
    if tuning.workers:
        return on_workers(tune_on_worker, config, tuning.workers, tuning.restarts, checkpoints)
    return tune_on_worker(config)


def tune_on_worker(config: dict[str, Any]) -> dict[str, float]:
    """Do one worker's part of `tune`; the main process writes.

    Args:
        config: the settings and paths of `tune`, in plain values.
    """
    settings, context = Settings.from_dict(config["settings"]), DistributedContext()
    tables, examples, item_index, embeddings, checkpoints, out = (
        Path(config[name])
        for name in ("tables", "examples", "item_index", "embeddings", "checkpoints", "out")
    )
    device = prepare_torch(settings.threads)
    loaded, asked = Tables.load(tables), read_examples(examples)
    built = ItemIndex.load(item_index)
    sources = {
        s: np.load(embeddings / f"{s}.npy", allow_pickle=False) for s in settings.index.sources
    }
    # Checkpoints belong to their inputs: another index or setting starts anew.
    folder = checkpoints / tuning_key(
        [tables / "items.parquet", examples, item_index, embeddings], settings
    )
    model, tokenizer = load_backbone(
        settings.backbone, built, tokenizer_texts(loaded, settings), settings.seed
    )
    # To be spread over the workers, it waits where there is room.
    model.to("cpu" if settings.tuning.sharded else device)
    prompt_builder = PromptBuilder(
        tokenizer,
        built,
        loaded.items,
        settings.tuning.text_tokens,
        template_file(settings),
        held_out_rows(built, settings.tuning, settings.seed),
    )
    train = build_trajectories(asked, built, loaded.intentions)
    if loaded.intentions is None and context.is_main_process:
        say(f"no intentions table: the tasks {' and '.join(INTENTION_TASKS)} are left out")
    recommender = Recommender(
        model, prompt_builder, built, settings.decoding, settings.data.max_history
    )
    validate = partial(_validation_ndcg, recommender, _drawn(asked, settings))
    probe = LanguageProbe(prompt_builder, settings.tuning.language_items, settings.seed)
    language = {"before stage 1": probe.measure(recommender) if context.is_main_process else {}}
    # Before the hours of training: what it may refuse is refused at once.
    neighbours = (
        item_prior_of(asked, loaded.items, built, settings) if context.is_main_process else None
    )
    curves = {
        "stage-1": stage_one(model, prompt_builder, train, sources, settings, folder, validate)
    }
    with whole_folder(out) if context.is_main_process else nullcontext() as draft:
        if draft:
            language["after stage 1"] = probe.measure(recommender)
            write_json(draft / LANGUAGE, language)
            save_tuned(
                model, tokenizer, built, draft, template_file(settings), prompt_builder.held_out
            )
        if draft and neighbours is not None:
            neighbours.save(draft / NEIGHBOURS)
        if settings.annealing.epochs:
            adapted, curves["stage-2"] = stage_two(model, prompt_builder, train, settings, folder)
            if draft:
                adapted.save_pretrained(draft / ADAPTER)
        if draft:
            write_json(draft / CURVES, curves)
    context.broadcast(None)
    if context.is_main_process:
        # A finished job leaves nothing that a later one could mistake for its own.
        shutil.rmtree(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "loss": curves["stage-1"][-1]["loss"]}


@timed
@within_memory("evaluate_model", "decoding.batch", "decoding.beams")
def evaluate(
    tables: Path,
    examples: Path,
    item_index: Path,
    model: Path,
    settings: Settings,
    metrics: Path,
    report: Path,
) -> dict[str, dict[str, float]]:
    """Measure the model and the baselines on validation and, once, on test; write the report."""
    device = prepare_torch(settings.threads)
    loaded, asked = Tables.load(tables), read_examples(examples)
    built = ItemIndex.load(item_index)
    tuned, tokenizer = load_tuned(model, built, device)
    held_out = {built.rows[item] for item in held_out_items(model) if item in built.rows}
    prompt_builder = PromptBuilder(
        tokenizer, built, loaded.items, settings.tuning.text_tokens, model / TEMPLATES, held_out
    )
    recommender = Recommender(
        tuned, prompt_builder, built, settings.decoding, settings.data.max_history
    )
    language, adapter_sweep = _language(recommender, _drawn(asked, settings), model, settings)
    recommender = recommender.with_model(
        optimize_for_inference(
            tuned, settings.decoding.precision, settings.decoding.adapter_strength
        )
    )
    neighbours = ItemPriorTable.load(model / NEIGHBOURS, len(built.item_ids))
    judges = drawn_users(asked, settings.item_prior.validation_users, settings.seed)
    neighbours, tried = choose_prior_weight(
        recommender, neighbours, judges, settings.item_prior.weights
    )
    say(f"weight of the neighbours beside the model, chosen on validation: {neighbours.weight:g}")
    result: dict[str, dict[str, dict[str, float]]] = {}
    for part in ("validation", "test"):
        recommender.set_item_prior(None)
        alone = evaluate_model(recommender, asked, part)
        rows = {MODEL_WITH_PRIOR: alone, MODEL: alone}
        if neighbours.weight:  # without it both are the same
            recommender.set_item_prior(neighbours)
            rows[MODEL_WITH_PRIOR] = evaluate_model(recommender, asked, part)
        result[part] = {
            **rows,
            **evaluate_baselines(asked, built.item_ids, part, settings.seed, neighbours),
        }
    recommender.set_item_prior(neighbours)
    prior = {
        "weight": neighbours.weight,
        "tried": {f"{weight:g}": ndcg for weight, ndcg in tried.items()},
    }
    write_json(metrics, {**result, "prior": prior, "language": language, "adapter": adapter_sweep})
    say(table_text(result["test"]))
    data = ReportData(
        title=f"{MODEL} on {loaded.metadata['source']}",
        made_up=bool(loaded.metadata.get("made_up")),
        metadata=loaded.metadata,
        table=result["test"],
        validation=result["validation"],
        curves=read_json(model / CURVES),
        language=language,
        adapter_sweep=adapter_sweep,
        prior=prior,
        samples=_samples(recommender, loaded.items, asked, settings.seed),
        # What comes after has settings of its own.
        settings={
            name: section
            for name, section in settings.to_dict().items()
            if name not in AFTER_TUNING
        },
        notes=_notes(loaded),
    )
    with whole_file(report) as draft:
        draft.write_text(render_report(data), encoding="utf-8")
    return result["test"]


@timed
@within_memory("pack_bundle")
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
        require_passed(results, report, "Bundle gates")
        waived = [result.name for result in results if result.waived]
        return {WAIVED_GATES: waived} if waived else {}

    loaded, found = Tables.load(tables), read_json(metrics)
    pack_bundle(
        out,
        model,
        item_index,
        loaded.items,
        read_examples(examples),
        settings,
        found,
        loaded.metadata,
        check,
    )


def tuning_key(inputs: list[Path], settings: Settings) -> str:
    """Name a tuning job by its inputs and settings."""
    digest = hashlib.sha256(
        json.dumps({**settings.to_dict(), "ray": None}, sort_keys=True).encode()
    )
    for path in [*inputs, template_file(settings)]:
        digest.update(content_digest(path).encode())
    return digest.hexdigest()[:16]


def tokenizer_texts(tables: Tables, settings: Settings) -> list[str]:
    """Return what a tokenizer made on the spot learns from: all texts that tasks are made of."""
    texts = [text for name in TEXT_COLUMNS for text in tables.items[name] if text]
    if tables.intentions is not None:
        texts += [
            *tables.intentions["intention"].unique(),
            *tables.intentions["preference"].unique(),
        ]
    return [*texts, template_file(settings).read_text(encoding="utf-8")]


def drawn_users(examples: pd.DataFrame, users: int, seed: int) -> pd.DataFrame:
    """Draw so many validation examples, or take all that there are."""
    validation = examples[examples["split"] == "validation"]
    return validation.sample(min(users, len(validation)), random_state=seed)


def _drawn(examples: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Draw the users that the validations of tuning ask for."""
    return drawn_users(examples, settings.tuning.validation_users, settings.seed)


def _language(
    recommender: Recommender, drawn: pd.DataFrame, model: Path, settings: Settings
) -> tuple[dict[str, dict[str, float]], list[dict[str, float]]]:
    """Return the language measures by moment, and the curve along the adapter's strength."""
    probe = LanguageProbe(recommender.prompt_builder, settings.tuning.language_items, settings.seed)
    found = read_json(model / LANGUAGE)
    if not settings.annealing.epochs:
        return found, []
    adapter_sweep = sweep_adapter(recommender, probe, partial(_validation_ndcg, drawn=drawn))
    for moment, row in (
        ("after stage 2, adapter off", adapter_sweep[0]),
        ("after stage 2, adapter on", adapter_sweep[-1]),
    ):
        found[moment] = {name: row[name] for name in MEASURES if name in row}
    return found, adapter_sweep


def _validation_ndcg(recommender: Recommender, drawn: pd.DataFrame) -> float:
    return evaluate_model(recommender, drawn, "validation", show=False)["ndcg@10"]


def item_prior_of(
    examples: pd.DataFrame, items: pd.DataFrame, index: ItemIndex, settings: Settings
) -> ItemPriorTable:
    """Build the evidence from the sources of the index: the behaviour of the training part, words in common."""
    train = [[index.rows[item] for item in history] for history in training_histories(examples)]
    words = (
        item_tfidf(items.set_index("item_id").loc[index.item_ids])
        if "semantic" in settings.index.sources
        else None
    )
    count = "behaviour" in settings.index.sources
    return build_item_prior(train, len(index.item_ids), words, settings.item_prior, count)


def _samples(
    recommender: Recommender, items: pd.DataFrame, examples: pd.DataFrame, seed: int
) -> list[dict[str, Any]]:
    asked = examples[examples["split"] == "test"]
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
        notes.append(
            f"No intentions table: the tasks {' and '.join(INTENTION_TASKS)} were left out."
        )
    if tables.metadata.get("ordinal_time"):
        notes.append("The log has an order but no clock: its times are positions.")
    return notes
