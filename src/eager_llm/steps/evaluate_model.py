"""The step `evaluate`: the model and the baselines on validation and, once, on test."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import pandas as pd

from eager_llm.backbone.tuned_model import TEMPLATES, held_out_items, load_tuned
from eager_llm.bundle.layout import CURVES, LANGUAGE
from eager_llm.core.compute import prepare_torch
from eager_llm.core.files import read_json, whole_file, write_json
from eager_llm.core.progress import say
from eager_llm.data.tables import Tables, item_titles
from eager_llm.decoding.inference_weights import optimize_for_inference
from eager_llm.decoding.recommender import Recommender
from eager_llm.evaluation.evaluate import (
    Table,
    choose_prior_weight,
    evaluate_baselines,
    evaluate_model,
    table_text,
)
from eager_llm.evaluation.language import MEASURES, LanguageProbe, sweep_adapter
from eager_llm.evaluation.methods import MODEL, MODEL_WITH_PRIOR
from eager_llm.evaluation.report import ReportData, render_report
from eager_llm.index.item_index import ItemIndex
from eager_llm.item_prior.table import FILE as ITEM_PRIOR
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.settings import AFTER_TUNING, Settings
from eager_llm.steps.examples import read_examples, tuning_sample, validation_sample
from eager_llm.steps.memory import within_memory
from eager_llm.steps.timing import timed
from eager_llm.steps.tune_model import validation_ndcg
from eager_llm.tuning.examples import INTENTION_TASKS

POPULAR_ITEMS = 3


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
    """Measure the model and the baselines, and write the report.

    Args:
        tables: folder of the validated tables.
        examples: of `publish`.
        item_index: Parquet of the index.
        model: folder of the tuned model.
        metrics: JSON to write.
        report: page to write.

    Returns:
        Method -> metric -> value on the test split.
    """
    inputs = _Inputs.load(tables, examples, item_index, model, settings)
    measured = _measure(inputs, model, settings)
    write_json(metrics, measured.to_dict())
    test = measured.splits["test"]
    say(table_text(test))
    page = _report(inputs, measured, read_json(model / CURVES), settings)
    with whole_file(report) as draft:
        draft.write_text(render_report(page), encoding="utf-8")
    return test


@dataclass(frozen=True)
class _Inputs:
    """What `evaluate` reads."""

    tables: Tables
    examples: pd.DataFrame
    index: ItemIndex
    recommender: Recommender

    @classmethod
    def load(
        cls, tables: Path, examples: Path, item_index: Path, model: Path, settings: Settings
    ) -> Self:
        """Read them, with the model as it was tuned: its adapter is not merged."""
        device = prepare_torch(settings.threads)
        loaded = Tables.load(tables)
        index = ItemIndex.load(item_index)
        tuned, tokenizer = load_tuned(model, index, device)
        held_out = {index.rows[item] for item in held_out_items(model) if item in index.rows}
        prompt_builder = PromptBuilder(
            tokenizer,
            index,
            loaded.items,
            settings.tuning.text_tokens,
            model / TEMPLATES,
            held_out,
        )
        recommender = Recommender(
            tuned,
            prompt_builder,
            index,
            settings.decoding,
            settings.data.max_history,
        )
        return cls(loaded, read_examples(examples), index, recommender)


@dataclass
class _Measures:
    """What was measured.

    Attributes:
        recommender: with the model as it is served and the item prior beside it.
        splits: split -> method -> metric -> value.
        prior: `weight` of the item prior, and `tried`: weight -> NDCG@10 on validation.
        language: when it was measured -> measure -> value.
        adapter_sweep: a row for each strength of the adapter.
    """

    recommender: Recommender
    splits: dict[str, Table] = field(default_factory=dict)
    prior: dict[str, Any] = field(default_factory=dict)
    language: Table = field(default_factory=dict)
    adapter_sweep: list[dict[str, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the values of the metrics' file."""
        return {
            **self.splits,
            "prior": self.prior,
            "language": self.language,
            "adapter": self.adapter_sweep,
        }


def _measure(inputs: _Inputs, model: Path, settings: Settings) -> _Measures:
    """Measure language, choose the prior's weight on validation, and measure both splits."""
    language, adapter_sweep = _language(inputs, model, settings)
    decoding = settings.decoding
    served_model = optimize_for_inference(
        inputs.recommender.model,
        decoding.precision,
        decoding.adapter_strength,
    )
    recommender = inputs.recommender.with_model(served_model)
    measured = _Measures(recommender, language=language, adapter_sweep=adapter_sweep)
    item_prior = ItemPriorTable.load(model / ITEM_PRIOR, len(inputs.index.item_ids))
    users = settings.item_prior.validation_users
    sample = validation_sample(inputs.examples, users, settings.seed)
    item_prior, ndcg_of_weight = choose_prior_weight(
        recommender,
        item_prior,
        sample,
        settings.item_prior.weights,
    )
    weight = item_prior.weight
    say(f"weight of the item prior beside the model, chosen on validation: {weight:g}")
    tried = {f"{weight:g}": ndcg for weight, ndcg in ndcg_of_weight.items()}
    measured.prior = {"weight": weight, "tried": tried}
    for split in ("validation", "test"):
        measured.splits[split] = _measure_split(
            recommender,
            item_prior,
            inputs.examples,
            split,
            settings.seed,
        )
    recommender.set_item_prior(item_prior)
    return measured


def _measure_split(
    recommender: Recommender,
    item_prior: ItemPriorTable,
    examples: pd.DataFrame,
    split: str,
    seed: int,
) -> Table:
    """Return the metrics of the model, with and without the item prior, and of the baselines."""
    recommender.set_item_prior(None)
    alone = evaluate_model(recommender, examples, split)
    table = {MODEL_WITH_PRIOR: alone, MODEL: alone}
    if item_prior.weight:  # at weight 0 both are the same
        recommender.set_item_prior(item_prior)
        table[MODEL_WITH_PRIOR] = evaluate_model(recommender, examples, split)
    item_ids = recommender.index.item_ids
    return {**table, **evaluate_baselines(examples, item_ids, split, seed, item_prior)}


def _language(
    inputs: _Inputs, model: Path, settings: Settings
) -> tuple[Table, list[dict[str, float]]]:
    """Return the language measures by stage, and the sweep of the adapter's strength."""
    recommender = inputs.recommender
    probe = LanguageProbe(recommender.prompt_builder, settings.tuning.language_items, settings.seed)
    language = read_json(model / LANGUAGE)
    if not settings.annealing.epochs:
        return language, []
    sample = tuning_sample(inputs.examples, settings)
    adapter_sweep = sweep_adapter(recommender, probe, partial(validation_ndcg, examples=sample))
    by_stage = {
        "after stage 2, adapter off": adapter_sweep[0],
        "after stage 2, adapter on": adapter_sweep[-1],
    }
    for stage, row in by_stage.items():
        language[stage] = {name: row[name] for name in MEASURES if name in row}
    return language, adapter_sweep


def _report(
    inputs: _Inputs,
    measured: _Measures,
    curves: dict[str, list[dict[str, float]]],
    settings: Settings,
) -> ReportData:
    """Return what the report shows."""
    # The sections of later steps have no part in these figures.
    sections = settings.to_dict()
    for name in AFTER_TUNING:
        del sections[name]
    metadata = inputs.tables.metadata
    samples = _samples(measured.recommender, inputs.tables.items, inputs.examples, settings)
    popular_items = _after_popular_items(measured.recommender, inputs.tables.items, inputs.examples)
    return ReportData(
        title=f"{MODEL} on {metadata['source']}",
        made_up=bool(metadata.get("made_up")),
        metadata=metadata,
        table=measured.splits["test"],
        validation=measured.splits["validation"],
        curves=curves,
        language=measured.language,
        adapter_sweep=measured.adapter_sweep,
        prior=measured.prior,
        samples=samples,
        popular_items=popular_items,
        settings=sections,
        notes=_notes(inputs.tables),
    )


def _samples(
    recommender: Recommender, items: pd.DataFrame, examples: pd.DataFrame, settings: Settings
) -> list[dict[str, Any]]:
    """Return users of the test split with their history, target and recommendations."""
    test = examples[examples["split"] == "test"]
    count = min(settings.report.users, len(test))
    sample = test.sample(count, random_state=settings.seed)
    titles = item_titles(items)
    answers = recommender.recommend(sample["history"].map(list).tolist(), 5)
    columns = (sample["user_id"], sample["history"], sample["item_id"], answers)
    rows: list[dict[str, Any]] = []
    for user, history, target, answer in zip(*columns, strict=True):
        row = {
            "user": user,
            "history": [titles[item] for item in history],
            "target": titles[target],
            "recommended": [titles[item] for item, _ in answer],
        }
        rows.append(row)
    return rows


def _after_popular_items(
    recommender: Recommender, items: pd.DataFrame, examples: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return the most popular items of the training split, and what is recommended after each."""
    train = examples[examples["split"] == "train"]
    counts = train["item_id"].value_counts().sort_index()
    popular = counts.sort_values(ascending=False, kind="stable").index[:POPULAR_ITEMS].tolist()
    titles = item_titles(items)
    answers = recommender.recommend([[item] for item in popular], 5)
    rows: list[dict[str, Any]] = []
    for item, answer in zip(popular, answers, strict=True):
        recommended = [titles[recommended_item] for recommended_item, _ in answer]
        rows.append({"title": titles[item], "recommended": recommended})
    return rows


def _notes(tables: Tables) -> list[str]:
    """Return what a reader has to know of the log."""
    notes: list[str] = []
    if tables.intentions is None:
        tasks = " and ".join(INTENTION_TASKS)
        notes.append(f"No intentions table: the tasks {tasks} were left out.")
    if tables.metadata.get("ordinal_time"):
        notes.append("The log has an order but no clock: its times are positions.")
    return notes
