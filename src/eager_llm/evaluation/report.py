"""The run's report: one HTML page with its plots inside, readable offline."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eager_llm.core.html_page import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_BLUE,
    ORANGE,
    new_figure,
    render_page,
    svg_of,
)
from eager_llm.evaluation.metrics import CUTOFFS

# The methods keep their colours in every plot.
COLOURS = {
    "EAGER-LLM": BLUE, "EAGER-LLM, model alone": LIGHT_BLUE, "neighbours alone": GREEN, "co-occurrence": ORANGE,
    "popularity": GREY,
}  # fmt: skip


@dataclass(frozen=True)
class ReportData:
    """What the report shows."""

    title: str
    made_up: bool
    metadata: dict[str, Any]
    table: dict[str, dict[str, float]]
    validation: dict[str, dict[str, float]]
    curves: dict[str, list[dict[str, float]]]
    samples: list[dict[str, Any]]
    settings: dict[str, Any]
    language: dict[str, dict[str, float]] = field(default_factory=dict)
    adapter_sweep: list[dict[str, float]] = field(default_factory=list)
    prior: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def render_report(data: ReportData) -> str:
    """Return the page."""
    plots = [
        _quality_plot(data.table),
        *(_curve_plot(name, curve) for name, curve in data.curves.items() if len(curve) > 1),
    ]
    columns = [f"{kind}@{k}" for kind in ("recall", "ndcg") for k in CUTOFFS]
    measures = list(next(iter(data.language.values()), {}))
    adapter_sweep = _dial_plot(data.adapter_sweep) if data.adapter_sweep and measures else ""
    page = Path(__file__).with_name("report.html")
    return render_page(
        page,
        data=data,
        plots=plots,
        columns=columns,
        measures=measures,
        adapter_sweep=adapter_sweep,
    )


def _dial_plot(adapter_sweep: list[dict[str, float]]) -> str:
    """Draw recommendation against language along the adapter's strength."""
    measures = [name for name in adapter_sweep[0] if name not in ("strength", "ndcg@10")]
    figure, axes = new_figure(10, 3.4, columns=len(measures))
    for axis, name in zip(axes, measures, strict=True):
        places = [row[name] for row in adapter_sweep], [row["ndcg@10"] for row in adapter_sweep]
        axis.plot(*places, marker="o", color=GREEN)
        for row, *place in zip(adapter_sweep, *places, strict=True):
            axis.annotate(f"{row['strength']:g}", place, xytext=(4, 4), textcoords="offset points")
        axis.set(xlabel=name, ylabel="NDCG@10, drawn validation users" if axis is axes[0] else "")
    return svg_of(figure)


def _quality_plot(table: dict[str, dict[str, float]]) -> str:
    figure, axes = new_figure(10, 3.4, columns=2)
    for axis, kind in zip(axes, ("recall", "ndcg"), strict=True):
        step = 0.8 / max(1, len(table))
        for offset, (name, row) in enumerate(table.items()):
            places = [n + step * (offset - (len(table) - 1) / 2) for n in range(len(CUTOFFS))]
            axis.bar(
                places,
                [row[f"{kind}@{k}"] for k in CUTOFFS],
                0.92 * step,
                label=name,
                color=COLOURS.get(name),
            )
        axis.set_xticks(range(len(CUTOFFS)), [f"{kind}@{k}" for k in CUTOFFS])
        axis.set_title(f"{kind} on the test part")
    handles, labels = axes[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return svg_of(figure)


def _curve_plot(name: str, curve: list[dict[str, float]]) -> str:
    figure, axes = new_figure(10, 3.4, columns=2)
    epochs = [row["epoch"] for row in curve]
    for figure_name, colour in (("cross_entropy", BLUE), ("contrast", ORANGE)):
        if figure_name in curve[0]:
            axes[0].plot(
                epochs,
                [row[figure_name] for row in curve],
                label=figure_name,
                color=colour,
                marker=".",
            )
    axes[0].set(title=f"{name}: training loss", xlabel="epoch")
    axes[0].legend(frameon=False)
    validated = [row for row in curve if "validation" in row]
    axes[1].plot(
        [r["epoch"] for r in validated],
        [r["validation"] for r in validated],
        marker="o",
        color=GREEN,
    )
    axes[1].set(title=f"{name}: NDCG@10 on drawn validation users", xlabel="epoch")
    return svg_of(figure)
