"""Write the README of each step from its code and its placement: `make pages`."""

import importlib
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import docstring_parser

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from eager_llm.core.files import whole_file
from pipelines.graphs.placement import (
    CLAIM,
    ENVIRONMENT,
    GPU,
    STEPS,
    STORE,
    THREADS_VARIABLE,
    Placement,
)

COMPONENTS = ROOT / "components"
FOOTER = "Made from `component.py` and its row of `pipelines/graphs/placement.py` by `make pages`."


def main() -> None:
    """Write every page."""
    for name in steps():
        with whole_file(COMPONENTS / name / "README.md") as draft:
            draft.write_text(page(name), encoding="utf-8")


def steps() -> list[str]:
    """Return the names of all steps."""
    return sorted(file.parent.name for file in COMPONENTS.glob("*/component.py"))


def page(name: str) -> str:
    """Return the page of a step as Markdown."""
    module = importlib.import_module(f"components.{name}.component")
    component = getattr(module, name)
    spec = component.component_spec
    docstring = docstring_parser.parse(component.python_func.__doc__ or "")
    descriptions = {
        parameter.arg_name: parameter.description or "" for parameter in docstring.params
    }
    lines = [f"# {name}", "", module.__doc__.strip(), "", docstring.short_description or ""]
    if docstring.long_description:
        lines += ["", docstring.long_description]
    lines += ["", "## What comes in", "", "| name | type | default | what |", "|---|---|---|---|"]
    for key, value in (spec.inputs or {}).items():
        default = f"`{value.default!r}`" if value.optional else "none"
        lines.append(f"| `{key}` | {_type(value)} | {default} | {_cell(descriptions[key])} |")
    lines += ["", "## What goes out", "", "| name | type | what |", "|---|---|---|"]
    for key, value in (spec.outputs or {}).items():
        lines.append(f"| `{key}` | {_type(value)} | {_cell(descriptions[key])} |")
    lines += ["", "## Where it runs", "", "| what | how much |", "|---|---|"]
    for what, amount in _placement(spec.implementation.container.image, STEPS[name]):
        lines.append(f"| {what} | {amount} |")
    lines += ["", FOOTER, ""]
    return "\n".join(lines)


def _type(spec: Any) -> str:
    """Return an artifact's or a parameter's type as a person calls it: Dataset, String."""
    return str(spec.type).split("@")[0].removeprefix("system.")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _placement(image: str, row: Placement) -> Iterator[tuple[str, str]]:
    """Yield what a step gets and how much of it."""
    request, limit = row.cpu
    accelerator = "none"
    if row.gpus:
        accelerator = f"{row.gpus} `{GPU}` in the manifest for CUDA, else none"
    yield "image", f"`{image}`; in the manifest for CUDA `{image}-cuda`"
    yield (
        "CPU",
        f"{request} asked for, {limit} at most, as many threads (`{THREADS_VARIABLE}`)",
    )
    yield "memory", f"{row.memory} asked for, {row.memory_limit} at most"
    yield "accelerator", accelerator
    if row.shared_memory:
        yield "shared memory", f"{row.shared_memory} at `/dev/shm`, part of the memory"
    yield "tried again", _retries(row)
    yield "ended after", _duration(row.timeout)
    cached = "taken where image, command and all that comes in are the same"
    yield "outputs of an earlier run", cached if row.cached else "never taken"
    if row.store:
        yield "volume", f"claim `{CLAIM}` at `{STORE}`"
    for name, keys in row.secrets:
        variables = ", ".join(f"`{variable}`" for variable in keys.values())
        yield f"secret `{name}`, where it is there", variables
    if row.environment:
        yield "environment", _variables(dict(row.environment))
    yield "environment of every step", _variables(ENVIRONMENT)


def _retries(row: Placement) -> str:
    if not row.retries:
        return "never: a failure is its answer"
    wait = _duration(row.backoff)
    return f"{row.retries} times; the first after {wait}, each later one after twice as long"


def _variables(environment: dict[str, str]) -> str:
    return ", ".join(f"`{variable}={value}`" for variable, value in environment.items())


def _duration(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


if __name__ == "__main__":
    main()
