"""The plots of the run's report, each as an <svg> element."""

from typing import Any

import numpy as np

from eager_llm.core.html_page import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_BLUE,
    ORANGE,
    new_figure,
    svg_of,
)
from eager_llm.evaluation.methods import (
    COOCCURRENCE,
    MODEL,
    MODEL_WITH_PRIOR,
    POPULARITY,
    PRIOR_ALONE,
)
from eager_llm.evaluation.metrics import CUTOFFS

# The methods keep their colours in every plot.
COLOURS = {
    MODEL_WITH_PRIOR: BLUE,
    MODEL: LIGHT_BLUE,
    PRIOR_ALONE: GREEN,
    COOCCURRENCE: ORANGE,
    POPULARITY: GREY,
}
LOSS_COLOURS = {"cross_entropy": BLUE, "contrast": ORANGE}
SIZE = (10, 3.4)  # inches
GROUP_WIDTH = 0.8  # of the bars of a cutoff; the distance to the next one is 1
BAR_SHARE = 0.92  # of a bar's room

Rows = list[dict[str, float]]


def quality_plot(table: dict[str, dict[str, float]]) -> str:
    """Draw recall and NDCG of every method on the test split."""
    figure, axes = new_figure(*SIZE, columns=2)
    for axis, kind in zip(axes, ("recall", "ndcg"), strict=True):
        _draw_bars(axis, kind, table)
    handles, labels = axes[0].get_legend_handles_labels()
    if labels:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=len(labels),
            frameon=False,
        )
    return svg_of(figure)


def _draw_bars(axis: Any, kind: str, table: dict[str, dict[str, float]]) -> None:
    """Draw one metric at every cutoff, a bar a method."""
    metrics = [f"{kind}@{k}" for k in CUTOFFS]
    groups = np.arange(len(metrics))
    room = GROUP_WIDTH / max(1, len(table))
    middle = (len(table) - 1) / 2
    for number, (method, row) in enumerate(table.items()):
        offset = room * (number - middle)
        heights = [row[metric] for metric in metrics]
        axis.bar(
            groups + offset,
            heights,
            width=BAR_SHARE * room,
            label=method,
            color=COLOURS.get(method),
        )
    axis.set_xticks(groups, metrics)
    axis.set_title(f"{kind} on the test split")


def curve_plot(name: str, curve: Rows) -> str:
    """Draw the losses and the validation of a stage by epoch."""
    figure, (loss_axis, validation_axis) = new_figure(*SIZE, columns=2)
    epochs = _column(curve, "epoch")
    for loss, colour in LOSS_COLOURS.items():
        if loss in curve[0]:
            loss_axis.plot(
                epochs,
                _column(curve, loss),
                label=loss,
                color=colour,
                marker=".",
            )
    loss_axis.set(title=f"{name}: training loss", xlabel="epoch")
    loss_axis.legend(frameon=False)
    validated = [row for row in curve if "validation" in row]
    validation_axis.plot(
        _column(validated, "epoch"),
        _column(validated, "validation"),
        color=GREEN,
        marker="o",
    )
    validation_axis.set(title=f"{name}: NDCG@10 of the validation sample", xlabel="epoch")
    return svg_of(figure)


def adapter_plot(sweep: Rows) -> str:
    """Draw recommendation against each language measure, a point a strength of the adapter."""
    measures = [name for name in sweep[0] if name not in ("strength", "ndcg@10")]
    figure, axes = new_figure(*SIZE, columns=len(measures))
    ndcg = _column(sweep, "ndcg@10")
    for axis, measure in zip(axes, measures, strict=True):
        values = _column(sweep, measure)
        axis.plot(values, ndcg, marker="o", color=GREEN)
        for row, *point in zip(sweep, values, ndcg, strict=True):
            label = f"{row['strength']:g}"
            axis.annotate(label, point, xytext=(4, 4), textcoords="offset points")
        axis.set(xlabel=measure)
    axes[0].set(ylabel="NDCG@10, validation sample")
    return svg_of(figure)


def _column(rows: Rows, name: str) -> list[float]:
    return [row[name] for row in rows]
