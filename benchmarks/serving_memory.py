"""What the service holds in memory over an hour's load.

python benchmarks/serving_memory.py [--quick] [--bundle DIR] [--minutes 60] [--rate 30]

Open-loop load on loopback with made-up histories, hardly one of them twice, so that every cache fills to
its bound. The memory of all the service's processes together is read after every spell of the load.
Prints a table and, as the last line, one JSON object with the slope of a line through the second half.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from reporting import finish, machine, show
from serving_load import load, running

from eager_llm.bundle.bundle import Bundle

SPELLS = 20


def bodies(ids: list[str], seed: int) -> Iterator[tuple[Any, Any]]:
    """Yield requests with histories drawn by lot, for ever."""
    rng = np.random.default_rng(seed)
    while True:
        yield {"items": rng.choice(ids, size=rng.integers(1, 21)).tolist(), "k": 10}, None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two minutes")
    parser.add_argument("--bundle", type=Path, default=Path("runs/demo/bundle"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=30, help="requests a second")
    arguments = parser.parse_args()
    minutes = 2 if arguments.quick else arguments.minutes
    asked = bodies(Bundle.load(arguments.bundle).recommender.index.item_ids, seed=0)
    held, outcomes = [], Counter[str]()
    print(machine())
    with running(
        "serving.service:EagerLLM",
        ["src", "."],
        {"EAGER_LLM_BUNDLE": str(arguments.bundle.resolve())},
    ) as service:
        at_start = service.memory_mb
        for spell in range(SPELLS):
            found = load(
                service.address,
                arguments.rate,
                60 * minutes / SPELLS,
                asked,
                lambda *_: True,
                spell,
            )
            outcomes += found.outcomes
            held.append(service.memory_mb)
            print(
                f"after {minutes * (spell + 1) / SPELLS:g} minutes: {held[-1]:,.0f} MB", flush=True
            )
    moments = minutes * np.arange(1, SPELLS + 1) / SPELLS
    half = SPELLS // 2
    slope = float(np.polyfit(moments[half:] / 60, held[half:], 1)[0])
    show(
        "Memory of the service",
        ["minutes", "MB"],
        [[0.0, at_start], *zip(moments.tolist(), held, strict=True)],
    )
    finish(
        {
            "minutes": minutes,
            "requests": sum(outcomes.values()),
            "not_answered_by_the_model": sum(
                count for outcome, count in outcomes.items() if outcome != "model"
            ),
            "mb_at_start": at_start,
            "mb_half_way": held[half - 1],
            "mb_at_end": held[-1],
            "mb_an_hour_in_second_half": slope,
        }
    )


if __name__ == "__main__":
    main()
