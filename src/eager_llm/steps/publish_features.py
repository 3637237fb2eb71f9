"""The step `publish`: the features go into the store, and the examples come out of it."""

from pathlib import Path

from eager_llm.core.files import whole_file
from eager_llm.core.progress import say
from eager_llm.data.splits import SPLITS, assign_splits, targets
from eager_llm.data.tables import Tables
from eager_llm.features.feature_store import Features
from eager_llm.settings import Settings
from eager_llm.steps.memory import within_memory
from eager_llm.steps.quarantine import quarantine_of
from eager_llm.steps.timing import timed
from eager_llm.validation.gates import run_history_gates
from eager_llm.validation.report import require_passed


@timed
@within_memory("publish_features", "data.memory_gb")
def publish(
    tables: Path, settings: Settings, repository: Path, features: Path, out: Path, report: Path
) -> dict[str, float]:
    """Publish the features, and write each target with its point-in-time history.

    Args:
        tables: folder of the validated tables.
        repository: folder of the feature definitions.
        features: folder of the published features.
        out: Parquet of the examples; see `read_examples`.
        report: the page of the histories' gates, written either way.

    Returns:
        The examples of each split, and the rows published of each view.

    Raises:
        GateError: a gate of the histories failed that nobody waived.
    """
    data = settings.data
    log = assign_splits(Tables.load(tables), data)
    store = Features(repository, features)
    rows_of_view = store.publish(tables, data.max_history)
    changes = ", ".join(f"{rows} rows of {view}" for view, rows in rows_of_view.items())
    say(f"published: {changes or 'nothing new'}")
    examples = store.histories(targets(log, data.max_history))
    with whole_file(out) as draft:
        examples.to_parquet(draft, index=False)
        results = run_history_gates(
            draft, settings.gates, data.max_history, data.memory_gb, quarantine_of(report)
        )
        require_passed(results, report, "History gates")
    counts = examples["split"].value_counts()
    figures: dict[str, float] = {}
    for split in SPLITS:
        figures[f"{split}_examples"] = int(counts.get(split, 0))
    say("examples: " + ", ".join(f"{counts.get(split, 0)} {split}" for split in SPLITS))
    for view, rows in rows_of_view.items():
        figures[f"{view}_published"] = rows
    return figures
