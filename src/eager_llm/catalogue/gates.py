"""Great Expectations gates between ingestion and everything after."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from eager_llm.catalogue.tables import Tables, item_texts
from eager_llm.errors import UserError
from eager_llm.files import whole_file
from eager_llm.settings import GateSettings

NAMED_ROWS = 10


@dataclass(frozen=True)
class GateResult:
    """The outcome of one expectation: what was asked, whether it held, and the rows that broke it."""

    table: str
    rule: str
    passed: bool
    broken: int
    rows: list[dict[str, Any]]


class GateError(UserError):
    """The data did not pass; the message names the rules, the rows and the report."""


def run_gates(tables: Tables, settings: GateSettings, needs_text: bool) -> list[GateResult]:
    """Check the prepared tables.

    Args:
        needs_text: whether the semantic source is used, so that items need text.
    """
    import great_expectations as gx
    from great_expectations import expectations as gxe

    events, items, users = _checked_frames(tables)
    suites: dict[str, tuple[pd.DataFrame, list[str], list[tuple[str, Any]]]] = {
        "events": (events, ["user_id", "item_id", "timestamp"], [
            ("an event happens once", gxe.ExpectCompoundColumnsToBeUnique(column_list=["user_id", "item_id", "timestamp"])),
            ("every event names a user", gxe.ExpectColumnValuesToNotBeNull(column="user_id")),
            ("every event has a time", gxe.ExpectColumnValuesToNotBeNull(column="timestamp")),
            ("every item of the log is in the catalogue", gxe.ExpectColumnValuesToBeInSet(
                column="item_id", value_set=items["item_id"].unique().tolist())),
            ("time goes forward within a user", gxe.ExpectColumnValuesToBeBetween(
                column="seconds_since_last", min_value=0, strict_min=True)),
        ]),
        "items": (items, ["item_id"], [
            ("an item id stands once in the catalogue", gxe.ExpectColumnValuesToBeUnique(column="item_id")),
            ("every item has an id", gxe.ExpectColumnValuesToNotBeNull(column="item_id")),
        ]),
        "users": (users, ["user_id"], [
            (f"every user has at least {settings.min_user_events} events", gxe.ExpectColumnValuesToBeBetween(
                column="events", min_value=settings.min_user_events)),
            (f"at least {settings.min_users} users are left", gxe.ExpectTableRowCountToBeBetween(
                min_value=settings.min_users)),
        ]),
    }  # fmt: skip
    if needs_text:
        rule = f"at least {settings.min_text_share:.0%} of the items have text (a shop without text: index.sources=behaviour)"
        has_text = gxe.ExpectColumnValuesToBeInSet(column="has_text", value_set=[True], mostly=settings.min_text_share)
        suites["items"][2].append((rule, has_text))
    context = gx.get_context(mode="ephemeral")
    # Its progress bars would bury the pipeline's own lines.
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("tables")
    results = []
    for name, (frame, keys, expectations) in suites.items():
        definition = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        batch = definition.get_batch({"dataframe": frame})
        for rule, expectation in expectations:
            outcome = batch.validate(expectation, result_format={"result_format": "COMPLETE"})
            results.append(_result(name, rule, frame[keys], outcome))
    return results


def require(results: list[GateResult], report: Path) -> None:
    """Write the report, then raise if any gate failed.

    Raises:
        GateError: names the rules, up to `NAMED_ROWS` rows each, and the report.
    """
    with whole_file(report) as draft:
        draft.write_text(gate_report(results), encoding="utf-8")
    failed = [result for result in results if not result.passed]
    if failed:
        lines = [f"{r.table}: {r.rule}: {r.broken} break it" + _named(r.rows) for r in failed]
        raise GateError("the data did not pass its gates:\n  " + "\n  ".join(lines) + f"\n  report: {report}")


def gate_report(results: list[GateResult]) -> str:
    """Return a page that reads offline: each rule, its outcome and the rows that broke it."""
    rows = "".join(
        f"<tr class={'ok' if r.passed else 'bad'}><td>{'passed' if r.passed else 'FAILED'}</td>"
        f"<td>{r.table}</td><td>{html.escape(r.rule)}</td><td>{r.broken}</td>"
        f"<td>{html.escape(_named(r.rows).lstrip(': '))}</td></tr>"
        for r in results
    )
    return (
        "<!doctype html><meta charset=utf-8><title>Data gates</title><style>body{font:15px system-ui;margin:2rem}"
        "td,th{padding:.4rem .8rem;text-align:left;border-bottom:1px solid #ddd}.ok td:first-child{color:#167a3e}"
        ".bad{background:#fdecea}.bad td:first-child{color:#b3261e;font-weight:600}</style><h1>Data gates</h1>"
        "<table><tr><th>Outcome<th>Table<th>Rule<th>Rows that break it<th>The first of them</tr>"
        f"{rows}</table>\n"
    )


def _checked_frames(tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Derive what the expectations look at: gaps in time, text, events of a user."""
    gap = tables.events.groupby("user_id", sort=False)["timestamp"].diff().dt.total_seconds()
    events = tables.events.assign(seconds_since_last=gap)
    text = [
        bool(line) or bool(more)
        for line, more in zip(item_texts(tables.items), tables.items["description"], strict=True)
    ]
    users = tables.events.groupby("user_id", sort=False).size().rename("events").reset_index()
    return events, tables.items.assign(has_text=text), users


def _result(table: str, rule: str, keys: pd.DataFrame, outcome: Any) -> GateResult:
    found = outcome.result
    where = [] if outcome.success else list(found.get("unexpected_index_list") or [])
    rows = keys.iloc[where[:NAMED_ROWS]].astype(str).to_dict("records")
    broken = 0 if outcome.success else int(found.get("unexpected_count") or len(where) or 1)
    return GateResult(table, rule, bool(outcome.success), broken, rows)


def _named(rows: list[dict[str, Any]]) -> str:
    return ": " + "; ".join(", ".join(f"{k}={v}" for k, v in row.items()) for row in rows) if rows else ""
