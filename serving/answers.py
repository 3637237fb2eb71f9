"""Answers before their deadline; docs/serving.md has a table of what answers instead of what."""

import asyncio
import logging
from typing import Any

from eager_llm.bundle.bundle import Bundle
from eager_llm.decoding.filters import Filter
from eager_llm.decoding.recommender import Answer, Request
from serving.catalogue import item_row, matching_items, shortfall, similar_items
from serving.catalogue_queue import CatalogueQueue
from serving.decoder import Decoder, DescriptionJob
from serving.errors import ApiError
from serving.events import push_event
from serving.explanations import explain
from serving.histories import History, read_history
from serving.metadata import service_info
from serving.metrics import FALLBACKS
from serving.schemas.answers import (
    DescribeAnswer,
    EventAnswer,
    Explanation,
    FallbackReason,
    ItemsAnswer,
    RankedItem,
    SimilarAnswer,
)
from serving.schemas.metadata import ItemList, ItemSummary
from serving.schemas.requests import (
    BundleName,
    DescribeRequest,
    EventRequest,
    HistoryRequest,
    RecommendRequest,
    SearchRequest,
    SimilarRequest,
)
from serving.settings import ServiceSettings
from serving.store import Store

# Of the time of a request: what is left for the fallback when the decoder is given up.
FALLBACK_SHARE = 0.1
log = logging.getLogger("eager_llm.serving")


class DecodingFailed(Exception):
    """The decoder has no answer.

    Args:
        reason: why; "deadline" or "decoder_failed".
    """

    def __init__(self, reason: Any) -> None:
        super().__init__(reason)
        self.reason = reason


class Answers:
    """Answers requests, each before its deadline.

    Args:
        decoders: "first", and "second" where there are two bundles.
        store: None where users cannot be looked up.

    Attributes:
        info: what `GET /info` answers, computed once.
    """

    def __init__(
        self, decoders: dict[str, Decoder], store: Store | None, settings: ServiceSettings
    ) -> None:
        self.decoders = decoders
        self.store = store
        self.settings = settings
        bundles = {name: decoder.bundle for name, decoder in decoders.items()}
        self.info = service_info(bundles, store is not None, settings)
        self._catalogue = CatalogueQueue(settings.queue)

    @property
    def first_bundle(self) -> Bundle:
        """The bundle that answers where a request names none."""
        return self.decoders["first"].bundle

    async def recommend(self, request: RecommendRequest) -> ItemsAnswer:
        """Return the items that come next."""
        deadline = self._deadline()
        decoder = self._decoder(request.bundle)
        bundle = decoder.bundle
        conditions = request.conditions()
        await self._compile(bundle, conditions, deadline)
        history = await read_history(
            "recommend", bundle, self.store, request, self._decoding_time(deadline)
        )
        reason = history.reason
        if reason is None:
            job = _decoding_request(request, conditions, history)
            try:
                answer = await self._decode("recommend", decoder, job, deadline)
                return await self._model_answer(bundle, answer, history, deadline)
            except DecodingFailed as error:
                reason = error.reason
        excluded = _excluded(request, history)
        items = await self._popular(bundle, request.k, conditions, excluded, deadline)
        return _fallback_answer(bundle, items, request.k, reason, history)

    async def search(self, request: SearchRequest) -> ItemsAnswer:
        """Return the items that fit a query."""
        deadline = self._deadline()
        decoder = self._decoder(request.bundle)
        bundle = decoder.bundle
        self._require_texts()
        conditions = request.conditions()
        await self._compile(bundle, conditions, deadline)
        history = await read_history(
            "search", bundle, self.store, request, self._decoding_time(deadline)
        )
        words = " ".join(request.words.split())
        job = _decoding_request(request, conditions, history, words)
        try:
            answer = await self._decode("search", decoder, job, deadline)
            return await self._model_answer(bundle, answer, history, deadline)
        except DecodingFailed as error:
            reason = error.reason
        items = await self._catalogue.run(
            _seconds_until(deadline),
            matching_items,
            bundle,
            request.words,
            request.k,
            conditions,
            _excluded(request, history),
        )
        return _fallback_answer(bundle, items, request.k, reason, history)

    async def describe(self, request: DescribeRequest) -> DescribeAnswer:
        """Return the model's text of an item, or its title where the model does not answer."""
        deadline = self._deadline()
        decoder = self._decoder(request.bundle)
        self._require_texts()
        row = item_row(decoder.bundle, request.item_id)
        job = DescriptionJob(row, request.max_tokens)
        try:
            text = await self._decode("describe", decoder, job, deadline)
            return DescribeAnswer(item_id=request.item_id, text=text, source="model")
        except DecodingFailed as error:
            reason = error.reason
        FALLBACKS.labels(reason).inc()
        return DescribeAnswer(
            item_id=request.item_id,
            text=decoder.bundle.title(request.item_id),
            source="catalogue",
            reason=reason,
        )

    async def similar(self, request: SimilarRequest) -> SimilarAnswer:
        """Return the nearest items in the index."""
        deadline = self._deadline()
        bundle = self._decoder(request.bundle).bundle
        row = item_row(bundle, request.item_id)
        sources = bundle.recommender.index.levels_of
        if request.source and request.source not in sources:
            message = f"source: the index has {', '.join(sources)}"
            raise ApiError("invalid_request", message, "source")
        items = await self._catalogue.run(
            _seconds_until(deadline),
            similar_items,
            bundle,
            row,
            request.k,
            request.source,
            request.conditions(),
        )
        return SimilarAnswer(items=items, shortfall=shortfall(len(items), request.k, "other "))

    async def items(self, words: str, limit: int) -> ItemList:
        """Return items whose titles hold some words; without words the most popular ones."""
        bundle = self.first_bundle
        timeout = self.settings.deadline_ms / 1000
        find = bundle.keyword_search.find
        item_ids = await self._catalogue.run(timeout, find, words, limit)
        summaries = [ItemSummary(item_id=item, title=bundle.title(item)) for item in item_ids]
        return ItemList(items=summaries)

    async def event(self, request: EventRequest) -> EventAnswer:
        """Push an event of a user to the online store."""
        timeout = self.settings.deadline_ms / 1000
        return await push_event(self.first_bundle, self.store, request, timeout)

    async def _decode(
        self, endpoint: str, decoder: Decoder, job: Request | DescriptionJob, deadline: float
    ) -> Any:
        """Return the decoder's result.

        Raises:
            ApiError: the request is refused.
            DecodingFailed: the deadline has passed, or the model failed.
        """
        try:
            return await decoder.decode(endpoint, job, self._decoding_time(deadline))
        except ApiError:
            raise
        except TimeoutError:
            raise DecodingFailed("deadline") from None
        except Exception as error:  # A model that fails must not take the shop's page with it.
            log.error("the decoder failed: %s: %s", type(error).__name__, error)
            raise DecodingFailed("decoder_failed") from None

    async def _compile(self, bundle: Bundle, conditions: Filter, deadline: float) -> None:
        """Find out what passes a filter, so that neither decoder nor fallback works at it.

        Raises:
            ApiError: the filter does not fit, or there is no time for it.
        """
        columns = bundle.recommender.columns
        if conditions and not columns.remembers(conditions):
            await self._catalogue.run(_seconds_until(deadline), columns.passing, conditions)

    async def _popular(
        self, bundle: Bundle, k: int, conditions: Filter, excluded: set[str], deadline: float
    ) -> list[str]:
        """Return the most popular items; without a filter that waits for nothing."""
        if not conditions:
            return bundle.popular(k, conditions, excluded)
        return await self._catalogue.run(
            _seconds_until(deadline), bundle.popular, k, conditions, excluded
        )

    async def _model_answer(
        self, bundle: Bundle, answer: Answer, history: History, deadline: float
    ) -> ItemsAnswer:
        """Return the model's answer, with its explanations where there is time for them."""
        items: list[RankedItem] = []
        for item_id, score in answer.items:
            item = RankedItem(item_id=item_id, title=bundle.title(item_id), score=score)
            items.append(item)
        if answer.levels is not None:
            try:
                explanations = await self._catalogue.run(
                    _seconds_until(deadline), _explanations, bundle, answer, history
                )
            except ApiError as error:
                log.warning("an answer goes without its explanations: %s", error.message)
                explanations = [None] * len(items)
            for item, explanation in zip(items, explanations, strict=True):
                item.why = explanation
        return ItemsAnswer(
            items=items,
            source="model",
            shortfall=answer.reason,
            ignored_items=history.unknown_items,
            history=history.items[-bundle.recommender.max_history :],
            bundle_version=bundle.version,
        )

    def close(self) -> None:
        """End the thread of the catalogue."""
        self._catalogue.close()

    def _decoding_time(self, deadline: float) -> float:
        """Return the seconds until the decoder is given up, so that the fallback has some left."""
        return _seconds_until(deadline) - FALLBACK_SHARE * self.settings.deadline_ms / 1000

    def _decoder(self, name: BundleName) -> Decoder:
        if name not in self.decoders:
            raise ApiError("no_such_bundle", "the service has no second bundle", "bundle")
        return self.decoders[name]

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.settings.deadline_ms / 1000

    def _require_texts(self) -> None:
        if not self.settings.describe:
            message = "the service was started without texts (EAGER_LLM_DESCRIBE)"
            raise ApiError("not_offered", message)


def _seconds_until(deadline: float) -> float:
    return deadline - asyncio.get_running_loop().time()


def _decoding_request(
    request: HistoryRequest, conditions: Filter, history: History, words: str = ""
) -> Request:
    return Request(
        history=history.items,
        k=request.k,
        filter=conditions,
        exclude_history=request.exclude_history,
        words=words,
        explain=request.explain,
    )


def _excluded(request: HistoryRequest, history: History) -> set[str]:
    return set(history.items) if request.exclude_history else set()


def _explanations(bundle: Bundle, answer: Answer, history: History) -> list[Explanation | None]:
    """Return the explanation of each item of an answer."""
    explanations: list[Explanation | None] = []
    for (item_id, _), level_scores in zip(answer.items, answer.levels or [], strict=True):
        explanations.append(explain(bundle, item_id, level_scores, history.items))
    return explanations


def _fallback_answer(
    bundle: Bundle, item_ids: list[str], k: int, reason: FallbackReason, history: History
) -> ItemsAnswer:
    FALLBACKS.labels(reason).inc()
    items: list[RankedItem] = []
    for item_id in item_ids:
        item = RankedItem(item_id=item_id, title=bundle.title(item_id), score=None)
        items.append(item)
    return ItemsAnswer(
        items=items,
        source="fallback",
        reason=reason,
        shortfall=shortfall(len(items), k),
        ignored_items=history.unknown_items,
        history=history.items[-bundle.recommender.max_history :],
        bundle_version=bundle.version,
    )
