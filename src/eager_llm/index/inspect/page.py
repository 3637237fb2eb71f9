"""The page of an inspected index: tables, plots and treemaps in one HTML file."""

import base64
from pathlib import Path

import numpy as np

from eager_llm.core.html_page import BLUE, GREY, ORANGE, new_figure, render_page, svg_of
from eager_llm.index.inspect.measure import InspectData, SourceData
from eager_llm.index.inspect.treemap import HEIGHT, WIDTH

BARS = 40  # of a histogram
FIGURE = 5, 2.9  # inches; two stand side by side, or one above the other on a phone


def render_inspect(data: InspectData) -> str:
    """Return the page."""
    return render_page(
        Path(__file__).with_name("page.html"),
        data=data,
        change=_change(data.change),
        size=(1000, round(1000 * HEIGHT / WIDTH)),
        pictures={
            source.name: base64.b64encode(source.treemap.png).decode() for source in data.sources
        },
        font_size=_font_size,
        plots={source.name: _plots(source) for source in data.sources},
        number=_number,
        percent=_percent,
    )


def _plots(source: SourceData) -> dict[str, list[str]]:
    return {
        # The last level has one item a leaf: there is nothing to see.
        "balance": [_balance_plot(source, level) for level in range(len(source.levels) - 1)],
        "distortion": [_distortion_plot(source)] if source.errors else [],
        "neighbours": [_neighbours_plot(source)]
        if source.compared and source.compared.prefixes
        else [],
    }


def _balance_plot(source: SourceData, level: int) -> str:
    figure, (axis,) = new_figure(*FIGURE)
    found = source.balance[level]
    width = max(1, -(-(found.largest - found.smallest + 1) // BARS))
    bins = np.arange(found.smallest, found.largest + width + 1, width) - 0.5
    axis.hist(found.sizes, bins, weights=found.counts, color=BLUE, rwidth=0.9)
    for share in sorted(set(found.even)):
        axis.axvline(
            share,
            color=ORANGE,
            linestyle="--",
            label="even share" if share == found.even[0] else None,
        )
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlim(bins[0] - width, max(bins[-1], found.even[1]) + width)
    axis.legend(frameon=False)
    axis.set(title=f"Level {source.levels[level]}", xlabel="items in a node", ylabel="nodes")
    return svg_of(figure)


def _distortion_plot(source: SourceData) -> str:
    figure, (axis,) = new_figure(*FIGURE)
    names, errors = list(source.levels), list(source.errors or [])
    if source.compared:
        names, errors = ["no token", *names], [source.compared.variance, *errors]
    axis.bar(
        range(len(errors)),
        errors,
        0.6,
        color=[GREY if name == "no token" else BLUE for name in names],
    )
    axis.set_xticks(range(len(errors)), [f"after {n}" if n != "no token" else n for n in names])
    axis.set(title="What a path does not say", ylabel="mean squared distance")
    return svg_of(figure)


def _neighbours_plot(source: SourceData) -> str:
    figure, (axis,) = new_figure(*FIGURE)
    assert source.compared is not None
    prefixes = source.compared.prefixes
    places = np.arange(len(prefixes))
    axis.bar(places - 0.2, [p.share for p in prefixes], 0.38, yerr=[p.margin for p in prefixes], color=BLUE,
             ecolor="#1b1f24", label="nearest neighbours")  # fmt: skip
    axis.bar(places + 0.2, [p.chance for p in prefixes], 0.38, color=GREY, label="by chance")
    axis.scatter(
        places - 0.2, [p.most for p in prefixes], marker="_", s=600, color=ORANGE, label="at most"
    )
    axis.set_xticks(places, [f"{p.length} token{'s' if p.length > 1 else ''}" for p in prefixes])
    axis.set_xlim(-0.7, len(prefixes) - 0.3)
    axis.set_ylim(0, 1.05)
    axis.legend(frameon=False)
    axis.set(title="ItemPriorTable that share the first ...", ylabel="share")
    return svg_of(figure)


def _font_size(tokens: str, width: float, height: float) -> float:
    """Return the size at which tokens fit into a box, or 0 where they would be too small to read."""
    size = min(1.2 * width / len(tokens), 0.4 * height, 22)
    return round(size, 1) if size >= 8 else 0


def _number(value: float) -> str:
    """Return a figure with four digits that count, and thousands apart."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.01 else f"{100 * share:.2g} %"


def _change(change: dict[str, object]) -> str:
    rest = ", ".join(f"{name} {value}" for name, value in change.items() if name != "action")
    return f"{change.get('action', 'unknown')}{': ' if rest else ''}{rest}"
