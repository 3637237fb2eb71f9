"""Two refreshes in a row on the made-up demo shop, the second one first with a worse bundle.

python scripts/two_refreshes.py [--run runs/refreshes] [--set SECTION.NAME=VALUE]

Refresh 0 builds from the log. Refresh 1 must be promoted. Refresh 2 is first made worse (annealed at a
thousand times the learning rate, without an item prior) and must be refused; then made rightly, it must
be promoted. Prints the figures, and as the last line one JSON object. Ends with 1 where something does
not hold.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from eager_llm.bundle.bundle import Bundle
from eager_llm.bundle.layout import ITEM_INDEX
from eager_llm.core.files import read_json
from eager_llm.data.demo_shop import demo_increments
from eager_llm.data.tables import Tables
from eager_llm.decoding.recommender import Request
from eager_llm.index.item_index import ItemIndex
from eager_llm.release.run_folder import REFRESHES, RunFolder

ROOT = Path(__file__).resolve().parents[1]
# Far too high a rate, and no item prior, which would do much of the work in the model's stead.
WORSE = ["--set", "refresh.learning_rate=0.2", "--set", "item_prior.weights=[0.0]"]
PROMOTED, REFUSED = 0, 3
# The name of each refresh, the increment that it reads, its own settings and its expected outcome.
REFRESH_PLAN = (
    ("0", 0, [], "first"),
    ("1", 1, [], "promoted"),
    ("2, made worse", 2, WORSE, "refused"),
    ("2", 2, [], "promoted"),
)
FIGURES = (
    "outcome",
    "seconds",
    "reasons",
    "moved",
    "new",
    "users_recommended_a_new_item",
    "checks",
    "table",
    "new_items",
)


def main() -> None:
    """Run the refreshes, check what must hold, print the figures."""
    options = _parser().parse_args()
    run = RunFolder(options.run.resolve())
    if run.folder.exists() and not (run.folder / REFRESHES).is_dir():
        raise SystemExit(f"{run.folder}: is not a run of refreshes; name another folder")
    shutil.rmtree(run.folder, ignore_errors=True)
    settings = ["--settings", str(options.settings.resolve())]
    for override in options.set:
        settings += ["--set", override]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        increments = Path(folder)
        demo_increments(increments, users=options.users)
        for name, number, changes, _ in REFRESH_PLAN:
            increment = increments / str(number)
            results[name] = refresh_and_compare(run, increment, [*settings, *changes])
    figures = {name: _figures(result) for name, result in results.items()}
    print("\n" + json.dumps(figures, indent=2))
    faults = find_faults(results)
    print(json.dumps({"refreshes": figures, "faults": faults}))
    if faults:
        raise SystemExit("; ".join(faults))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run",
        type=Path,
        default=ROOT / "runs" / "refreshes",
        help="folder of the run; an earlier run of this script there is deleted",
    )
    parser.add_argument(
        "--settings", type=Path, default=ROOT / "pipelines" / "settings" / "refreshes.yaml"
    )
    parser.add_argument("--set", action="append", default=[], help="override a setting")
    parser.add_argument("--users", type=int, default=1000, help="customers of the made-up shop")
    return parser


def refresh_and_compare(run: RunFolder, increment: Path, options: list[str]) -> dict[str, Any]:
    """Run one refresh, and compare its bundle with the one that was running.

    Returns:
        The summary of the refresh; how many items moved and how many are new; how many users are
        recommended each new item, where the bundle was promoted.
    """
    old_paths = item_paths(run.bundle) if run.running else {}
    result = refresh(run, increment, options)
    new_paths = item_paths(result["folder"] / "bundle")
    moved = [item for item, path in old_paths.items() if new_paths.get(item) != path]
    new = set(new_paths) - set(old_paths) if old_paths else set()
    counts: dict[str, int] = {}
    if result["status"] == PROMOTED and new:
        counts = users_recommended(run.bundle, new, run.tables)
    return result | {
        "moved": len(moved),
        "new": len(new),
        "users_recommended_a_new_item": counts,
    }


def refresh(run: RunFolder, increment: Path, options: list[str]) -> dict[str, Any]:
    """Run one refresh by the command that people use; return its status, seconds and summary."""
    folder = run.next_refresh()
    command = [sys.executable, "-m", "eager_llm.cli.main", "refresh"]
    command += ["--run", str(run.folder), "--data", str(increment)]
    start = time.monotonic()
    status = subprocess.run([*command, *options], cwd=ROOT).returncode
    seconds = time.monotonic() - start
    if status not in (PROMOTED, REFUSED):
        raise SystemExit(f"refresh with {increment.name} ended with status {status}")
    summary = read_json(folder / "summary.json")
    return {"status": status, "seconds": round(seconds), "folder": folder, **summary}


def item_paths(bundle: Path) -> dict[str, list[str]]:
    """Return each item's tokens."""
    index = ItemIndex.load(bundle / ITEM_INDEX)
    return {item: index.tokens(item) for item in index.item_ids}


def users_recommended(bundle: Path, items: set[str], tables: Path) -> dict[str, int]:
    """Return how many users of the log get each of some items among ten, from their history."""
    recommender = Bundle.load(bundle).recommender
    events = Tables.load(tables).events
    histories = events.groupby("user_id")["item_id"].agg(list)
    counts: Counter[str] = Counter()
    for answer in recommender.answer([Request(history) for history in histories]):
        counts.update(item for item, _ in answer.items)
    return {item: counts[item] for item in sorted(items)}


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    plan = result["plan"]
    figures = {name: result[name] for name in FIGURES}
    figures["action"] = plan["action"]
    figures["drift"] = {name: row["found"] for name, row in plan["drift"].items()}
    figures["steps"] = result["step_seconds"]
    return figures


def find_faults(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return what does not hold."""
    faults = []
    for name, _, _, outcome in REFRESH_PLAN:
        result = results[name]
        if result["outcome"] != outcome:
            faults.append(f"refresh {name}: {result['outcome']}, expected {outcome}")
        if result["moved"]:
            faults.append(f"refresh {name}: {result['moved']} old items moved")
        recommended = any(result["users_recommended_a_new_item"].values())
        if name in ("1", "2") and not recommended:
            faults.append(f"refresh {name}: no new item is recommended to anybody")
    if not results["2, made worse"]["reasons"]:
        faults.append("refresh 2, made worse: refused without a reason")
    return faults


if __name__ == "__main__":
    main()
