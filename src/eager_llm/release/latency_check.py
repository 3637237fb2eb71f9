"""How long two bundles take for the same single answers.

Shapes: Q timed requests, R resamples.
"""

import time
from collections.abc import Callable

import numpy as np

from eager_llm.bundle.bundle import Bundle
from eager_llm.decoding.recommender import Request
from eager_llm.release.checks import Check
from eager_llm.settings import PromotionSettings

WARM_UP = 3  # answers before the first timed one
TURNS = 3  # timings of each answer; the fastest counts, as a busy machine only adds to it

# Answers one history.
Client = Callable[[list[str]], object]


def compare_latency(
    running: Bundle, new: Bundle, histories: list[list[str]], settings: PromotionSettings, seed: int
) -> Check:
    """Time the same single answers by both bundles in turn, and compare the medians.

    The bound is that of the ratio of medians over resampled requests, both bundles' times of a
    request together. It is the near end: a busy machine slows either one, and only a loss that is
    certain says something of the bundle.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(histories))
    requests = [histories[row] for row in order[: settings.latency_requests]]
    clients = [_client(running), _client(new)]
    running_times, new_times = _timed(clients, requests)
    count = len(requests)
    sample = rng.integers(0, count, (settings.resamples, count))
    running_medians = np.median(running_times[sample], axis=1)
    new_medians = np.median(new_times[sample], axis=1)
    ratios = new_medians / running_medians
    ratio = float(np.quantile(ratios, 1 - settings.confidence))
    return Check(
        name="milliseconds an answer, median",
        running=float(np.median(running_times)) * 1000,
        new=float(np.median(new_times)) * 1000,
        worst=1 - ratio,
        tolerance=settings.latency_tolerance,
        units=f"{count} requests",
    )


def _timed(clients: list[Client], requests: list[list[str]]) -> np.ndarray:
    """Return the fastest time of each client's answer to each request, seconds [clients, Q]."""
    for client in clients:
        for history in requests[:WARM_UP]:
            client(history)
    times = np.full((len(clients), len(requests)), np.inf)
    for _ in range(TURNS):
        for number, history in enumerate(requests):
            for row, client in enumerate(clients):
                seconds = _seconds(client, history)
                times[row, number] = min(times[row, number], seconds)
    return times


def _seconds(client: Client, history: list[str]) -> float:
    started = time.perf_counter()
    client(history)
    return time.perf_counter() - started


def _client(bundle: Bundle) -> Client:
    """Return a function that answers one history by itself, without a cache of earlier ones."""
    recommender = bundle.recommender.with_model(bundle.recommender.model)
    rows = recommender.index.rows

    def answer(history: list[str]) -> object:
        """Answer one history; items that the bundle does not know are left out."""
        items = [item for item in history if item in rows]
        return recommender.answer([Request(items)])

    return answer
