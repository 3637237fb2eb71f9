"""The report of a suite, and the refusal to go on where a gate failed."""

from collections.abc import Sequence
from pathlib import Path

from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file
from eager_llm.core.html_page import render_page
from eager_llm.core.progress import say
from eager_llm.validation.gate import GateResult
from eager_llm.validation.suite import NAMED_ROWS

TEMPLATE = Path(__file__).with_name("gates.html")


class GateError(UserError):
    """The data did not pass; the message names the rules, the rows and the report."""


def require_passed(results: Sequence[GateResult], report: Path, title: str = "Data gates") -> None:
    """Write the report, then raise if a gate failed that nobody waived.

    Args:
        results: the outcomes of a suite.
        report: the HTML file, written either way.
        title: what the suite is called.

    Raises:
        GateError: names the rules, up to `NAMED_ROWS` rows each, and the report.
    """
    with whole_file(report) as draft:
        draft.write_text(gate_report(results, title), encoding="utf-8")
    failed = [result for result in results if not result.passed and not result.waived]
    if failed:
        raise GateError(_failure(failed, report, title))
    waived = waived_names(results)
    message = f"{len(results) - len(waived)} gates passed"
    if waived:
        message += f"; gone on without {', '.join(waived)}"
    say(message)


def waived_names(results: Sequence[GateResult]) -> list[str]:
    """Return the names of the gates that failed and that a person waived."""
    return [result.name for result in results if result.waived]


def gate_report(results: Sequence[GateResult], title: str) -> str:
    """Return an HTML page that reads offline.

    It names each rule, its outcome, its bounds and the rows that broke it.
    """
    return render_page(TEMPLATE, title=title, results=results, named_rows=NAMED_ROWS)


def _failure(failed: Sequence[GateResult], report: Path, title: str) -> str:
    """Return a line for each failed gate, how to go on all the same, and where the report is."""
    lines = [f"{title.lower()} did not pass:"]
    for result in failed:
        line = f"{result.table}: {result.rule}: {result.broken} break it [{result.name}]"
        if result.rows:
            line += f": {_rows_text(result)}"
        lines.append(line)
    names = ",".join(result.name for result in failed)
    lines.append(f"to go on all the same: --waive {names}")
    lines.append(f"report: {report}")
    return "\n  ".join(lines)


def _rows_text(result: GateResult) -> str:
    """Return the named rows in one line, each as name=value pairs."""
    texts = []
    for row in result.rows:
        cells = [f"{name}={value}" for name, value in row.items()]
        texts.append(", ".join(cells))
    return "; ".join(texts)
