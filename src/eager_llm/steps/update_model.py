"""The step `update_model`: the running model learns what is new, or a new model is tuned."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from eager_llm.backbone.tuned_model import (
    ADAPTER,
    TEMPLATES,
    held_out_items,
    load_tuned,
    mark_tuned,
)
from eager_llm.bundle.layout import CURVES, LANGUAGE, REFRESH_PLAN, bundle_file, read_language
from eager_llm.core.compute import prepare_torch
from eager_llm.core.errors import UserError
from eager_llm.core.files import copy_into, whole_folder, write_json
from eager_llm.core.progress import say
from eager_llm.data.tables import Tables
from eager_llm.index.item_index import ItemIndex
from eager_llm.item_prior.table import FILE as ITEM_PRIOR
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.release.run_folder import RunFolder
from eager_llm.settings import Settings
from eager_llm.steps.examples import read_examples
from eager_llm.steps.item_prior import fit_item_prior
from eager_llm.steps.refresh_plan import BUILD, Plan, running_plan
from eager_llm.steps.timing import timed
from eager_llm.steps.tune_model import tune, tuning_key
from eager_llm.tuning.stages import Curve, stage_two
from eager_llm.tuning.trajectories import build_trajectories


@timed
def update_model(
    tables: Path,
    examples: Path,
    item_index: Path,
    embeddings: Path,
    plan: Path,
    run: Path,
    settings: Settings,
    checkpoints: Path,
    out: Path,
) -> dict[str, float]:
    """Anneal the running model's adapter on new events, or tune a new model on a new index.

    Args:
        plan: JSON of `update_index`.
        run: folder of the run, with the running bundle.
        tables, examples, item_index, embeddings, checkpoints, out: see `tune`.

    Returns:
        The trajectories and the last loss; or the figures of `tune`.

    Raises:
        UserError: the running bundle is gone, no event is new, or annealing diverged.
    """
    refresh_plan = Plan.load(plan)
    if refresh_plan.action == BUILD:
        figures = tune(tables, examples, item_index, embeddings, settings, checkpoints, out)
        refresh_plan.save(out / REFRESH_PLAN)
        return figures
    running = RunFolder(run).running
    if running is None:
        raise UserError(f"{run}: the running bundle is gone since the index was made")
    settings = _annealing_settings(settings)
    key = tuning_key([examples, item_index, running / "manifest.json"], settings)
    folder = checkpoints / key
    log = Tables.load(tables)
    index = ItemIndex.load(item_index)
    table = read_examples(examples)
    figures = _anneal(running, log, table, index, refresh_plan, settings, folder, out)
    shutil.rmtree(folder)
    return figures


def _annealing_settings(settings: Settings) -> Settings:
    """Return the settings with the epochs and the learning rate of a refresh."""
    refresh = settings.refresh
    annealing = settings.annealing.replace(
        epochs=refresh.epochs, learning_rate=refresh.learning_rate
    )
    return settings.replace(annealing=annealing)


def _anneal(
    bundle: Path,
    log: Tables,
    examples: pd.DataFrame,
    index: ItemIndex,
    plan: Plan,
    settings: Settings,
    checkpoints: Path,
    out: Path,
) -> dict[str, float]:
    """Tune the adapter of the running bundle on new trajectories, and write the model.

    As many older trajectories join as `refresh.replay` says.
    """
    device = prepare_torch(settings.threads)
    model, tokenizer = load_tuned(bundle, index, device, trainable=True)
    held_out = [item for item in held_out_items(bundle) if item in index.rows]
    prompt_builder = PromptBuilder(
        tokenizer,
        index,
        log.items,
        settings.tuning.text_tokens,
        bundle_file(bundle, TEMPLATES),
        {index.rows[item] for item in held_out},
    )
    trained_until = pd.Timestamp(running_plan(bundle).trained_until)
    sample = fresh_examples(examples, trained_until, settings.refresh.replay, settings.seed)
    item_prior = fit_item_prior(examples, log.items, index, settings)
    with whole_folder(out) as draft:
        _copy_unchanged(bundle, draft)
        train = build_trajectories(sample, index, None)
        adapted, curve = stage_two(model, prompt_builder, train, settings, checkpoints)
        _require_convergence(curve, settings)
        adapted.save_pretrained(draft / ADAPTER)
        item_prior.save(draft / ITEM_PRIOR)
        mark_tuned(draft, index, held_out)
        write_json(draft / CURVES, {"annealing": curve})
        plan.save(draft / REFRESH_PLAN)
    return {"trajectories": len(sample), "loss": curve[-1]["loss"]}


def _copy_unchanged(bundle: Path, draft: Path) -> None:
    """Copy what annealing leaves as it is."""
    for name in ("backbone", "tokenizer"):
        copy_into(bundle / name, draft / name)
    shutil.copyfile(bundle_file(bundle, TEMPLATES), draft / TEMPLATES)
    write_json(draft / LANGUAGE, read_language(bundle))


def _require_convergence(curve: Curve, settings: Settings) -> None:
    """Refuse a model whose loss is not finite.

    Raises:
        UserError: names the learning rate.
    """
    loss = curve[-1]["loss"]
    if not np.isfinite(loss):
        raise UserError(
            f"refresh.learning_rate = {settings.refresh.learning_rate:g}: annealing diverged, its "
            f"loss is {loss}; choose a lower rate"
        )


def fresh_examples(
    examples: pd.DataFrame, trained_until: pd.Timestamp, replay: float, seed: int
) -> pd.DataFrame:
    """Return the training targets after a moment, and a random sample of the older ones.

    Args:
        replay: how many older targets join, as a multiple of the new ones.
        seed: draws them.

    Raises:
        UserError: no training target is later.
    """
    train = examples[examples["split"] == "train"]
    is_new = train["moment"] > trained_until
    if not is_new.any():
        raise UserError(
            f"no training event is later than {trained_until}, up to which the running model was "
            "trained; wait for more events, or lower refresh.validation_share and "
            "refresh.test_share"
        )
    older = train[~is_new]
    new_count = int(is_new.sum())
    older_count = min(len(older), round(replay * new_count))
    sample = older.sample(older_count, random_state=seed)
    say(f"{new_count} fresh trajectories, {len(sample)} older ones")
    return pd.concat([train[is_new], sample], ignore_index=True)
