"""Steps on the log: ingest, validate, publish features."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from eager_llm.core.duckdb_engine import engine
from eager_llm.core.errors import UserError
from eager_llm.core.files import (
    copy_into,
    fetch_folder,
    in_store,
    whole_file,
    whole_folder,
)
from eager_llm.core.progress import say
from eager_llm.data.demo_shop import demo_shop
from eager_llm.data.importing.column_mapping import ColumnMapping
from eager_llm.data.importing.importer import stage
from eager_llm.data.importing.on_ray import import_workers
from eager_llm.data.prepare import clean, save
from eager_llm.data.splits import SPLITS, assign_splits, targets
from eager_llm.data.staging import stage_folder, stage_tables
from eager_llm.data.tables import (
    Tables,
    metadata_file,
    read_metadata,
    require_tables,
    write_metadata,
)
from eager_llm.features.feature_store import Features
from eager_llm.release.run_folder import RunFolder
from eager_llm.settings import Settings
from eager_llm.steps.memory import within_memory
from eager_llm.steps.timing import timed
from eager_llm.validation.drift import profile_folder, write_profile
from eager_llm.validation.gates import run_gates, run_history_gates
from eager_llm.validation.report import require_passed

DEMO = "demo"


@timed
@within_memory("ingest_data", "data.memory_gb")
def ingest(
    source: str,
    settings: Settings,
    out: Path,
    mapping: ColumnMapping | None = None,
    append: bool = False,
) -> dict[str, Any]:
    """Import `source` (a folder or its URI, a database, or `demo`, the made-up shop), clean it, and return its metadata.

    Args:
        mapping: what the source's columns and files are called; None: its import.yaml, or its form.
        append: add to the tables in `out`, and to what they had set quarantine.
    """
    _require_replaceable(out, source)
    with (
        engine(settings.data.memory_gb, out.parent) as connection,
        import_workers(settings.data, out) as workers,
    ):
        read_events = workers.read if workers else None
        clean_events = workers.clean if workers else None
        if source == DEMO:
            shop = demo_shop(settings.seed)
            stage_tables(connection, shop)
            origin = shop.metadata
        else:
            with _at_hand(source, workers.folder if workers else out.parent) as place:
                origin = stage(connection, place, settings.data, mapping, read_events)
            if in_store(source):
                origin["source"] = source
        if append:
            stage_folder(connection, out)
        metadata = {
            **origin,
            **clean(connection, settings.data, not origin.get("ordinal_time"), clean_events),
        }
        if not metadata["events"]:
            raise UserError(
                f"{source}: no event is left after the {settings.data.min_interactions}-core of "
                f"{metadata['events_read']} events by {metadata['users_outside_core_dropped']} users; "
                "bring more events, or lower data.min_interactions"
            )
        with whole_folder(out) as draft:
            save(connection, draft, metadata, in_order=workers is not None)
    say(
        f"{metadata['source']}: {metadata['events']} events, {metadata['users']} users, {metadata['items']} items"
    )
    return metadata


@contextmanager
def _at_hand(source: str, scratch: Path) -> Iterator[str]:
    """Yield where the log can be read from: a copy here of what lies in an object store, else the source itself."""
    if not in_store(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix=".log-", dir=scratch) as folder:
        yield str(fetch_folder(source, Path(folder) / "log", "the log"))


def _require_replaceable(out: Path, source: str) -> None:
    """Refuse to put tables in the place of what an import has not made, the log itself above all.

    Raises:
        UserError: `out` holds the source, or other files.
    """
    if source != DEMO and Path(source).resolve().is_relative_to(out.resolve()):
        raise UserError(f"{out}: the log lies there; name another folder for the tables")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder for the tables")
    if out.is_dir() and any(out.iterdir()) and not metadata_file(out).is_file():
        raise UserError(
            f"{out}: holds other files, which an import would replace; name a folder of its own"
        )


@timed
@within_memory("validate_data", "data.memory_gb")
def validate(
    tables: Path, settings: Settings, out: Path, report: Path, run: str = ""
) -> dict[str, float]:
    """Run the gates; pass the tables on only if all hold, or a person waived those that do not.

    The report is kept either way, and beside it, in a folder named after it, the rows that broke a gate.

    Args:
        run: folder of a run, or none; the log that was accepted there is the baseline where the settings name none.
    """
    require_tables(tables)
    quarantine, gates = rows_of(report), settings.gates
    if run and not gates.baseline and (accepted := RunFolder(Path(run)).accepted):
        gates = gates.replace(baseline=str(accepted))
    results = run_gates(
        tables, gates, "semantic" in settings.index.sources, settings.data.memory_gb, quarantine
    )
    require_passed(results, report)
    copy_into(tables, out)
    write_profile(out, profile_folder(out, settings.data.memory_gb))
    waived = [result.name for result in results if result.waived]
    if waived:
        metadata = read_metadata(out)
        write_metadata(out, {**metadata, "waived_gates": waived})
    return {"gates": len(results), "gates_passed": sum(result.passed for result in results)}


@timed
@within_memory("publish_features", "data.memory_gb")
def publish(
    tables: Path, settings: Settings, repository: Path, features: Path, out: Path, report: Path
) -> dict[str, float]:
    """Publish the features, and write the examples, each target with its point-in-time history, if their gates hold."""
    loaded = Tables.load(tables)
    store = Features(repository, features)
    parted = assign_splits(loaded, settings.data)
    changed = store.publish(tables, settings.data.max_history)
    say(
        "published: "
        + (", ".join(f"{rows} rows of {view}" for view, rows in changed.items()) or "nothing new")
    )
    examples = store.histories(targets(parted, settings.data.max_history))
    with whole_file(out) as draft:
        examples.to_parquet(draft, index=False)
        data = settings.data
        results = run_history_gates(
            draft, settings.gates, data.max_history, data.memory_gb, rows_of(report)
        )
        require_passed(results, report, "History gates")
    counts = examples["split"].value_counts()
    say("examples: " + ", ".join(f"{counts.get(part, 0)} {part}" for part in SPLITS))
    published = {f"{view}_published": rows for view, rows in changed.items()}
    return {**{f"{part}_examples": int(counts.get(part, 0)) for part in SPLITS}, **published}


def rows_of(report: Path) -> Path:
    """Return the folder beside a report for the rows that broke a gate."""
    return report.with_name(f"{report.name}-rows")


def read_examples(path: Path) -> pd.DataFrame:
    """Read what `publish` wrote: `user_id`, `item_id`, `moment`, `split`, `history`."""
    examples = pd.read_parquet(path)
    # The column's name in earlier versions.
    return examples.rename(columns={"part": "split"})
