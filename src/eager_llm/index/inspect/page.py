"""The page of an inspected index: tables, plots and treemaps in one HTML file."""

import base64
from pathlib import Path
from typing import Any

import numpy as np

from eager_llm.core.html_page import BLUE, GREY, ORANGE, new_figure, render_page, svg_of
from eager_llm.index.inspect.data import InspectData, SourceData
from eager_llm.index.inspect.embedding_comparison import PrefixShare
from eager_llm.index.inspect.nodes import Balance
from eager_llm.index.inspect.treemap import HEIGHT, WIDTH

# Bars of a histogram, at most so many and one more.
BARS = 40
# Inches of a plot; two stand side by side, or one above the other on a phone.
FIGURE = 5, 2.9
# Width of a treemap in the units of its SVG.
MAP_WIDTH = 1000
# Sizes of the tokens in a treemap's boxes, in the same units.
LEAST_FONT = 8
MOST_FONT = 22
# Beside "after a" and so on.
BEFORE_FIRST = "no token"


def render_inspect(data: InspectData) -> str:
    """Return the page as HTML."""
    pictures = {}
    plots = {}
    for source in data.sources:
        picture = base64.b64encode(source.treemap.png)
        pictures[source.name] = picture.decode()
        plots[source.name] = _plots(source)
    map_height = round(MAP_WIDTH * HEIGHT / WIDTH)
    return render_page(
        Path(__file__).with_name("page.html"),
        data=data,
        change=_change_text(data.change),
        size=(MAP_WIDTH, map_height),
        pictures=pictures,
        font_size=_font_size,
        plots=plots,
        number=_number_text,
        percent=_percent_text,
    )


def _plots(source: SourceData) -> dict[str, list[str]]:
    """Return the plots of a source as SVG, by the section that shows them."""
    balance = []
    distortion = []
    neighbours = []
    # The last level has one item a leaf: there is nothing to see.
    for level in range(len(source.levels) - 1):
        plot = _balance_plot(source.levels[level], source.balance[level])
        balance.append(plot)
    if source.errors:
        plot = _distortion_plot(source, source.errors)
        distortion.append(plot)
    if source.comparison and source.comparison.prefixes:
        plot = _neighbours_plot(source.comparison.prefixes)
        neighbours.append(plot)
    return {
        "balance": balance,
        "distortion": distortion,
        "neighbours": neighbours,
    }


def _balance_plot(level: str, balance: Balance) -> str:
    """Return a histogram of the items in a node."""
    figure, (axis,) = new_figure(*FIGURE)
    values = balance.largest - balance.smallest + 1
    width = max(1, -(-values // BARS))
    edges = np.arange(balance.smallest, balance.largest + width + 1, width)
    bins = edges - 0.5
    axis.hist(
        balance.sizes,
        bins,
        weights=balance.counts,
        color=BLUE,
        rwidth=0.9,
    )
    label: str | None = "even share"
    for share in sorted(set(balance.even)):
        axis.axvline(share, color=ORANGE, linestyle="--", label=label)
        label = None
    axis.xaxis.get_major_locator().set_params(integer=True)
    right = max(bins[-1], balance.even[1])
    axis.set_xlim(bins[0] - width, right + width)
    axis.legend(frameon=False)
    axis.set(title=f"Level {level}", xlabel="items in a node", ylabel="nodes")
    return svg_of(figure)


def _distortion_plot(source: SourceData, errors: list[float]) -> str:
    """Return bars of the mean squared distance after each level."""
    figure, (axis,) = new_figure(*FIGURE)
    heights = list(errors)
    labels = [f"after {level}" for level in source.levels]
    colours = [BLUE] * len(heights)
    if source.comparison:
        heights.insert(0, source.comparison.variance)
        labels.insert(0, BEFORE_FIRST)
        colours.insert(0, GREY)
    positions = range(len(heights))
    axis.bar(positions, heights, 0.6, color=colours)
    axis.set_xticks(positions, labels)
    axis.set(title="What a path does not say", ylabel="mean squared distance")
    return svg_of(figure)


def _neighbours_plot(prefixes: list[PrefixShare]) -> str:
    """Return bars of the share of neighbours that share a prefix, beside chance."""
    figure, (axis,) = new_figure(*FIGURE)
    positions = np.arange(len(prefixes))
    axis.bar(
        positions - 0.2,
        [prefix.share for prefix in prefixes],
        0.38,
        yerr=[prefix.margin for prefix in prefixes],
        color=BLUE,
        ecolor="#1b1f24",
        label="nearest neighbours",
    )
    axis.bar(
        positions + 0.2,
        [prefix.chance for prefix in prefixes],
        0.38,
        color=GREY,
        label="by chance",
    )
    axis.scatter(
        positions - 0.2,
        [prefix.most for prefix in prefixes],
        marker="_",
        s=600,
        color=ORANGE,
        label="at most",
    )
    labels = []
    for prefix in prefixes:
        plural = "s" if prefix.length > 1 else ""
        labels.append(f"{prefix.length} token{plural}")
    axis.set_xticks(positions, labels)
    axis.set_xlim(-0.7, len(prefixes) - 0.3)
    axis.set_ylim(0, 1.05)
    axis.legend(frameon=False)
    axis.set(title="Neighbours that share the first ...", ylabel="share")
    return svg_of(figure)


def _font_size(
    tokens: str,
    width: float,
    height: float,
) -> float:
    """Return the size at which tokens fit into a box, or 0 where they would be too small."""
    by_width = 1.2 * width / len(tokens)
    by_height = 0.4 * height
    size = min(by_width, by_height, MOST_FONT)
    if size < LEAST_FONT:
        return 0
    return round(size, 1)


def _number_text(value: float) -> str:
    """Return a figure with four significant digits, or in whole numbers from a thousand on."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _percent_text(share: float) -> str:
    """Return a share in percent, with two significant digits where it is below one percent."""
    if share >= 0.01:
        return f"{100 * share:.1f} %"
    return f"{100 * share:.2g} %"


def _change_text(change: dict[str, Any]) -> str:
    """Return what made a version, such as `assign: added 12`."""
    action = str(change.get("action", "unknown"))
    details = []
    for name, value in change.items():
        if name != "action":
            details.append(f"{name} {value}")
    if not details:
        return action
    return f"{action}: {', '.join(details)}"
