"""Answers before their deadline; docs/serving.md has a table of what answers instead of what."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from eager_llm.bundle.bundle import Bundle
from eager_llm.core.errors import UserError
from eager_llm.decoding.recommender import Answer, Request
from serving.catalogue import item_row, matching_items, shortfall, similar_items
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
    FallbackReason,
    ItemsAnswer,
    RankedItem,
    SimilarAnswer,
)
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

Result = TypeVar("Result")
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

    @property
    def first_bundle(self) -> Bundle:
        """The bundle that answers where a request names none."""
        return self.decoders["first"].bundle

    async def recommend(self, request: RecommendRequest) -> ItemsAnswer:
        """Return the items that come next."""
        deadline = self._deadline()
        decoder = self._decoder(request.bundle)
        history = await read_history("recommend", decoder.bundle, self.store, request)
        reason = history.reason
        if reason is None:
            job = _decoding_request(request, history)
            try:
                answer = await self._decode("recommend", decoder, job, deadline)
                return _model_answer(decoder.bundle, answer, history)
            except DecodingFailed as error:
                reason = error.reason
        items = await _run_beside(
            decoder.bundle.popular, request.k, request.conditions(), _excluded(request, history)
        )
        return _fallback_answer(decoder.bundle, items, request.k, reason, history)

    async def search(self, request: SearchRequest) -> ItemsAnswer:
        """Return the items that fit a query."""
        deadline = self._deadline()
        decoder = self._decoder(request.bundle)
        self._require_texts()
        history = await read_history("search", decoder.bundle, self.store, request)
        words = " ".join(request.words.split())
        job = _decoding_request(request, history, words)
        try:
            answer = await self._decode("search", decoder, job, deadline)
            return _model_answer(decoder.bundle, answer, history)
        except DecodingFailed as error:
            reason = error.reason
        items = await _run_beside(
            matching_items,
            decoder.bundle,
            request.words,
            request.k,
            request.conditions(),
            _excluded(request, history),
        )
        return _fallback_answer(decoder.bundle, items, request.k, reason, history)

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
        bundle = self._decoder(request.bundle).bundle
        row = item_row(bundle, request.item_id)
        sources = bundle.recommender.index.levels_of
        if request.source and request.source not in sources:
            message = f"source: the index has {', '.join(sources)}"
            raise ApiError("invalid_request", message, "source")
        items = await _run_beside(
            similar_items, bundle, row, request.k, request.source, request.conditions()
        )
        return SimilarAnswer(items=items, shortfall=shortfall(len(items), request.k, "other "))

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
        timeout = deadline - asyncio.get_running_loop().time()
        try:
            return await decoder.decode(endpoint, job, timeout)
        except ApiError:
            raise
        except TimeoutError:
            raise DecodingFailed("deadline") from None
        except Exception as error:  # A model that fails must not take the shop's page with it.
            log.error("the decoder failed: %s: %s", type(error).__name__, error)
            raise DecodingFailed("decoder_failed") from None

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


def _decoding_request(request: HistoryRequest, history: History, words: str = "") -> Request:
    return Request(
        history=history.items,
        k=request.k,
        filter=request.conditions(),
        exclude_history=request.exclude_history,
        words=words,
        explain=request.explain,
    )


def _excluded(request: HistoryRequest, history: History) -> set[str]:
    return set(history.items) if request.exclude_history else set()


async def _run_beside(function: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function over the catalogue in a thread, beside the event loop.

    Raises:
        ApiError: a filter does not fit the catalogue.
    """
    try:
        return await asyncio.to_thread(function, *arguments)
    except UserError as error:
        raise ApiError("invalid_filter", str(error), "filters") from None


def _model_answer(bundle: Bundle, answer: Answer, history: History) -> ItemsAnswer:
    items: list[RankedItem] = []
    for item_id, score in answer.items:
        item = RankedItem(item_id=item_id, title=bundle.title(item_id), score=score)
        items.append(item)
    if answer.levels is not None:
        for item, level_scores in zip(items, answer.levels, strict=True):
            item.why = explain(bundle, item.item_id, level_scores, history.items)
    return ItemsAnswer(
        items=items,
        source="model",
        shortfall=answer.reason,
        ignored_items=history.unknown_items,
        history=history.items[-bundle.recommender.max_history :],
        bundle_version=bundle.version,
    )


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
