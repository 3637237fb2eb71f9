"""The step `pack`: the bundle that serving loads."""

from pathlib import Path
from typing import Any

from eager_llm.bundle.gates import run_bundle_gates
from eager_llm.bundle.layout import WAIVED_GATES
from eager_llm.bundle.pack import pack_bundle
from eager_llm.core.files import read_json
from eager_llm.data.tables import Tables
from eager_llm.settings import Settings
from eager_llm.steps.examples import read_examples
from eager_llm.steps.memory import within_memory
from eager_llm.steps.quarantine import quarantine_of
from eager_llm.steps.timing import timed
from eager_llm.validation.report import require_passed, waived_names


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
    """Pack the bundle if its gates hold.

    Args:
        tables: folder of the validated tables.
        examples: of `publish`; the training split gives the fallback ranking.
        item_index: Parquet of the index.
        model: folder of the tuned model.
        metrics: JSON of `evaluate`.
        out: folder of the bundle.
        report: the page of the gates, written either way.

    Raises:
        GateError: a gate of the bundle failed that nobody waived.
    """

    def check(bundle: Path) -> dict[str, Any]:
        """Return the manifest's record of the gates that a person has waived."""
        results = run_bundle_gates(bundle, settings.acceptance, quarantine_of(report))
        require_passed(results, report, "Bundle gates")
        waived = waived_names(results)
        return {WAIVED_GATES: waived} if waived else {}

    loaded = Tables.load(tables)
    pack_bundle(
        out,
        model,
        item_index,
        loaded.items,
        read_examples(examples),
        settings,
        read_json(metrics),
        loaded.metadata,
        check,
    )
