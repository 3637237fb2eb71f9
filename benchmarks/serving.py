"""How many requests a second the service holds, beside the same bundle in a plain BentoML service.

python benchmarks/serving.py [--quick] [--bundle DIR] [--features DIR]

Open-loop load on loopback, every request with a history of its own and its answer checked against
the decoder's. Client and service share the machine. A rate is held where the model answers every
request and 99 % of the answers take at most 200 ms from the time at which the request was due.
Prints a table and, as the last line, one JSON object.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from reporting import finish, machine, show
from serving_load import LoadResult, ServiceProcess, running_service, send_load

from eager_llm.bundle.bundle import Bundle

LIMIT_MS = 200
K = 10
SCORE_TOLERANCE = 1e-3
WARM_UP_RATE, WARM_UP_SECONDS = 20.0, 2
# The search for the held rate ends where the gap is this share of the rate.
RATE_PRECISION = 0.05
OURS = "this service"
PLAIN = "plain BentoML, generate"
BATCHED = "plain BentoML, generate, its batching"
# Service → its BentoML name, its import paths. All run with their own defaults.
SERVICES = {
    OURS: ("serving.service:EagerLLM", ["src", "."]),
    PLAIN: ("serving_plain:Plain", ["src", "benchmarks"]),
    BATCHED: ("serving_plain:Batched", ["src", "benchmarks"]),
}
COLUMNS = [
    "service",
    "requests/s",
    "sent",
    "p50 ms",
    "p99 ms",
    "not answered by the model",
    f"p99 <= {LIMIT_MS}",
]
Ranking = list[tuple[str, float]]


@dataclass
class ServiceRuns:
    """The runs of one service.

    Attributes:
        held_rate: the highest rate that it held, requests a second.
        runs: in the order of the search.
        overload: at three times the held rate; None: not tried.
        memory_grown_mb: from before the search until after it.
    """

    held_rate: float
    runs: list[LoadResult] = field(default_factory=list)
    overload: LoadResult | None = None
    memory_grown_mb: float = 0.0

    @property
    def all_runs(self) -> list[LoadResult]:
        """The runs of the search, and the overload."""
        return self.runs if self.overload is None else [*self.runs, self.overload]


def expected_answers(bundle: Bundle, features: Path, seed: int) -> list[tuple[list[str], Ranking]]:
    """Return every history of the published log, shuffled, with the decoder's own answer."""
    rows = bundle.recommender.index.rows
    published = pd.read_parquet(features / "user_history.parquet")["items"]
    unique: set[tuple[str, ...]] = set()
    for history in published:
        items = tuple(item for item in history if item in rows)
        if items:
            unique.add(items)
    ordered = sorted(unique)
    permutation = np.random.default_rng(seed).permutation(len(ordered))
    histories = [list(ordered[n]) for n in permutation]
    rankings = bundle.recommender.recommend(histories, K)
    return list(zip(histories, rankings, strict=True))


def request_bodies(
    answers: list[tuple[list[str], Ranking]], service: str
) -> Iterator[tuple[Any, Ranking]]:
    """Yield request bodies without end, each with its expected answer."""
    for history, ranking in itertools.cycle(answers):
        body = {"items": history, "k": K}
        if service == BATCHED:
            yield {"requests": [body]}, ranking
        else:
            yield body, ranking


def is_decoders_answer(content: Any, expected: Ranking) -> bool:
    """Return whether an answer is the decoder's own.

    Items may change places, also with one beyond the last, where their scores differ by rounding.
    """
    items = content["items"]
    item_ids = {row["item_id"] for row in items}
    if len(items) != len(expected) or len(item_ids) != len(items):
        return False
    scores = dict(expected)
    last_score = expected[-1][1]
    for row, (item_id, score) in zip(items, expected, strict=True):
        own_score = scores.get(row["item_id"], last_score)
        if abs(row["score"] - own_score) > SCORE_TOLERANCE:
            return False
        if row["item_id"] != item_id and abs(row["score"] - score) > SCORE_TOLERANCE:
            return False
    return True


def has_all_items(content: Any, expected: Ranking) -> bool:
    """Return whether a rival answered as many items; its scores are over another vocabulary."""
    answer = content[0] if isinstance(content, list) else content
    return len(answer["items"]) == len(expected)


def search_held_rate(
    run: Callable[[float], LoadResult], first_rate: float, max_runs: int
) -> ServiceRuns:
    """Find the highest rate that is held: by doubling, then by halving the gap."""
    result = ServiceRuns(held_rate=0.0)
    failed_rate: float | None = None
    rate = first_rate
    while len(result.runs) < max_runs:
        load_result = run(rate)
        result.runs.append(load_result)
        if load_result.holds(LIMIT_MS):
            result.held_rate = max(result.held_rate, rate)
        elif failed_rate is None or rate < failed_rate:
            failed_rate = rate
        if failed_rate is None:
            rate = 2 * result.held_rate
            continue
        rate = (result.held_rate + failed_rate) / 2
        if failed_rate - result.held_rate < RATE_PRECISION * failed_rate:
            break
    return result


def measure_service(
    service: str,
    answers: list[tuple[list[str], Ranking]],
    environment: dict[str, str],
    seconds: float,
    max_runs: int,
) -> ServiceRuns:
    """Start a service and find its held rate; ours gets three times that rate besides.

    Args:
        seconds: of each run.
    """
    name, import_paths = SERVICES[service]
    is_right = is_decoders_answer if service == OURS else has_all_items
    bodies = request_bodies(answers, service)
    seeds = itertools.count()
    with running_service(name, import_paths, environment) as process:

        def run(rate: float) -> LoadResult:
            return send_load(process.address, rate, seconds, bodies, is_right, next(seeds))

        send_load(process.address, WARM_UP_RATE, WARM_UP_SECONDS, bodies, is_right, next(seeds))
        if service != OURS:
            return search_held_rate(run, first_rate=5.0, max_runs=max_runs)
        return _measure_ours(process, run, max_runs)


def _measure_ours(
    process: ServiceProcess, run: Callable[[float], LoadResult], max_runs: int
) -> ServiceRuns:
    memory_mb = process.memory_mb
    result = search_held_rate(run, first_rate=40.0, max_runs=max_runs)
    result.overload = run(3 * max(result.held_rate, 40.0))
    result.memory_grown_mb = process.memory_mb - memory_mb
    return result


def table_row(service: str, result: LoadResult) -> list[Any]:
    """Return a row of the table."""
    counts = sorted(result.outcomes.items())
    others = [f"{count} {outcome}" for outcome, count in counts if outcome != "model"]
    return [
        service,
        result.rate,
        result.outcomes.total(),
        result.quantile(0.5),
        result.quantile(0.99),
        ", ".join(others) or "none",
        "yes" if result.holds(LIMIT_MS) else "no",
    ]


def ratio(rate: float, rival_rate: float) -> float | None:
    """Return how many times a rival's rate a rate is; None where the rival held none."""
    return rate / rival_rate if rival_rate else None


def figures_of(results: dict[str, ServiceRuns]) -> dict[str, Any]:
    """Return the figures of the benchmark."""
    ours, plain, batched = results[OURS], results[PLAIN], results[BATCHED]
    wrong = sum(run.outcomes["wrong"] for run in ours.all_runs)
    lost = sum(run.outcomes["lost"] for run in ours.all_runs)
    errors = sum(run.errors for run in ours.runs if run.rate <= ours.held_rate)
    overload_outcomes = ours.overload.outcomes if ours.overload else {}
    return {
        "rate_ratio": ratio(ours.held_rate, plain.held_rate),
        "rate_ratio_batched": ratio(ours.held_rate, batched.held_rate),
        "rate_at_p99_200ms": ours.held_rate,
        "rival_rate_at_p99_200ms": plain.held_rate,
        "batched_rival_rate_at_p99_200ms": batched.held_rate,
        "errors_below_saturation": errors,
        "wrong_answers": wrong,
        "lost_answers": lost,
        "memory_grown_mb": ours.memory_grown_mb,
        "outcomes_at_three_times_the_rate": dict(overload_outcomes),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short runs, rougher figures")
    parser.add_argument("--bundle", type=Path, default=Path("runs/demo/bundle"))
    parser.add_argument("--features", type=Path, default=Path("runs/demo/features"))
    arguments = parser.parse_args()
    seconds, max_runs = (3, 6) if arguments.quick else (10, 10)
    bundle = Bundle.load(arguments.bundle)
    answers = expected_answers(bundle, arguments.features, seed=0)
    environment = {"EAGER_LLM_BUNDLE": str(arguments.bundle.resolve())}
    item_count = len(bundle.recommender.index.item_ids)
    print(f"{machine()}; {item_count} items, {len(answers)} histories")
    results: dict[str, ServiceRuns] = {}
    rows: list[list[Any]] = []
    for service in SERVICES:
        result = measure_service(service, answers, environment, seconds, max_runs)
        results[service] = result
        runs = sorted(result.all_runs, key=lambda run: run.rate)
        rows += [table_row(service, run) for run in runs]
    show("Open-loop load", COLUMNS, rows)
    finish(figures_of(results))


if __name__ == "__main__":
    main()
