"""How much of an index stays when its embeddings are made again: other seed, more events.

    python benchmarks/index_refresh.py --data $EAGER_LLM_DATA/scientific
    python benchmarks/index_refresh.py --quick      (the made-up demo shop)

The index is built over an old state of the log, without each user's last two events. Then the same items are encoded
again: over later states of the log, and with another seed. `rebuilt` counts the items whose tokens an index built anew
would change, `refreshed` those that a refresh moves.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from reporting import finish, machine, show

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager_llm.data.demo_shop import demo_shop
from eager_llm.data.importing.importer import import_path
from eager_llm.data.prepare import prepare
from eager_llm.encoders.behaviour import behaviour_embedding
from eager_llm.encoders.semantic import semantic_embedding
from eager_llm.index.build import build_index
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.refresh import refresh_index
from eager_llm.settings import Settings


def moved_share(before: ItemIndex, after: ItemIndex) -> float:
    """Return the share of items whose path differs."""
    return float((before.codes != after.codes).any(axis=1).mean())


def main() -> None:
    """Encode, build, encode again, refresh, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of a log; default: the made-up demo shop")
    parser.add_argument("--tolerance", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--quick", action="store_true", help="the demo shop, one epoch")
    arguments = parser.parse_args()
    settings = Settings.read(
        None, ["behaviour.epochs=1", "index.branching=32"] if arguments.quick else []
    )
    raw = import_path(arguments.data) if arguments.data and not arguments.quick else demo_shop(0)
    tables = prepare(raw, settings.data.min_interactions)
    item_ids = tables.items["item_id"].tolist()
    rows = {item: row for row, item in enumerate(item_ids)}
    number = tables.events["item_id"].map(rows)
    now = [log.tolist() for _, log in number.groupby(tables.events["user_id"])]
    old = [log[:-2] for log in now]
    came_back = np.random.default_rng(0).random(len(now)) < 0.1
    few = [log[:-1] if came else log[:-2] for log, came in zip(now, came_back, strict=True)]

    def encode(histories: list[list[int]], seed: int) -> dict[str, np.ndarray | str | Path]:
        return {
            "semantic": semantic_embedding(tables.items, settings.semantic, seed),
            "behaviour": behaviour_embedding(histories, len(item_ids), settings.behaviour, seed),
        }

    index_settings = settings.index.replace(workers=0)
    built = build_index(item_ids, encode(old, 0), index_settings, 0)
    lines = []
    states = (
        ("the same", old, 0),
        ("one more event of a tenth of the users", few, 0),
        ("two more events of every user", now, 0),
        ("another seed", old, 1),
    )
    for what, histories, seed in states:
        again = encode(histories, seed)
        rebuilt = moved_share(built, build_index(item_ids, again, index_settings, 0))
        for tolerance in arguments.tolerance:
            done = refresh_index(built, item_ids, again, tolerance)
            by_source = done.moved.groupby("source")["item_id"].nunique() / len(item_ids)
            shares = pd.Series(0.0, index=["semantic", "behaviour"]).add(by_source, fill_value=0)
            lines.append(
                [
                    what,
                    tolerance,
                    rebuilt,
                    moved_share(built, done.index),
                    shares["semantic"],
                    shares["behaviour"],
                ]
            )
    print(machine())
    columns = (
        "encoded again with",
        "tolerance",
        "rebuilt",
        "refreshed",
        "by semantic",
        "by behaviour",
    )
    show(
        f"Share of {len(item_ids):,} items whose tokens change, k = {settings.index.branching}, seed 0",
        columns,
        lines,
    )
    finish(
        {
            f"{line[0]}, tolerance {line[1]}": {"rebuilt": line[2], "refreshed": line[3]}
            for line in lines
        }
    )


if __name__ == "__main__":
    main()
