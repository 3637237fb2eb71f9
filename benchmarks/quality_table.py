"""From measured rows to docs/results.json and the tables of docs/results.md."""

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from reporting import show

METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
HISTORIES = ("kept", "left out")
# A run of `quality.py`, such as "eager-llm, no contrast", has two rows: with the item prior, and alone.
WHOLE = "eager-llm"
WITH_PRIOR, MODEL_ALONE = "EAGER-LLM + item prior", "EAGER-LLM"
PRIOR_ALONE = "item prior alone"
BEGIN, END = "<!-- measured by benchmarks/quality.py -->", "<!-- end of what was measured -->"


def rows_of(record: Path, published: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a method and convention: means over the seeds, and the widest range of any metric."""
    measured = [json.loads(line) for line in record.read_text().splitlines()]
    dataset, found = record.stem, []
    for way in HISTORIES:
        for name, group in groupby(
            sorted(measured, key=lambda r: r["method"]), key=lambda r: r["method"]
        ):
            every = list(group)
            runs = [
                run for run in every if run.get("resolved") == every[-1].get("resolved")
            ]  # never of mixed settings
            table = np.array([[run[way][metric] for metric in METRICS] for run in runs])
            means = dict(zip(METRICS, table.mean(0).round(4).tolist(), strict=True))
            found.append({
                "dataset": dataset, "method": name, "source": "measured", "history": way, **means,
                "spread": round(float((table.max(0) - table.min(0)).max()), 4) if len(runs) > 1 else None,
                "seeds": sorted(run["seed"] for run in runs),
                "seconds": round(float(np.median([run["seconds"] for run in runs]))),
                "machine": sorted({run["machine"] for run in runs}), "settings": runs[0]["settings"],
            })  # fmt: skip
    for row in published:
        blank = dict.fromkeys(METRICS)
        found.append(
            {
                "dataset": dataset,
                "source": "published",
                "history": "kept",
                "spread": None,
                **blank,
                **row,
            }
        )
    return sorted(found, key=lambda row: (HISTORIES.index(row["history"]), -(row["ndcg@10"] or 0)))


def write_results(records: Path, settings: Path, docs: Path | None) -> list[dict[str, Any]]:
    """Print the tables; write them where `docs` is given. Returns all rows."""
    every, text = [], []
    for record in sorted(records.glob("*.jsonl")):
        plan = yaml.safe_load((settings / f"{record.stem}.yaml").read_text(encoding="utf-8"))
        rows = rows_of(record, plan.get("published", []))
        every += rows
        for way in HISTORIES:
            chosen = [row for row in rows if row["history"] == way]
            columns = ("method", *METRICS, "spread", "seeds", "seconds")
            lines = [[_named(row), *(row.get(c) for c in METRICS), row["spread"], _seeds(row), row.get("seconds")]
                     for row in chosen]  # fmt: skip
            show(f"{record.stem}, history {way} in the ranking", columns, lines)
            text += [
                f"\n### {record.stem}, history {way} in the ranking\n",
                _markdown(columns, lines),
            ]
    heads, lines = parts_of(every)
    show("what each part does: recall@10 / ndcg@10, history kept", heads, lines)
    text = [
        "\n### What each part does: recall@10 / ndcg@10, history kept\n",
        _markdown(heads, lines),
        *text,
    ]
    if docs is not None:
        (docs / "results.json").write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
        page = docs / "results.md"
        pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
        block = "\n".join([BEGIN, *text, END])
        page.write_text(
            pattern.sub(lambda _: block, page.read_text(encoding="utf-8")), encoding="utf-8"
        )
    return every


def row_with_prior(run: str) -> str:
    """Return the name of a run's row: the model with the item prior beside it."""
    return run.replace(WHOLE, WITH_PRIOR, 1)


def row_of_model(run: str) -> str:
    """Return the name of a run's row: the model alone."""
    return run.replace(WHOLE, MODEL_ALONE, 1)


def parts_of(every: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[list[Any]]]:
    """Return our method and its ablations, a line each: with the item prior, and alone, on each log."""
    found = {(row["dataset"], row["method"]): row for row in every if row["history"] == "kept"}
    datasets = sorted({dataset for dataset, _ in found})
    names = sorted({name for _, name in found if name.startswith(WITH_PRIOR)})
    heads = ["method"]
    for dataset in datasets:
        heads += [f"{dataset}, with the item prior", f"{dataset}, model alone"]
    lines = []
    for name in names:
        alone = name.replace(WITH_PRIOR, MODEL_ALONE, 1)
        cells: list[Any] = [name.replace(WITH_PRIOR, MODEL_ALONE, 1)]
        for dataset in datasets:
            cells += [_both(found.get((dataset, name))), _both(found.get((dataset, alone)))]
        lines.append(cells)
    return tuple(heads), lines


def _both(row: dict[str, Any] | None) -> str | None:
    return f"{row['recall@10']:.4f} / {row['ndcg@10']:.4f}" if row else None


def _named(row: dict[str, Any]) -> str:
    return f"*{row['method']} (published)*" if row["source"] == "published" else str(row["method"])


def _seeds(row: dict[str, Any]) -> str:
    return ", ".join(map(str, row.get("seeds", []))) or "–"


def _markdown(columns: tuple[str, ...], rows: list[list[Any]]) -> str:
    def cell(value: Any) -> str:
        return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)])
