"""How many requests a second the service holds, beside the same bundle in a plain BentoML service.

python benchmarks/serving.py [--quick] [--bundle DIR] [--features DIR]

Open-loop load on loopback, every request with a history of its own and its answer checked against the
decoder's. Client and service share the machine. A rate is held where the model answers every request
and 99 % of the answers take at most 200 ms from the moment at which the request was due. Prints a
table and, as the last line, one JSON object.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from reporting import finish, machine, show
from serving_load import Measured, load, running

from eager_llm.bundle.bundle import Bundle

LIMIT_MS = 200
K = 10
# Beside the services' own defaults, nothing is set: but that a service may not fall back in silence.
OURS, PLAIN, BATCHED = (
    "this service",
    "plain BentoML, generate",
    "plain BentoML, generate, its batching",
)
SERVICES = {
    OURS: ("serving.service:EagerLLM", ["src", "."]),
    PLAIN: ("serving_plain:Plain", ["src", "benchmarks"]),
    BATCHED: ("serving_plain:Batched", ["src", "benchmarks"]),
}


def requests_of(
    bundle: Bundle, features: Path, seed: int
) -> list[tuple[list[str], list[tuple[str, float]]]]:
    """Return every history of the published log, shuffled, with the decoder's own answer."""
    histories = pd.read_parquet(features / "user_history.parquet")["items"]
    known = bundle.recommender.index.rows
    found = sorted({tuple(i for i in history if i in known) for history in histories} - {()})
    order = np.random.default_rng(seed).permutation(len(found))
    chosen = [list(found[n]) for n in order]
    return list(zip(chosen, bundle.recommender.recommend(chosen, K), strict=True))


def bodies_of(known: list[Any], service: str) -> Iterator[tuple[Any, Any]]:
    """Yield request bodies for ever, with what they are judged by."""
    for history, expected in itertools.cycle(known):
        body = {"items": history, "k": K}
        yield {"requests": [body]} if service == BATCHED else body, expected


def right(content: Any, expected: list[tuple[str, float]]) -> bool:
    """Whether an answer is the decoder's own; items may change places where their scores differ by rounding."""
    items = content["items"]
    if len(items) != len(expected) or len({row["item_id"] for row in items}) != len(items):
        return False
    scores = dict(expected)
    for row, (item, score) in zip(items, expected, strict=True):
        own = scores.get(
            row["item_id"], row["score"] if abs(row["score"] - expected[-1][1]) < 1e-3 else np.inf
        )
        if abs(row["score"] - own) > 1e-3 or (
            row["item_id"] != item and abs(row["score"] - score) > 1e-3
        ):
            return False
    return True


def any_items(content: Any, expected: Any) -> bool:
    """Whether a rival answered so many items; its scores are taken over another vocabulary."""
    answer = content[0] if isinstance(content, list) else content
    return len(answer["items"]) == len(expected)


def held_rate(ask: Any, first: float, steps: int) -> tuple[float, list[Measured]]:
    """Find the highest rate that is held: doubling, then halving the gap."""
    runs, low, high, rate = [], 0.0, None, first
    while len(runs) < steps:
        measured = ask(rate)
        runs.append(measured)
        if measured.holds(LIMIT_MS):
            low = max(low, rate)
        else:
            high = rate if high is None else min(high, rate)
        rate = low * 2 if high is None else (low + high) / 2
        if high is not None and high - low < 0.05 * high:
            break
    return low, runs


def row_of(service: str, measured: Measured) -> list[Any]:
    """Return a row of the table."""
    count = sum(measured.outcomes.values())
    others = ", ".join(
        f"{n} {outcome}" for outcome, n in sorted(measured.outcomes.items()) if outcome != "model"
    )
    quantiles = [measured.quantile(0.5), measured.quantile(0.99)]
    held = "yes" if measured.holds(LIMIT_MS) else "no"
    return [service, measured.rate, count, *quantiles, others or "none", held]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short runs, rougher figures")
    parser.add_argument("--bundle", type=Path, default=Path("runs/demo/bundle"))
    parser.add_argument("--features", type=Path, default=Path("runs/demo/features"))
    arguments = parser.parse_args()
    seconds, steps = (3, 6) if arguments.quick else (10, 10)
    bundle = Bundle.load(arguments.bundle)
    known = requests_of(bundle, arguments.features, seed=0)
    environment = {"EAGER_LLM_BUNDLE": str(arguments.bundle.resolve())}
    print(f"{machine()}; {len(bundle.recommender.index.item_ids)} items, {len(known)} histories")
    rows, rates, ours, beyond, grown = [], {}, [], None, 0.0
    for service, (name, path) in SERVICES.items():
        judge, bodies = right if service == OURS else any_items, bodies_of(known, service)
        with running(name, path, environment) as started:
            seeds = itertools.count()

            def ask(rate: float, seconds: float = seconds) -> Measured:
                return load(started.address, rate, seconds, bodies, judge, next(seeds))  # noqa: B023

            ask(20.0, 2)
            memory = started.memory_mb
            rates[service], runs = held_rate(ask, 40.0 if service == OURS else 5.0, steps)
            if service == OURS:
                ours = runs
                beyond = ask(3 * max(rates[service], 40.0))
                runs = [*runs, beyond]
                grown = started.memory_mb - memory
        rows += [row_of(service, measured) for measured in sorted(runs, key=lambda one: one.rate)]
    columns = [
        "service",
        "requests/s",
        "sent",
        "p50 ms",
        "p99 ms",
        "not answered by the model",
        f"p99 <= {LIMIT_MS}",
    ]
    show("Open-loop load", columns, rows)
    below = [one for one in ours if one.rate <= rates[OURS]]
    every = [*ours, beyond]
    finish(
        {
            "rate_ratio": rates[OURS] / rates[PLAIN] if rates[PLAIN] else None,
            "rate_ratio_batched": rates[OURS] / rates[BATCHED] if rates[BATCHED] else None,
            "rate_at_p99_200ms": rates[OURS],
            "rival_rate_at_p99_200ms": rates[PLAIN],
            "batched_rival_rate_at_p99_200ms": rates[BATCHED],
            "errors_below_saturation": sum(one.errors for one in below),
            "wrong_answers": sum(one.outcomes["wrong"] for one in every),
            "lost_answers": sum(one.outcomes["lost"] for one in every),
            "memory_grown_mb": grown,
            "outcomes_at_three_times_the_rate": dict(beyond.outcomes),
        }
    )


if __name__ == "__main__":
    main()
