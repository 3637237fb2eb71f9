"""The run's report: one HTML page with its plots inside, readable offline."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eager_llm.core.html_page import render_page
from eager_llm.evaluation.metrics import METRICS
from eager_llm.evaluation.plots import adapter_plot, curve_plot, quality_plot

Rows = list[dict[str, float]]
Table = dict[str, dict[str, float]]


@dataclass(frozen=True)
class ReportData:
    """What the report shows.

    Attributes:
        title: heads the page.
        made_up: whether the log is the demo shop's.
        metadata: of the log.
        table, validation: method -> metric -> value on the test and the validation split.
        curves: stage -> a row an epoch.
        samples: users with their history, their target and what is recommended; nobody, unless
            the settings ask for it.
        popular_items: popular items, and what is recommended after each.
        settings: of the run.
        language: when it was measured -> measure -> value.
        adapter_sweep: a row a strength of the adapter.
        prior: `weight` of the item prior, and `tried`: weight -> NDCG@10.
        notes: sentences for the head of the page.
    """

    title: str
    made_up: bool
    metadata: dict[str, Any]
    table: Table
    validation: Table
    curves: dict[str, Rows]
    samples: list[dict[str, Any]]
    settings: dict[str, Any]
    language: Table = field(default_factory=dict)
    adapter_sweep: Rows = field(default_factory=list)
    prior: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    popular_items: list[dict[str, Any]] = field(default_factory=list)


def render_report(data: ReportData) -> str:
    """Return the page."""
    plots = [quality_plot(data.table)]
    for name, curve in data.curves.items():
        if len(curve) > 1:
            plots.append(curve_plot(name, curve))
    measures = list(next(iter(data.language.values()), {}))
    sweep_plot = ""
    if data.adapter_sweep and measures:
        sweep_plot = adapter_plot(data.adapter_sweep)
    return render_page(
        Path(__file__).with_name("report.html"),
        data=data,
        plots=plots,
        metrics=METRICS,
        measures=measures,
        adapter_plot=sweep_plot,
    )
