"""Write the README of each step from its code and its row of pipelines/graphs/placement.py: `make pages`."""

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
    spec, told = (
        component.component_spec,
        docstring_parser.parse(component.python_func.__doc__ or ""),
    )
    said = {parameter.arg_name: parameter.description or "" for parameter in told.params}
    lines = [f"# {name}", "", module.__doc__.strip(), "", told.short_description or ""]
    lines += ["", told.long_description] if told.long_description else []
    lines += ["", "## What comes in", "", "| name | type | default | what |", "|---|---|---|---|"]
    for key, given in (spec.inputs or {}).items():
        default = "none" if not given.optional else f"`{given.default!r}`"
        lines.append(f"| `{key}` | {_type(given)} | {default} | {_cell(said[key])} |")
    lines += ["", "## What goes out", "", "| name | type | what |", "|---|---|---|"]
    lines += [
        f"| `{key}` | {_type(made)} | {_cell(said[key])} |"
        for key, made in (spec.outputs or {}).items()
    ]
    lines += ["", "## Where it runs", "", "| what | how much |", "|---|---|"]
    lines += [
        f"| {what} | {how} |"
        for what, how in _placed(spec.implementation.container.image, STEPS[name])
    ]
    lines += [
        "",
        "Made from `component.py` and its row of `pipelines/graphs/placement.py` by `make pages`.",
        "",
    ]
    return "\n".join(lines)


def _type(spec: Any) -> str:
    """Return an artifact's or a parameter's type as a person calls it: Dataset, String."""
    return str(spec.type).split("@")[0].removeprefix("system.")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _placed(image: str, row: Placement) -> Iterator[tuple[str, str]]:
    yield "image", f"`{image}`; in the manifest for CUDA `{image}-cuda`"
    yield (
        "CPU",
        f"{row.cpu[0]} asked for, {row.cpu[1]} at most, as many threads (`{THREADS_VARIABLE}`)",
    )
    yield "memory", f"{row.memory} asked for, {row.memory_limit} at most"
    yield (
        "accelerator",
        f"{row.gpus} `{GPU}` in the manifest for CUDA, else none" if row.gpus else "none",
    )
    if row.shared_memory:
        yield "shared memory", f"{row.shared_memory} at `/dev/shm`, part of the memory"
    again = f"{row.retries} times; the first after {_long(row.backoff)}, each later one after twice as long"
    yield "tried again", again if row.retries else "never: a failure is its answer"
    yield "ended after", _long(row.timeout)
    yield (
        "outputs of an earlier run",
        (
            "taken where image, command and all that comes in are the same"
            if row.cached
            else "never taken"
        ),
    )
    if row.store:
        yield "volume", f"claim `{CLAIM}` at `{STORE}`"
    for name, keys in row.secrets:
        variables = ", ".join(f"`{variable}`" for variable in keys.values())
        yield f"secret `{name}`, where it is there", variables
    if row.environment:
        yield (
            "environment",
            ", ".join(f"`{variable}={value}`" for variable, value in row.environment),
        )
    yield (
        "environment of every step",
        ", ".join(f"`{variable}={value}`" for variable, value in ENVIRONMENT.items()),
    )


def _long(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


if __name__ == "__main__":
    main()
