"""The gates between ingestion and everything after: on prepared tables, and on histories."""

from pathlib import Path

from eager_llm.core.duckdb_engine import engine, view_file
from eager_llm.data.tables import Tables
from eager_llm.settings import GateSettings
from eager_llm.validation.drift import drift_gates
from eager_llm.validation.expectations import history_gates, item_gates, log_gates
from eager_llm.validation.gate import GateResult
from eager_llm.validation.suite import run_suite


def run_gates(
    tables: Tables | Path,
    settings: GateSettings,
    needs_text: bool,
    memory_gb: float = 2.0,
    quarantine: Path | None = None,
) -> list[GateResult]:
    """Check the prepared tables, in memory or in their folder.

    Args:
        tables: the tables, or their folder; a folder may be larger than memory.
        settings: the thresholds, and the gates that a person waived.
        needs_text: whether the semantic source is used, so that items need text.
        memory_gb: memory that the engine may take before it spills to disk.
        quarantine: folder for the rows that break a gate; None: they are only named.

    Raises:
        UserError: a waived name is no gate's, or `gates.baseline` holds no accepted run.
    """
    with engine(memory_gb) as connection:
        if isinstance(tables, Tables):
            connection.register("events", tables.events.reset_index(drop=True))
            connection.register("items", tables.items.reset_index(drop=True))
        else:
            for name in ("events", "items"):
                view_file(connection, name, tables / f"{name}.parquet")
        # One rule is about the order of the rows.
        connection.execute("SET preserve_insertion_order = true")
        gates = [*log_gates(settings), *item_gates(settings, needs_text)]
        if settings.baseline:
            gates += drift_gates(connection, Path(settings.baseline), settings)
        return run_suite(connection, gates, settings.waived, quarantine)


def run_history_gates(
    examples: Path,
    settings: GateSettings,
    max_history: int,
    memory_gb: float,
    quarantine: Path,
) -> list[GateResult]:
    """Check the targets with their point-in-time histories.

    Args:
        examples: Parquet file of `user_id`, `item_id`, `moment`, `split` and `history`.
        settings: the gates that a person waived.
        max_history: items that a history may have.
        memory_gb: memory that the engine may take before it spills to disk.
        quarantine: folder for the rows that break a gate.

    Raises:
        UserError: a waived name is no gate's.
    """
    with engine(memory_gb) as connection:
        view_file(connection, "examples", examples)
        gates = history_gates(max_history)
        return run_suite(connection, gates, settings.waived, quarantine)
