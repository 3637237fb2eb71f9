"""Steps of a night: what arrived joins the log, new items get paths, the running model is tuned further."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
from eager_llm.core.files import copy_into, read_json, whole_file, whole_folder, write_json
from eager_llm.core.progress import say
from eager_llm.data.splits import KNOWN_UNTIL
from eager_llm.data.tables import Tables, read_metadata, write_metadata
from eager_llm.features.feature_store import Features
from eager_llm.index.gates import run_index_gates
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.versions import grow
from eager_llm.item_prior.table import FILE as NEIGHBOURS
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.release.run_folder import RunFolder
from eager_llm.settings import Settings
from eager_llm.steps.data import ingest, read_examples, rows_of
from eager_llm.steps.model import (
    embed,
    index,
    item_prior_of,
    save_embeddings,
    tune,
    tuning_key,
)
from eager_llm.steps.timing import timed
from eager_llm.tuning.stages import stage_two
from eager_llm.tuning.trajectories import build_trajectories
from eager_llm.validation.drift import shift_since
from eager_llm.validation.report import require_passed

BUILD, ANNEAL = "build", "anneal"


@dataclass(frozen=True)
class Plan:
    """What a night does, and why; kept in its bundle.

    Attributes:
        action: `anneal` the running model, or `build` everything anew.
        reasons: why it is built anew; empty where it is not.
        drift: each measure with its limit.
        built_until: end of the log that the tree in use was built on, in ISO form.
        built_items: items that it was built on.
        trained_until: last moment that the model was trained on, once the night is over.
        new_items: items that got a path tonight.
    """

    action: str
    reasons: list[str]
    drift: dict[str, dict[str, float]]
    built_until: str
    built_items: int
    trained_until: str
    new_items: list[str]

    @classmethod
    def load(cls, file: Path) -> "Plan":
        """Read a plan."""
        return cls(**read_json(file))

    def save(self, file: Path) -> None:
        """Write the plan as JSON."""
        write_json(file, asdict(self))


@timed
def ingest_increment(arrivals: str, run: Path, settings: Settings, out: Path) -> dict[str, Any]:
    """Join what arrived to the accepted log, under the rules of every import; on the first night it is the log.

    Events that are there already are dropped as duplicates, so that a night can be repeated.

    Args:
        arrivals: folder of the new events and items, in any form that `eager-llm import` reads.

    Raises:
        UserError: they are broken, or the log has no clock.
    """
    accepted, running = RunFolder(run).accepted, RunFolder(run).running
    if accepted is None:
        return ingest(arrivals, settings, out)
    before = read_metadata(accepted)
    if "last_event" not in before:
        raise UserError(
            f"{accepted}: the log has an order but no clock, so that nothing can be said to be new"
        )
    copy_into(accepted, out)
    metadata = ingest(arrivals, settings, out, append=True)
    kept = {name: before[name] for name in ("source", "made_up") if name in before}
    counts = {f"new_{name}": metadata[name] - before[name] for name in ("events", "users", "items")}
    # What the running bundle has not seen: also the events of nights that were refused since.
    known_until = (
        read_json(running / "manifest.json")["data"]["last_event"]
        if running
        else before["last_event"]
    )
    metadata = {**metadata, **kept, **counts, KNOWN_UNTIL: known_until}
    write_metadata(out, metadata)
    say(
        f"arrived: {counts['new_events']} events, {counts['new_users']} users, {counts['new_items']} items"
    )
    return metadata


@timed
def update_index(
    tables: Path,
    examples: Path,
    run: Path,
    settings: Settings,
    repository: Path,
    features: Path,
    out: Path,
    embeddings: Path,
    plan: Path,
    report: Path,
) -> dict[str, float]:
    """Give new items paths without moving the others, or build the index anew where the drift says so."""
    running, metadata, asked = (
        RunFolder(run).running,
        read_metadata(tables),
        read_examples(examples),
    )
    trained_until = str(asked.loc[asked["split"] == "train", "moment"].max().isoformat())
    made = Plan(
        BUILD,
        ["nothing runs yet"],
        {},
        metadata["last_event"],
        metadata["items"],
        trained_until,
        [],
    )
    if running is not None:
        before, known = standing(running), ItemIndex.load(running / "item_index.parquet")
        loaded = Tables.load(tables)
        item_ids = loaded.items["item_id"].tolist()
        found = embed(loaded, asked, settings, prepare_torch(settings.threads))
        grown, unfit = grow(known, item_ids, found)
        new = grown.item_ids[
            len(grown.item_ids) - sum(item not in known.rows for item in item_ids) :
        ]
        drift = _drift(tables, before, len(grown.item_ids), unfit, settings)
        reasons = _reasons(drift, settings)
        made = replace(
            made, action=BUILD if reasons else ANNEAL, reasons=reasons, drift=drift, new_items=new
        )
    made.save(plan)
    if made.action == BUILD:
        say(f"everything is built anew: {'; '.join(made.reasons)}")
        return index(tables, examples, settings, repository, features, out, embeddings, report)
    replace(made, built_until=before.built_until, built_items=before.built_items).save(plan)
    rows = {item: row for row, item in enumerate(item_ids)}
    order = [rows[item] for item in grown.item_ids]
    files = save_embeddings({source: points[order] for source, points in found.items()}, embeddings)
    with whole_file(out) as draft:
        grown.save(draft)
        # Leaves are filled by nearness, so shares are not even; and embeddings lie in the order of the index.
        results = run_index_gates(
            draft,
            tables / "items.parquet",
            files,
            False,
            settings.gates,
            settings.data.memory_gb,
            rows_of(report),
        )
        require_passed(results, report, "Index gates")
    tokens = [grown.tokens(item) for item in grown.item_ids]
    service = Features(repository, features).publish_index(
        grown.item_ids, tokens, grown.version_name
    )
    say(
        f"item index: {len(new)} new items, {len(grown.item_ids)} in all, none moved; feature service {service}"
    )
    return {"items": len(grown.item_ids), "new_items": len(new), "unfit": unfit}


def standing(bundle: Path) -> Plan:
    """Return the plan of a running bundle; one that no night has made was built on all of its log."""
    if bundle_file(bundle, REFRESH_PLAN).is_file():
        return Plan.load(bundle_file(bundle, REFRESH_PLAN))
    data = read_json(bundle / "manifest.json")["data"]
    if "last_event" not in data:
        raise UserError(
            f"{bundle}: its log has an order but no clock, so that nothing can be said to be new"
        )
    return Plan(BUILD, [], {}, data["last_event"], data["items"], data["last_event"], [])


def _drift(
    tables: Path, before: Plan, items: int, unfit: float, settings: Settings
) -> dict[str, dict[str, float]]:
    """Return each measure of drift since the build with its limit."""
    limits = settings.refresh
    shift = shift_since(tables, before.built_until, settings.data.memory_gb)
    measured = {
        "items new since the build": (items / before.built_items - 1, limits.max_new_items),
        **{f"shift of the {name}": (value, limits.max_shift) for name, value in shift.items()},
        "paths that no longer fit": (unfit, limits.max_unfit),
    }
    return {
        name: {"found": round(value, 6), "most": most} for name, (value, most) in measured.items()
    }


def _reasons(drift: dict[str, dict[str, float]], settings: Settings) -> list[str]:
    if settings.refresh.rebuild == "always":
        return ["refresh.rebuild = always"]
    passed = [
        f"{name}: {row['found']:.3f}, at most {row['most']:g}"
        for name, row in drift.items()
        if row["found"] > row["most"]
    ]
    return [] if settings.refresh.rebuild == "never" else passed


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
    """Anneal the running model's adapter on what is fresh, or tune a new model where the index was built anew."""
    made = Plan.load(plan)
    if made.action == BUILD:
        figures = tune(tables, examples, item_index, embeddings, settings, checkpoints, out)
        made.save(out / REFRESH_PLAN)
        return figures
    running = RunFolder(run).running
    if running is None:
        raise UserError(f"{run}: the running bundle is gone since the index was made")
    return _anneal(tables, examples, item_index, made, running, settings, checkpoints, out)


def _anneal(
    tables: Path, examples: Path, item_index: Path, made: Plan, running: Path,
    settings: Settings, checkpoints: Path, out: Path,
) -> dict[str, float]:  # fmt: skip
    """Tune the running adapter on fresh trajectories and as many older ones as `refresh.replay` says."""
    refresh = settings.refresh
    settings = settings.replace(
        annealing=settings.annealing.replace(
            epochs=refresh.epochs, learning_rate=refresh.learning_rate
        ),
    )
    device = prepare_torch(settings.threads)
    loaded, asked, built = Tables.load(tables), read_examples(examples), ItemIndex.load(item_index)
    model, tokenizer = load_tuned(running, built, device, trainable=True)
    held_out = [item for item in held_out_items(running) if item in built.rows]
    prompt_builder = PromptBuilder(
        tokenizer,
        built,
        loaded.items,
        settings.tuning.text_tokens,
        bundle_file(running, TEMPLATES),
        {built.rows[i] for i in held_out},
    )
    chosen = fresh_examples(
        asked, pd.Timestamp(standing(running).trained_until), refresh.replay, settings.seed
    )
    folder = checkpoints / tuning_key([examples, item_index, running / "manifest.json"], settings)
    neighbours = item_prior_of(asked, loaded.items, built, settings)
    with whole_folder(out) as draft:
        for part in ("backbone", "tokenizer"):
            copy_into(running / part, draft / part)
        shutil.copyfile(bundle_file(running, TEMPLATES), draft / TEMPLATES)
        write_json(draft / LANGUAGE, read_language(running))
        adapted, curve = stage_two(
            model, prompt_builder, build_trajectories(chosen, built, None), settings, folder
        )
        if not np.isfinite(curve[-1]["loss"]):
            raise UserError(
                f"refresh.learning_rate = {refresh.learning_rate:g}: annealing diverged, its loss is {curve[-1]['loss']}; "
                "choose a lower rate"
            )
        adapted.save_pretrained(draft / ADAPTER)
        neighbours.save(draft / NEIGHBOURS)
        mark_tuned(draft, built, held_out)
        write_json(draft / CURVES, {"annealing": curve})
        made.save(draft / REFRESH_PLAN)
    shutil.rmtree(folder)
    return {"trajectories": len(chosen), "loss": curve[-1]["loss"]}


def fresh_examples(
    examples: pd.DataFrame, trained_until: pd.Timestamp, replay: float, seed: int
) -> pd.DataFrame:
    """Return the training targets after a moment, and `replay` times as many older ones, drawn by lot.

    Raises:
        UserError: no training target is later.
    """
    train = examples[examples["split"] == "train"]
    later = train["moment"] > trained_until
    if not later.any():
        raise UserError(
            f"no training event is later than {trained_until}, up to which the running model was trained; "
            "wait for more events, or lower refresh.validation_share and refresh.test_share"
        )
    older = train[~later]
    drawn = older.sample(min(len(older), round(replay * int(later.sum()))), random_state=seed)
    say(f"{int(later.sum())} fresh trajectories, {len(drawn)} older ones")
    return pd.concat([train[later], drawn], ignore_index=True)
