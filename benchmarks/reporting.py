"""What every benchmark prints: the machine, a table, and the figures as one line of JSON."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def machine() -> str:
    """Name the processor, its cores and, where there is one, the GPU."""
    import torch

    metadata = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    )
    name = next(
        (
            line.split(":")[1].strip()
            for line in metadata.splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{name or platform.processor()}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table in Markdown, ready for docs/."""
    cells = [[_text(value) for value in row] for row in rows]
    widths = [max(len(row[n]) for row in [list(columns), *cells]) for n in range(len(columns))]
    print(f"\n{title}\n")
    for row in [list(columns), ["-" * width for width in widths], *cells]:
        print(
            "| "
            + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            + " |"
        )


def finish(figures: dict[str, Any]) -> None:
    """Print the figures as the last line."""
    print()
    print(json.dumps(figures))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return (
            f"{value:.4f}"
            if abs(value) < 1
            else f"{value:.2f}"
            if abs(value) < 100
            else f"{value:,.0f}"
        )
    return f"{value:,}" if isinstance(value, int) else str(value)
