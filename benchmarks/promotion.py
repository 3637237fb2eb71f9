"""How often promotion refuses a bundle that is as good, and one that is worse, by the users of the test part.

python benchmarks/promotion.py [--quick] [--run runs/refreshes]

From a run of refreshes (`make two-refreshes`): what the running bundle and the one before gained on each target of the last
night's test part. Users are drawn from these; which bundle is the new one is drawn by lot for each user, so that both
are equally good and differ as two nights do; a worse one then loses a share of its hits. Prints a table and, as the
last line, one JSON object.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from reporting import finish, show

from eager_llm.bundle.bundle import Bundle
from eager_llm.bundle.layout import MANIFEST
from eager_llm.core.files import read_json
from eager_llm.data.splits import assign_splits, targets
from eager_llm.data.tables import Tables
from eager_llm.evaluation.metrics import gains, target_ranks
from eager_llm.evaluation.paired import paired_difference
from eager_llm.release.compare import ranking
from eager_llm.settings import PromotionSettings, Settings

LOSSES = {"as good": 0.0, "5 % worse": 0.05, "10 % worse": 0.1, "20 % worse": 0.2}


def measured(run: Path, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both bundles' gains and the user of each target that both know, [targets] each."""
    settings = Settings.from_dict(read_json(run / "bundle" / MANIFEST)["settings"])
    tables = Tables.load(run / "tables")
    asked = targets(assign_splits(tables, settings.data), settings.data.max_history)
    asked = asked[asked["split"] == "test"]
    logs = dict(iter(tables.events.groupby("user_id")))
    histories = [
        _before(logs[user], moment)
        for user, moment in zip(asked["user_id"], asked["moment"], strict=True)
    ]
    before, now = (Bundle.load(run / name) for name in ("before", "bundle"))
    found = [
        gains(target_ranks(ranking(bundle, histories), asked["item_id"].tolist()), metric)
        for bundle in (before, now)
    ]
    known = asked["item_id"].isin(before.recommender.index.rows).to_numpy()
    return (
        found[0][known],
        found[1][known],
        np.unique(asked["user_id"].to_numpy()[known], return_inverse=True)[1],
    )


def _before(log: pd.DataFrame, moment: pd.Timestamp) -> list[str]:
    return log[log["timestamp"] < moment]["item_id"].tolist()


def refusals(
    first: np.ndarray,
    second: np.ndarray,
    users: np.ndarray,
    drawn: int,
    trials: int,
    settings: PromotionSettings,
) -> dict[str, float]:
    """Return how often each of `LOSSES` is refused with so many users in the test part."""
    rng, cases = (
        np.random.default_rng(0),
        [np.flatnonzero(users == user) for user in np.unique(users)],
    )
    counts = dict.fromkeys(LOSSES, 0)
    for trial in range(trials):
        chosen = [cases[number] for number in rng.integers(0, len(cases), drawn)]
        rows, unit = (
            np.concatenate(chosen),
            np.repeat(np.arange(drawn), [len(case) for case in chosen]),
        )
        swapped = (rng.random(drawn) < 0.5)[unit]
        running = np.where(swapped, second[rows], first[rows])
        new = np.where(swapped, first[rows], second[rows])
        for name, loss in LOSSES.items():
            worse = np.where(rng.random(len(new)) < loss, 0.0, new)
            ones = np.ones(len(rows))
            found = paired_difference(
                worse, running, ones, unit, settings.resamples, settings.confidence, trial
            )
            counts[name] += found.low < -settings.tolerance * found.second
    return {name: count / trials for name, count in counts.items()}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/refreshes"))
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    settings = PromotionSettings(resamples=300)
    first, second, users = measured(asked.run, settings.metric)
    sizes = (100, 200) if asked.quick else (100, 200, 400, 800)
    table = {
        n: refusals(first, second, users, n, 20 if asked.quick else 100, settings) for n in sizes
    }
    rows: list[list[Any]] = [
        [n, *(f"{value:.0%}" for value in row.values())] for n, row in table.items()
    ]
    show("Refused by promotion", ["users in the test part", *LOSSES], rows)
    finish({
        "targets_a_user": len(users) / (users.max() + 1), "deviation": float((second - first).std()), "refused": table,
    })  # fmt: skip


if __name__ == "__main__":
    main()
