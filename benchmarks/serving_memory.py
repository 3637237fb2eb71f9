"""How much memory the service holds over an hour's load.

python benchmarks/serving_memory.py [--quick] [--bundle DIR] [--minutes 60] [--rate 30]

Open-loop load on loopback with made-up histories, hardly one of them twice, so that every cache
fills to its bound. The memory of all the service's processes together is read after every interval
of the load. Prints a table and, as the last line, one JSON object with the slope of a line through
the second half.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from reporting import finish, machine, show
from serving_load import ServiceProcess, running_service, send_load

from eager_llm.bundle.bundle import Bundle

INTERVALS = 20
MAX_HISTORY = 20


def random_bodies(item_ids: list[str], seed: int) -> Iterator[tuple[Any, Any]]:
    """Yield requests with random histories, without end."""
    rng = np.random.default_rng(seed)
    while True:
        length = rng.integers(1, MAX_HISTORY + 1)
        history = rng.choice(item_ids, size=length)
        yield {"items": history.tolist(), "k": 10}, None


def measure_memory(
    service: ServiceProcess, bodies: Iterator[tuple[Any, Any]], rate: float, minutes: float
) -> tuple[list[float], Counter[str]]:
    """Return the service's memory after every interval, in MB, and the outcomes of all requests."""
    memory_mb: list[float] = []
    outcomes: Counter[str] = Counter()
    seconds = 60 * minutes / INTERVALS
    for interval in range(INTERVALS):
        result = send_load(
            service.address,
            rate,
            seconds,
            bodies,
            is_right=lambda *_: True,
            seed=interval,
        )
        outcomes += result.outcomes
        memory_mb.append(service.memory_mb)
        passed = minutes * (interval + 1) / INTERVALS
        print(f"after {passed:g} minutes: {memory_mb[-1]:,.0f} MB", flush=True)
    return memory_mb, outcomes


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
    item_ids = Bundle.load(arguments.bundle).recommender.index.item_ids
    bodies = random_bodies(item_ids, seed=0)
    environment = {"EAGER_LLM_BUNDLE": str(arguments.bundle.resolve())}
    print(machine())
    with running_service("serving.service:EagerLLM", ["src", "."], environment) as service:
        start_mb = service.memory_mb
        memory_mb, outcomes = measure_memory(service, bodies, arguments.rate, minutes)
    times = minutes * np.arange(1, INTERVALS + 1) / INTERVALS
    half = INTERVALS // 2
    hours = times[half:] / 60
    slope = float(np.polyfit(hours, memory_mb[half:], 1)[0])
    rows = [[0.0, start_mb], *zip(times.tolist(), memory_mb, strict=True)]
    show("Memory of the service", ["minutes", "MB"], rows)
    finish(
        {
            "minutes": minutes,
            "requests": outcomes.total(),
            "not_answered_by_the_model": outcomes.total() - outcomes["model"],
            "mb_at_start": start_mb,
            "mb_half_way": memory_mb[half - 1],
            "mb_at_end": memory_mb[-1],
            "mb_an_hour_in_second_half": slope,
        }
    )


if __name__ == "__main__":
    main()
