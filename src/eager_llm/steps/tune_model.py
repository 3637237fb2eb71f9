"""The step `tune`: both stages, here or on Ray Train's workers."""

import hashlib
import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from eager_llm.backbone.loading import load_backbone
from eager_llm.backbone.tuned_model import ADAPTER, save_tuned
from eager_llm.bundle.layout import CURVES, LANGUAGE
from eager_llm.core.compute import prepare_torch
from eager_llm.core.files import content_digest, whole_folder, write_json
from eager_llm.core.progress import say
from eager_llm.data.tables import TEXT_COLUMNS, Tables
from eager_llm.decoding.recommender import Recommender
from eager_llm.evaluation.evaluate import evaluate_model
from eager_llm.evaluation.language import LanguageProbe
from eager_llm.index.item_index import ItemIndex
from eager_llm.item_prior.table import FILE as ITEM_PRIOR
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.prompts.templates import template_file
from eager_llm.settings import Settings
from eager_llm.steps.distributed import distributed
from eager_llm.steps.examples import read_examples, tuning_sample
from eager_llm.steps.item_prior import fit_item_prior
from eager_llm.steps.memory import within_memory
from eager_llm.steps.timing import timed
from eager_llm.tuning.distributed_context import DistributedContext
from eager_llm.tuning.examples import INTENTION_TASKS, held_out_rows
from eager_llm.tuning.on_ray import on_workers
from eager_llm.tuning.stages import Curve, stage_one, stage_two
from eager_llm.tuning.trajectories import build_trajectories

PATHS = ("tables", "examples", "item_index", "embeddings", "checkpoints", "out")


@timed
@distributed(
    inputs=("tables", "examples", "item_index", "embeddings"),
    outputs=("out",),
    shared_folders=("checkpoints",),
)
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
    """Run both stages, in this process or on Ray Train's workers, which must reach every path.

    Tuning goes on from the checkpoint of the same inputs and settings if there is one.

    Args:
        tables: folder of the validated tables.
        examples: of `publish`.
        item_index: Parquet of the index.
        embeddings: folder with one .npy of each source.
        checkpoints: folder to resume from.
        out: folder for the tuned model.

    Returns:
        The model's parameters, and the last loss of stage 1.
    """
    paths = (tables, examples, item_index, embeddings, checkpoints, out)
    config: dict[str, Any] = {"settings": settings.to_dict()}
    for name, path in zip(PATHS, paths, strict=True):
        config[name] = str(path.resolve())
    tuning = settings.tuning
    if tuning.workers:
        return on_workers(tune_on_worker, config, tuning.workers, tuning.restarts, checkpoints)
    return tune_on_worker(config)


@dataclass(frozen=True)
class _Inputs:
    """What `tune` reads.

    Attributes:
        embeddings: source -> float32 [items, dimensions].
    """

    settings: Settings
    tables: Tables
    examples: pd.DataFrame
    index: ItemIndex
    embeddings: dict[str, np.ndarray]
    device: str

    @classmethod
    def load(cls, config: dict[str, Any]) -> Self:
        """Read the inputs that a configuration names."""
        settings = Settings.from_dict(config["settings"])
        device = prepare_torch(settings.threads)
        embeddings: dict[str, np.ndarray] = {}
        for source in settings.index.sources:
            file = Path(config["embeddings"]) / f"{source}.npy"
            embeddings[source] = np.load(file, allow_pickle=False)
        return cls(
            settings,
            Tables.load(Path(config["tables"])),
            read_examples(Path(config["examples"])),
            ItemIndex.load(Path(config["item_index"])),
            embeddings,
            device,
        )

    def item_prior(self) -> ItemPriorTable:
        """Build the item prior that goes beside the model."""
        return fit_item_prior(self.examples, self.tables.items, self.index, self.settings)


class _Tuning:
    """A model and what tunes it.

    Args:
        inputs: of the step.
        checkpoints: folder of this job's checkpoints.

    Attributes:
        model: the backbone, tuned in place.
        recommender: decodes with the model, for validation.
        curves: stage -> a row an epoch.
        adapted: the model with its adapter, once stage 2 is over.
    """

    def __init__(self, inputs: _Inputs, checkpoints: Path) -> None:
        settings = inputs.settings
        self.inputs = inputs
        self.checkpoints = checkpoints
        self.model, self.tokenizer = load_backbone(
            settings.backbone,
            inputs.index,
            tokenizer_texts(inputs.tables, settings),
            settings.seed,
        )
        # A model that is to be spread over the workers waits in main memory.
        self.model.to("cpu" if settings.tuning.sharded else inputs.device)
        self.prompt_builder = PromptBuilder(
            self.tokenizer,
            inputs.index,
            inputs.tables.items,
            settings.tuning.text_tokens,
            template_file(settings),
            held_out_rows(inputs.index, settings.tuning, settings.seed),
        )
        self.train = build_trajectories(inputs.examples, inputs.index, inputs.tables.intentions)
        self.recommender = Recommender(
            self.model,
            self.prompt_builder,
            inputs.index,
            settings.decoding,
            settings.data.max_history,
        )
        items = settings.tuning.language_items
        self.probe = LanguageProbe(self.prompt_builder, items, settings.seed)
        self.curves: dict[str, Curve] = {}
        self.adapted: Any = None

    def measure_language(self) -> dict[str, float]:
        """Return what the model keeps of language."""
        return self.probe.measure(self.recommender)

    def run_stage_one(self) -> None:
        """Tune the backbone; a sample of the validation split measures NDCG@10 on the way."""
        settings = self.inputs.settings
        sample = tuning_sample(self.inputs.examples, settings)
        self.curves["stage-1"] = stage_one(
            self.model,
            self.prompt_builder,
            self.train,
            self.inputs.embeddings,
            settings,
            self.checkpoints,
            partial(validation_ndcg, self.recommender, sample),
        )

    def run_stage_two(self) -> None:
        """Tune the adapter."""
        self.adapted, self.curves["stage-2"] = stage_two(
            self.model,
            self.prompt_builder,
            self.train,
            self.inputs.settings,
            self.checkpoints,
        )

    def save_backbone(self, folder: Path) -> None:
        """Write the backbone, its tokenizer and its templates."""
        save_tuned(
            self.model,
            self.tokenizer,
            self.inputs.index,
            folder,
            template_file(self.inputs.settings),
            self.prompt_builder.held_out,
        )


def tune_on_worker(config: dict[str, Any]) -> dict[str, float]:
    """Do one worker's share of `tune`; the main process writes.

    Args:
        config: the settings and paths of `tune`, as plain values.
    """
    context = DistributedContext()
    inputs = _Inputs.load(config)
    settings = inputs.settings
    checkpoints = _checkpoint_folder(config, settings)
    tuning = _Tuning(inputs, checkpoints)
    language: dict[str, dict[str, float]] = {}
    item_prior: ItemPriorTable | None = None
    if context.is_main_process:
        if inputs.tables.intentions is None:
            say(f"no intentions table: the tasks {' and '.join(INTENTION_TASKS)} are left out")
        language["before stage 1"] = tuning.measure_language()
        # What it may refuse is refused before the hours of training.
        item_prior = inputs.item_prior()
    tuning.run_stage_one()
    target = whole_folder(Path(config["out"])) if context.is_main_process else nullcontext()
    with target as draft:
        if draft and item_prior is not None:
            language["after stage 1"] = tuning.measure_language()
            write_json(draft / LANGUAGE, language)
            tuning.save_backbone(draft)
            item_prior.save(draft / ITEM_PRIOR)
        if settings.annealing.epochs:
            tuning.run_stage_two()
        if draft:
            if tuning.adapted is not None:
                tuning.adapted.save_pretrained(draft / ADAPTER)
            write_json(draft / CURVES, tuning.curves)
    context.broadcast(None)
    if context.is_main_process:
        # A finished job leaves nothing that a later one could mistake for its own.
        shutil.rmtree(checkpoints)
    parameters = sum(parameter.numel() for parameter in tuning.model.parameters())
    return {"parameters": parameters, "loss": tuning.curves["stage-1"][-1]["loss"]}


def _checkpoint_folder(config: dict[str, Any], settings: Settings) -> Path:
    """Return the folder of the checkpoints: another index or setting starts anew."""
    inputs = [
        Path(config["tables"]) / "items.parquet",
        Path(config["examples"]),
        Path(config["item_index"]),
        Path(config["embeddings"]),
    ]
    return Path(config["checkpoints"]) / tuning_key(inputs, settings)


def tuning_key(inputs: list[Path], settings: Settings) -> str:
    """Return a name for a tuning job, from its inputs and settings."""
    values = {**settings.to_dict(), "ray": None}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in [*inputs, template_file(settings)]:
        digest.update(content_digest(path).encode())
    return digest.hexdigest()[:16]


def tokenizer_texts(tables: Tables, settings: Settings) -> list[str]:
    """Return the texts that a new tokenizer is trained on: all that the tasks are made of."""
    texts: list[str] = []
    for name in TEXT_COLUMNS:
        texts += [text for text in tables.items[name] if text]
    if tables.intentions is not None:
        for name in ("intention", "preference"):
            texts += tables.intentions[name].unique().tolist()
    templates = template_file(settings).read_text(encoding="utf-8")
    return [*texts, templates]


def validation_ndcg(recommender: Recommender, examples: pd.DataFrame) -> float:
    """Return NDCG@10 of a recommender on validation examples."""
    return evaluate_model(recommender, examples, "validation", show=False)["ndcg@10"]
