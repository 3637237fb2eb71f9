"""HTML pages with their pictures inside: readable offline, the same bytes for the same content."""

import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

# One colour, one meaning: what is looked at, what it is compared with, what is only beside it.
BLUE, LIGHT_BLUE, ORANGE, GREY, GREEN = "#1f6feb", "#9cc3ff", "#d9822b", "#8a8f98", "#167a3e"


def render_page(template: Path, **values: Any) -> str:
    """Return a page from a template, which may include `page.css`; values are escaped."""
    places = FileSystemLoader([template.parent, Path(__file__).parent])
    environment = Environment(loader=places, autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template.name).render(**values)


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    """Return a matplotlib figure of so many inches and its axes, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg_of(figure: Any) -> str:
    """Return a figure as an <svg> element."""
    import matplotlib as mpl

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": "eager-llm"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
