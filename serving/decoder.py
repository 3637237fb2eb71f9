"""A bundle behind its queue: one thread does all work of the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eager_llm.bundle.bundle import Bundle
from eager_llm.core.errors import UserError
from eager_llm.decoding.recommender import Recommender, Request
from serving.batching import Batcher, JobResult, QueueFull
from serving.errors import ApiError
from serving.metrics import BATCH, BEAMS, HITS, MISSES, QUEUE, SECONDS, stage
from serving.settings import ServiceSettings


@dataclass(frozen=True)
class DescriptionJob:
    """Write the text of an item.

    Attributes:
        row: of the item in the index.
        max_tokens: length of the text, at most.
    """

    row: int
    max_tokens: int


Job = Request | DescriptionJob


class Decoder:
    """Answers from a bundle, in batches.

    Args:
        settings: bounds of the queue and of a batch.
    """

    def __init__(self, bundle: Bundle, settings: ServiceSettings) -> None:
        self.bundle = bundle
        self.settings = settings
        self._batches: Batcher[Job] = Batcher(
            "decoder",
            self._work,
            settings.batch,
            settings.queue,
            BATCH.observe,
        )
        self._cache_hits = 0
        self._cache_misses = 0

    def warm_up(self) -> None:
        """Answer once in every way, so that no caller waits for kernels or tables."""
        item = self.bundle.recommender.index.item_ids[0]
        for batch_size in sorted({1, 8, self.settings.batch}):
            lengths = [1 + n % 4 for n in range(batch_size)]
            self._work([Request([item] * length, 10) for length in lengths])
        explained = Request([item], 10, explain=True, exclude_history=True)
        self._work([explained])
        if self.settings.describe:
            search = Request([], 10, words="a")
            description = DescriptionJob(row=0, max_tokens=2)
            self._work([search, description])
        self.bundle.prepare()

    async def decode(self, endpoint: str, job: Job, timeout: float) -> Any:
        """Return the result of a job: an `Answer`, or a text.

        Args:
            endpoint: for the metrics.
            timeout: seconds.

        Raises:
            ApiError: the queue is full, or a filter does not fit.
            TimeoutError: the job was not done in time.
            Exception: whatever the model raised for this job.
        """
        try:
            with stage(endpoint, "decode") as span:
                result: JobResult = await self._batches.submit(job, timeout)
                queue_ms = 1000 * result.queue_seconds
                span.set_attributes({"queue_ms": queue_ms, "batch_size": result.batch_size})
        except QueueFull as error:
            wait = max(1, math.ceil(self._batches.wait_estimate))
            raise ApiError("overloaded", f"{error}; try again later", retry_after=wait) from None
        except UserError as error:
            raise ApiError("invalid_filter", str(error), "filters") from None
        finally:
            QUEUE.set(len(self._batches))
        SECONDS.labels(endpoint, "queue").observe(result.queue_seconds)
        return result.value

    def close(self) -> None:
        """End the thread."""
        self._batches.close()

    def _work(self, jobs: Sequence[Job]) -> list[Any]:
        """Return a result for each job, in their order.

        Recommendations are decoded first, then searches, then texts: each kind has its model.
        """
        # Each kind of job by its number in the batch.
        recommendations: dict[int, Request] = {}
        searches: dict[int, Request] = {}
        descriptions: dict[int, DescriptionJob] = {}
        for number, job in enumerate(jobs):
            if isinstance(job, DescriptionJob):
                descriptions[number] = job
            elif job.words:
                searches[number] = job
            else:
                recommendations[number] = job
        results: dict[int, Any] = {}
        if recommendations:
            results |= _answers(self.bundle.recommender, recommendations)
        if searches:
            results |= _answers(self.bundle.text_recommender, searches)
        for number, job in descriptions.items():
            results[number] = self.bundle.text_generator.describe(job.row, job.max_tokens)
        self._count(jobs)
        return [results[number] for number in range(len(jobs))]

    def _count(self, jobs: Sequence[Job]) -> None:
        """Update the metrics of the beams and of the prefix cache."""
        recommender = self.bundle.recommender
        for job in jobs:
            if isinstance(job, Request):
                beams = job.beams or recommender.settings.beams
                BEAMS.observe(max(beams, job.k))
        cache = recommender.prefix_cache
        if cache is not None:
            # The cache counts from its start, a counter of Prometheus takes the difference.
            HITS.inc(cache.hits - self._cache_hits)
            MISSES.inc(cache.misses - self._cache_misses)
            self._cache_hits = cache.hits
            self._cache_misses = cache.misses


def _answers(recommender: Recommender, requests: dict[int, Request]) -> dict[int, Any]:
    """Answer requests by their number.

    A request that does not fit the catalogue gets its UserError, and the others their answers.
    """
    results: dict[int, Any] = {}
    valid: dict[int, Request] = {}
    for number, request in requests.items():
        if request.filter:
            try:
                recommender.validate(request)
            except UserError as error:
                results[number] = error
                continue
        valid[number] = request
    answers = recommender.answer(list(valid.values()))
    results |= zip(valid, answers, strict=True)
    return results
