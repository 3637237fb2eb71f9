"""A bundle behind its queue: everything that the model is asked goes through one thread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eager_llm.bundle.bundle import Bundle
from eager_llm.core.errors import UserError
from eager_llm.decoding.recommender import Recommender, Request
from serving.batching import Batcher, Done, QueueFull
from serving.errors import ApiError
from serving.metrics import BATCH, BEAMS, HITS, MISSES, QUEUE, SECONDS, stage
from serving.settings import ServiceSettings


@dataclass(frozen=True)
class Description:
    """A text that is wanted of an item, so many tokens long at most."""

    row: int
    most: int


class Decoder:
    """Answers from a bundle, in batches.

    Args:
        settings: how many may wait, and how many are decoded together.
    """

    def __init__(self, bundle: Bundle, settings: ServiceSettings) -> None:
        self.bundle, self.settings = bundle, settings
        self._batches: Batcher[Request | Description] = Batcher(
            "decoder", self._work, settings.batch, settings.queue, BATCH.observe
        )
        self._seen = {"hits": 0, "misses": 0}

    def warm_up(self) -> None:
        """Answer once in every way: kernels are compiled and tables are read before anybody waits."""
        item = self.bundle.recommender.index.item_ids[0]
        for size in sorted({1, 8, self.settings.batch}):
            self._work([Request([item] * (1 + n % 4), 10) for n in range(size)])
        self._work([Request([item], 10, explain=True, exclude_history=True)])
        if self.settings.describe:
            self._work([Request([], 10, words="a"), Description(0, 2)])
        self.bundle.near.nearest(0, 1)
        self.bundle.finder.find("a", 1)

    async def ask(self, endpoint: str, job: Request | Description, timeout: float) -> Any:
        """Have a job done; see `Batcher.submit` for what else it raises.

        Raises:
            ApiError: the queue is full, or a filter does not fit.
        """
        try:
            with stage(endpoint, "decode") as span:
                done: Done = await self._batches.submit(job, timeout)
                span.set_attributes({"queue_ms": 1000 * done.waited, "batch_size": done.batch})
        except QueueFull as error:
            wait = max(1, math.ceil(self._batches.wait_estimate))
            raise ApiError("overloaded", f"{error}; try again later", retry_after=wait) from None
        except UserError as error:
            raise ApiError("invalid_filter", str(error), "filters") from None
        finally:
            QUEUE.set(len(self._batches))
        SECONDS.labels(endpoint, "queue").observe(done.waited)
        return done.value

    def close(self) -> None:
        """End the thread."""
        self._batches.close()

    def _work(self, jobs: Sequence[Request | Description]) -> list[Any]:
        results: dict[int, Any] = {}
        texts = {n: job for n, job in enumerate(jobs) if isinstance(job, Description)}
        words = [n for n, job in enumerate(jobs) if isinstance(job, Request) and job.words]
        plain = [n for n, job in enumerate(jobs) if isinstance(job, Request) and not job.words]
        for numbers, recommender in ((plain, "recommender"), (words, "plain")):
            if numbers:
                asked = [jobs[n] for n in numbers]
                results |= zip(
                    numbers, _answer(getattr(self.bundle, recommender), asked), strict=True
                )
        for n, job in texts.items():
            results[n] = self.bundle.writer.describe(job.row, job.most)
        self._count(jobs)
        return [results[n] for n in range(len(jobs))]

    def _count(self, jobs: Sequence[Request | Description]) -> None:
        recommender = self.bundle.recommender
        for job in jobs:
            if isinstance(job, Request):
                BEAMS.observe(max(job.beams or recommender.settings.beams, job.k))
        if recommender.prefixes is not None:
            for name, counter in (("hits", HITS), ("misses", MISSES)):
                now = getattr(recommender.prefixes, name)
                counter.inc(now - self._seen[name])
                self._seen[name] = now


def _answer(recommender: Recommender, requests: list[Any]) -> list[Any]:
    """Answer requests; one that does not fit the catalogue gets its UserError, and spoils no other."""
    results: list[Any] = [
        recommender.mistake(request) if request.filter else None for request in requests
    ]
    fit = [n for n, mistake in enumerate(results) if mistake is None]
    for n, answer in zip(fit, recommender.answer([requests[n] for n in fit]), strict=True):
        results[n] = answer
    return results
