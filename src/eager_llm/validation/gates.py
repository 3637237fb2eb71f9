"""Gates between ingestion and everything after: figures from the engine, judged by Great Expectations.

Every gate is a SQL query for the rows that break it, and a figure with its bounds. The engine finds
the rows, in bounded memory; the expectation decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb

from eager_llm.core.duckdb_engine import engine, literal, one, view_file
from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file, whole_folder
from eager_llm.core.html_page import render_page
from eager_llm.core.progress import say
from eager_llm.data.tables import Tables
from eager_llm.settings import GateSettings
from eager_llm.validation.drift import DRIFT_GATES, drift_gates
from eager_llm.validation.expectations import (
    BUNDLE_GATES,
    Gate,
    history_gates,
    index_gates,
    item_gates,
    log_gates,
)

NAMED_ROWS = 10
KEPT_ROWS = 100_000


@dataclass(frozen=True)
class GateResult:
    """The outcome of one gate: what was asked, whether it held, and the first rows that broke it.

    Attributes:
        name: what `gates.waived` calls it.
        waived: it failed, and a person decided to go on without it.
    """

    table: str
    rule: str
    passed: bool
    broken: int
    rows: list[dict[str, Any]]
    name: str = ""
    figure: float = 0.0
    bounds: str = ""
    waived: bool = False


class GateError(UserError):
    """The data did not pass; the message names the rules, the rows and the report."""


@dataclass
class Suite:
    """Gates over what the engine holds, run together."""

    connection: duckdb.DuckDBPyConnection
    gates: Sequence[Gate]
    quarantine: Path | None = field(default=None)

    def run(self) -> list[GateResult]:
        """Run every gate; the rows that break one are written to `quarantine`, a Parquet file a gate."""
        outcomes = [(gate, *self._figure(gate)) for gate in self.gates]
        held = _judge([(gate, figure) for gate, figure, _ in outcomes])
        return [
            self._result(gate, figure, broken, held[gate.name]) for gate, figure, broken in outcomes
        ]

    def _figure(self, gate: Gate) -> tuple[float, int]:
        broken = (
            int(one(self.connection, f"SELECT count(*) FROM ({gate.broken})")) if gate.broken else 0
        )
        return (
            float(one(self.connection, gate.figure) or 0) if gate.figure else float(broken)
        ), broken

    def _result(self, gate: Gate, figure: float, broken: int, passed: bool) -> GateResult:
        rows: list[dict[str, Any]] = []
        if not passed and gate.broken:
            rows = (
                self.connection.execute(f"{gate.broken} LIMIT {NAMED_ROWS}")
                .df()
                .astype(str)
                .to_dict("records")
            )
            if self.quarantine is not None:
                target = literal(str(self.quarantine / f"{gate.name}.parquet"))
                self.connection.execute(
                    f"COPY ({gate.broken} LIMIT {KEPT_ROWS}) TO {target} (FORMAT parquet)"
                )
        return GateResult(
            gate.table,
            gate.rule,
            passed,
            0 if passed else broken or 1,
            rows,
            gate.name,
            figure,
            gate.bounds,
        )


def run_gates(
    tables: Tables | Path,
    settings: GateSettings,
    needs_text: bool,
    memory_gb: float = 2.0,
    quarantine: Path | None = None,
) -> list[GateResult]:
    """Check the prepared tables, in memory or in their folder.

    Args:
        needs_text: whether the semantic source is used, so that items need text.
        quarantine: folder for the rows that break a gate; None: they are only named.
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
        return judge(connection, gates, settings.waived, quarantine)


def run_history_gates(
    examples: Path, settings: GateSettings, max_history: int, memory_gb: float, quarantine: Path
) -> list[GateResult]:
    """Check the targets with their point-in-time histories."""
    with engine(memory_gb) as connection:
        view_file(connection, "examples", examples)
        return judge(connection, history_gates(max_history), settings.waived, quarantine)


def judge(
    connection: duckdb.DuckDBPyConnection,
    gates: Sequence[Gate],
    waived: Sequence[str],
    quarantine: Path | None = None,
) -> list[GateResult]:
    """Run a suite, and mark the failures that a person decided to go on with.

    Args:
        waived: names of gates, of this suite or another.
        quarantine: folder for the rows that break a gate, where one fails; None: they are only named.

    Raises:
        UserError: the decision names no gate.
    """
    unknown = [name for name in waived if name not in gate_names()]
    if unknown:
        raise UserError(
            f"waived: no gate is called {', '.join(unknown)}; there are {', '.join(sorted(gate_names()))}"
        )
    if quarantine is None:
        results = Suite(connection, gates).run()
    else:
        with whole_folder(quarantine) as draft:
            results = Suite(connection, gates, draft).run()
    return [replace(r, waived=not r.passed and r.name in waived) for r in results]


def gate_names() -> set[str]:
    """Return what the gates of all suites are called."""
    settings = GateSettings()
    gates = [
        *log_gates(settings),
        *item_gates(settings, True),
        *history_gates(1),
        *index_gates(["any"], 2, False),
    ]
    return {gate.name for gate in gates} | set(DRIFT_GATES) | set(BUNDLE_GATES)


def _judge(figures: list[tuple[Gate, float]]) -> dict[str, bool]:
    """Let Great Expectations hold every figure against its bounds: one row, a column a gate."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations import expectations as gxe

    context = gx.get_context(mode="ephemeral")
    # Its progress bars would bury the pipeline's own lines.
    context.variables.progress_bars = {"globally": False}
    frame = pd.DataFrame([{gate.name: figure for gate, figure in figures}])
    asset = context.data_sources.add_pandas("figures").add_dataframe_asset("figures")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite(name="gates")
    for gate, _ in figures:
        suite.add_expectation(
            gxe.ExpectColumnValuesToBeBetween(
                column=gate.name, min_value=gate.least, max_value=gate.most
            )
        )
    outcomes = batch.validate(suite).results
    return {o.expectation_config.kwargs["column"]: bool(o.success) for o in outcomes}


def require(results: list[GateResult], report: Path, title: str = "Data gates") -> None:
    """Write the report, then raise if a gate failed that nobody waived.

    Raises:
        GateError: names the rules, up to `NAMED_ROWS` rows each, and the report.
    """
    with whole_file(report) as draft:
        draft.write_text(gate_report(results, title), encoding="utf-8")
    failed = [result for result in results if not result.passed and not result.waived]
    if failed:
        lines = [
            f"{r.table}: {r.rule}: {r.broken} break it [{r.name}]" + _named(r.rows) for r in failed
        ]
        raise GateError(
            f"{title.lower()} did not pass:\n  "
            + "\n  ".join(lines)
            + "\n  to go on all the same: "
            f"--continue-without {','.join(r.name for r in failed)}\n  report: {report}"
        )
    waived = [result.name for result in results if result.waived]
    say(
        f"{len(results) - len(waived)} gates passed"
        + (f"; gone on without {', '.join(waived)}" if waived else "")
    )


def gate_report(results: list[GateResult], title: str) -> str:
    """Return a page that reads offline: each rule, its outcome, its bounds and the rows that broke it."""
    return render_page(
        Path(__file__).with_name("gates.html"), title=title, results=results, named_rows=NAMED_ROWS
    )


def _named(rows: list[dict[str, Any]]) -> str:
    return (
        ": " + "; ".join(", ".join(f"{k}={v}" for k, v in row.items()) for row in rows)
        if rows
        else ""
    )
