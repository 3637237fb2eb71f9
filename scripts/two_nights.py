"""Two nights in a row on the made-up demo shop, and a worse bundle on the second: what must hold is checked.

python scripts/two_nights.py [--run runs/nights] [--settings pipelines/settings/nights.yaml] [--set SECTION.NAME=VALUE]

Night 0 builds from the log; night 1 must be promoted; night 2 is first made worse (annealed at a thousand times the
learning rate, nothing weighed beside the model) and must be refused, then made rightly, and must be promoted. Prints
a table, and as the last line one JSON object.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eager_llm.bundle.bundle import Bundle
from eager_llm.core.files import read_json
from eager_llm.data.demo_shop import demo_increments
from eager_llm.data.tables import Tables
from eager_llm.decoding.recommender import Request
from eager_llm.index.item_index import ItemIndex

ROOT = Path(__file__).resolve().parents[1]
# Annealed to death, and without the counted evidence that would do much of the work in its place.
WORSE = ["--set", "refresh.learning_rate=0.2", "--set", "item_prior.weights=[0.0]"]
PROMOTED, REFUSED = 0, 3


def night(run: Path, arrivals: Path, number: int, options: list[str]) -> dict[str, Any]:
    """Run one night by the command that people use; return its status, seconds and summary."""
    before = (
        {path.name for path in (run / "refreshes").iterdir()}
        if (run / "refreshes").is_dir()
        else set()
    )
    command = [
        sys.executable,
        "-m",
        "eager_llm.cli.main",
        "night",
        "--run",
        str(run),
        "--data",
        str(arrivals / str(number)),
    ]
    started = time.monotonic()
    status = subprocess.run([*command, *options], cwd=ROOT).returncode
    seconds = time.monotonic() - started
    if status not in (PROMOTED, REFUSED):
        raise SystemExit(f"night {number} ended with status {status}")
    (made,) = {path.name for path in (run / "refreshes").iterdir()} - before
    return {
        "status": status,
        "seconds": round(seconds),
        "folder": made,
        **read_json(run / "refreshes" / made / "summary.json"),
    }


def paths_of(bundle: Path) -> dict[str, list[str]]:
    """Return each item's tokens."""
    index = ItemIndex.load(bundle / "item_index.parquet")
    return {item: index.tokens(item) for item in index.item_ids}


def recommended(bundle: Path, items: set[str], tables: Path) -> dict[str, int]:
    """Return how many users of the log are recommended each of some items, among ten, from their history as it is."""
    loaded, events = Bundle.load(bundle), Tables.load(tables).events
    histories = events.groupby("user_id")["item_id"].agg(list)
    answers = loaded.recommender.answer([Request(history) for history in histories])
    found = [item for answer in answers for item, _ in answer.items if item in items]
    return {item: found.count(item) for item in sorted(items)}


def main() -> None:
    """Run the nights, check what must hold, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", type=Path, default=ROOT / "runs" / "nights", help="folder of the run; made anew"
    )
    parser.add_argument(
        "--settings", type=Path, default=ROOT / "pipelines" / "settings" / "nights.yaml"
    )
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--users", type=int, default=1000, help="customers of the made-up shop")
    asked = parser.parse_args()
    run = asked.run.resolve()
    if run.exists() and not (run / "refreshes").is_dir():
        raise SystemExit(f"{run}: is not a run of nights; name another folder")
    shutil.rmtree(run, ignore_errors=True)
    options = [
        "--settings",
        str(asked.settings.resolve()),
        *(word for one in asked.set for word in ("--set", one)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        arrivals = Path(folder)
        demo_increments(arrivals, users=asked.users)
        done = {}
        for name, number, more in (
            ("0", 0, []),
            ("1", 1, []),
            ("2, made worse", 2, WORSE),
            ("2", 2, []),
        ):
            paths = paths_of(run / "bundle") if done else {}
            done[name] = found = night(run, arrivals, number, [*options, *more])
            now = paths_of(run / "refreshes" / found["folder"] / "bundle")
            new = set(now) - set(paths) if paths else set()
            moved = [item for item in paths if now.get(item) != paths[item]]
            counts = (
                recommended(run / "bundle", new, run / "tables")
                if found["status"] == PROMOTED and new
                else {}
            )
            found |= {"moved": len(moved), "new": len(new), "users_recommended_a_new_item": counts}
    figures = {name: _row(found) for name, found in done.items()}
    print("\n" + json.dumps(figures, indent=2))
    faults = _faults(done)
    print(json.dumps({"nights": figures, "faults": faults}))
    if faults:
        raise SystemExit("; ".join(faults))


def _row(found: dict[str, Any]) -> dict[str, Any]:
    names = (
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
    drift = {name: row["found"] for name, row in found["plan"]["drift"].items()}
    return {
        **{name: found[name] for name in names},
        "action": found["plan"]["action"],
        "drift": drift,
        "steps": found["step_seconds"],
    }


def _faults(done: dict[str, Any]) -> list[str]:
    """Return what does not hold."""
    faults = []
    for name, expected in (
        ("0", "first"),
        ("1", "promoted"),
        ("2, made worse", "refused"),
        ("2", "promoted"),
    ):
        found = done[name]
        if found["outcome"] != expected:
            faults.append(f"night {name}: {found['outcome']}, expected {expected}")
        if found["moved"]:
            faults.append(f"night {name}: {found['moved']} old items moved")
        if name in ("1", "2") and not any(found["users_recommended_a_new_item"].values()):
            faults.append(f"night {name}: no new item is recommended to anybody")
    if not done["2, made worse"]["reasons"]:
        faults.append("night 2, made worse: refused without a reason")
    return faults


if __name__ == "__main__":
    main()
