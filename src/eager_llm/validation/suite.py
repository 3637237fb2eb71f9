"""Running a suite of gates: the engine computes the figures, Great Expectations judges them.

The engine finds the rows that break a gate in bounded memory; the expectation decides.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from eager_llm.core.duckdb_engine import first_value, literal
from eager_llm.core.files import whole_folder
from eager_llm.validation.gate import Gate, GateResult
from eager_llm.validation.gate_names import check_waived

# Rows of a failed gate that its result names, and that are written to the quarantine.
NAMED_ROWS = 10
QUARANTINED_ROWS = 100_000


def run_suite(
    connection: duckdb.DuckDBPyConnection,
    gates: Sequence[Gate],
    waived: Sequence[str] = (),
    quarantine: Path | None = None,
) -> list[GateResult]:
    """Run a suite, and mark the failures that a person decided to go on with.

    Args:
        connection: holds the views that the gates name.
        gates: the suite.
        waived: names of gates, of this suite or another.
        quarantine: folder for the rows that break a gate, a Parquet file a gate that fails; None:
            they are only named.

    Returns:
        One result a gate, in their order.

    Raises:
        UserError: `waived` names no gate.
    """
    check_waived(waived)
    if quarantine is None:
        return _run(connection, gates, waived, None)
    with whole_folder(quarantine) as draft:
        return _run(connection, gates, waived, draft)


def _run(
    connection: duckdb.DuckDBPyConnection,
    gates: Sequence[Gate],
    waived: Sequence[str],
    quarantine: Path | None,
) -> list[GateResult]:
    """Compute every figure, judge all of them at once, and look up the rows of the failed gates."""
    broken = {}
    figures = {}
    for gate in gates:
        broken[gate.name] = _broken_rows(connection, gate)
        figures[gate.name] = _figure(connection, gate, broken[gate.name])
    passed = _judge(gates, figures)
    results = []
    for gate in gates:
        name = gate.name
        rows: list[dict[str, Any]] = []
        failed = not passed[name]
        if failed and gate.rows_sql:
            rows = _first_rows(connection, gate)
            if quarantine is not None:
                _quarantine_rows(connection, gate, quarantine)
        result = GateResult(
            name=name,
            table=gate.table,
            rule=gate.rule,
            bounds=gate.bounds,
            figure=figures[name],
            passed=passed[name],
            broken=(broken[name] or 1) if failed else 0,
            rows=rows,
            waived=failed and name in waived,
        )
        results.append(result)
    return results


def _broken_rows(connection: duckdb.DuckDBPyConnection, gate: Gate) -> int:
    """Count the rows that break a gate."""
    if not gate.rows_sql:
        return 0
    return int(first_value(connection, f"SELECT count(*) FROM ({gate.rows_sql})"))


def _figure(connection: duckdb.DuckDBPyConnection, gate: Gate, broken: int) -> float:
    """Return the figure that a gate bounds; a figure over no row is 0."""
    if not gate.figure_sql:
        return float(broken)
    return float(first_value(connection, gate.figure_sql) or 0)


def _first_rows(connection: duckdb.DuckDBPyConnection, gate: Gate) -> list[dict[str, Any]]:
    """Return the first rows that break a gate, as texts."""
    query = f"{gate.rows_sql} LIMIT {NAMED_ROWS}"
    rows = connection.execute(query).df().astype(str)
    return rows.to_dict("records")


def _quarantine_rows(connection: duckdb.DuckDBPyConnection, gate: Gate, quarantine: Path) -> None:
    """Write the rows that break a gate to a Parquet file named after it."""
    target = literal(str(quarantine / f"{gate.name}.parquet"))
    rows = f"{gate.rows_sql} LIMIT {QUARANTINED_ROWS}"
    connection.execute(f"COPY ({rows}) TO {target} (FORMAT parquet)")


def _judge(gates: Sequence[Gate], figures: Mapping[str, float]) -> dict[str, bool]:
    """Let Great Expectations hold every figure against its bounds: one row, a column a gate."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations import expectations as gxe

    context = gx.get_context(mode="ephemeral")
    # Its progress bars would bury the pipeline's own lines.
    context.variables.progress_bars = {"globally": False}
    frame = pd.DataFrame([dict(figures)])
    asset = context.data_sources.add_pandas("figures").add_dataframe_asset("figures")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite(name="gates")
    for gate in gates:
        expectation = gxe.ExpectColumnValuesToBeBetween(
            column=gate.name, min_value=gate.least, max_value=gate.most
        )
        suite.add_expectation(expectation)
    passed = {}
    for outcome in batch.validate(suite).results:
        name = outcome.expectation_config.kwargs["column"]
        passed[name] = bool(outcome.success)
    return passed
