"""The step `validate`: the gates of the tables."""

from pathlib import Path

from eager_llm.core.files import copy_into
from eager_llm.data.tables import read_metadata, require_tables, write_metadata
from eager_llm.release.run_folder import RunFolder
from eager_llm.settings import GateSettings, Settings
from eager_llm.steps.memory import within_memory
from eager_llm.steps.quarantine import quarantine_of
from eager_llm.steps.timing import timed
from eager_llm.validation.drift import profile_folder, write_profile
from eager_llm.validation.gates import run_gates
from eager_llm.validation.report import require_passed, waived_names


@timed
@within_memory("validate_data", "data.memory_gb")
def validate(
    tables: Path, settings: Settings, out: Path, report: Path, run: str = ""
) -> dict[str, float]:
    """Run the gates; pass the tables on only if each has passed or a person has waived it.

    The report is kept either way, and beside it, in a folder named after it, the rows that broke a
    gate.

    Args:
        tables: folder of the tables, from `ingest`.
        out: folder for the validated tables.
        report: the page to write.
        run: folder of a run, or "". The log that was accepted there is the baseline where the
            settings name none.

    Returns:
        How many gates there are, and how many have passed.

    Raises:
        GateError: a gate failed that nobody waived.
        UserError: there are no tables.
    """
    require_tables(tables)
    memory = settings.data.memory_gb
    gates = _with_baseline(settings.gates, run)
    needs_texts = "semantic" in settings.index.sources
    results = run_gates(tables, gates, needs_texts, memory, quarantine_of(report))
    require_passed(results, report)
    copy_into(tables, out)
    write_profile(out, profile_folder(out, memory))
    waived = waived_names(results)
    if waived:
        metadata = read_metadata(out)
        write_metadata(out, {**metadata, "waived_gates": waived})
    passed = sum(result.passed for result in results)
    return {"gates": len(results), "gates_passed": passed}


def _with_baseline(gates: GateSettings, run: str) -> GateSettings:
    """Compare with the accepted log of a run where the settings name no baseline."""
    if gates.baseline or not run:
        return gates
    accepted = RunFolder(Path(run)).accepted
    if accepted is None:
        return gates
    return gates.replace(baseline=str(accepted))
