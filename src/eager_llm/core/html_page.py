"""HTML pages with their pictures inside: readable offline, the same bytes for the same content."""

import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

# One colour, one meaning: what is looked at, what it is compared with, what is only beside it.
BLUE = "#1f6feb"
LIGHT_BLUE = "#9cc3ff"
ORANGE = "#d9822b"
GREY = "#8a8f98"
GREEN = "#167a3e"


def render_page(template: Path, **values: Any) -> str:
    """Return a page from a template, which may include `page.css`; values are escaped.

    Args:
        template: the template's file.
        values: what its names stand for; a name without a value is an error.
    """
    folders = [template.parent, Path(__file__).parent]
    environment = Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(template.name).render(**values)


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    """Return a matplotlib figure and its axes, side by side.

    Args:
        width: in inches.
        height: in inches.
        columns: number of axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(1, columns, squeeze=False)
    axes = list(grid[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg_of(figure: Any) -> str:
    """Return a figure as an <svg> element, without dates or random ids."""
    import matplotlib as mpl

    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": "eager-llm"}):
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
