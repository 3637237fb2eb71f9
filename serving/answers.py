"""What is answered, and what is answered instead where a part does not work: a table in docs/serving.md."""

import asyncio
import logging
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.bundle.bundle import Bundle
from eager_llm.core.errors import UserError
from eager_llm.decoding.filters import Filter
from eager_llm.decoding.recommender import Answer, Request
from serving import schemas
from serving.decoder import Decoder, Description
from serving.errors import ApiError
from serving.metrics import EVENTS, FALLBACKS
from serving.settings import ServiceSettings
from serving.store import Event, Store

CLOCK_SKEW = timedelta(minutes=5)
log = logging.getLogger("eager_llm.serving")


@dataclass
class _Read:
    """A history as it was found: items that the bundle knows, others, and why there are none."""

    known: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    reason: str | None = None


class Answers:
    """Answers requests, each before its deadline.

    Args:
        decoders: "first", and "second" where there are two bundles.
        store: None where users cannot be looked up.
    """

    def __init__(
        self, decoders: dict[str, Decoder], store: Store | None, settings: ServiceSettings
    ) -> None:
        self.decoders, self.store, self.settings = decoders, store, settings

    async def recommend(self, asked: schemas.RecommendRequest) -> schemas.ItemsAnswer:
        """Answer with what comes next."""
        deadline = self._deadline()
        decoder = self._decoder(asked.bundle)
        read = await self._history("recommend", decoder.bundle, asked)
        conditions = frozenset(one.condition() for one in asked.filters)
        reason = read.reason
        if read.known:
            request = Request(
                read.known, asked.k, None, conditions, asked.exclude_history, explain=asked.explain
            )
            answer, reason = await self._decoded("recommend", decoder, request, deadline)
            if answer is not None:
                return self._ranked(decoder.bundle, answer, asked, read)
        shut_out = set(read.known) if asked.exclude_history else set()
        items = await self._checked(decoder.bundle.popular, asked.k, conditions, shut_out)
        return self._fallback(decoder.bundle, items, asked.k, reason or "no_known_items", read)

    async def search(self, asked: schemas.SearchRequest) -> schemas.ItemsAnswer:
        """Answer with what is looked for."""
        deadline = self._deadline()
        decoder = self._decoder(asked.bundle)
        self._offered()
        read = await self._history("search", decoder.bundle, asked)
        conditions = frozenset(one.condition() for one in asked.filters)
        request = Request(
            read.known,
            asked.k,
            None,
            conditions,
            asked.exclude_history,
            " ".join(asked.words.split()),
            asked.explain,
        )
        answer, reason = await self._decoded("search", decoder, request, deadline)
        if answer is not None:
            return self._ranked(decoder.bundle, answer, asked, read)
        shut_out = set(read.known) if asked.exclude_history else set()
        items = await self._checked(
            _matching, decoder.bundle, asked.words, asked.k, conditions, shut_out
        )
        return self._fallback(decoder.bundle, items, asked.k, reason, read)

    async def describe(self, asked: schemas.DescribeRequest) -> schemas.DescribeAnswer:
        """Answer with the model's words for an item."""
        deadline = self._deadline()
        decoder = self._decoder(asked.bundle)
        self._offered()
        row = _row(decoder.bundle, asked.item_id)
        text, reason = await self._decoded(
            "describe", decoder, Description(row, asked.max_tokens), deadline
        )
        if text is not None:
            return schemas.DescribeAnswer(item_id=asked.item_id, text=text, source="model")
        FALLBACKS.labels(reason).inc()
        title = decoder.bundle.title(asked.item_id)
        return schemas.DescribeAnswer(
            item_id=asked.item_id, text=title, source="catalogue", reason=reason
        )

    async def similar(self, asked: schemas.SimilarRequest) -> schemas.SimilarAnswer:
        """Answer with the nearest items in the index."""
        bundle = self._decoder(asked.bundle).bundle
        row = _row(bundle, asked.item_id)
        sources = bundle.recommender.index.levels_of
        if asked.source and asked.source not in sources:
            raise ApiError(
                "invalid_request", f"source: the index has {', '.join(sources)}", "source"
            )
        conditions = frozenset(one.condition() for one in asked.filters)

        def nearest() -> list[schemas.SimilarItem]:
            passes = bundle.recommender.columns.passing(conditions) if conditions else None
            ids = bundle.recommender.index.item_ids
            return [
                schemas.SimilarItem(
                    item_id=ids[one.row],
                    title=bundle.title(ids[one.row]),
                    distance=one.distance,
                    shared_levels=one.shared,
                )
                for one in bundle.near.nearest(row, asked.k, asked.source, passes)
            ]

        found = await self._checked(nearest)
        return schemas.SimilarAnswer(
            items=found, shortfall=_shortfall(len(found), asked.k, "other ")
        )

    async def event(self, asked: schemas.EventRequest) -> schemas.EventAnswer:
        """Take in what a user just did."""
        if self.store is None:
            raise ApiError(
                "not_offered", "the service was started without features: it keeps no users"
            )
        _row(self.decoders["first"].bundle, asked.item_id)
        if asked.timestamp > datetime.now(UTC) + CLOCK_SKEW:
            raise ApiError(
                "event_in_future",
                "timestamp: lies in the future; send when it happened",
                "timestamp",
            )
        if asked.timestamp.year < 1970:
            raise ApiError("invalid_request", "timestamp: lies before 1970", "timestamp")
        event = Event(asked.user_id, asked.item_id, pd.Timestamp(asked.timestamp).tz_convert("UTC"))
        try:
            history, status = await self.store.push(event, self.settings.deadline_ms / 1000)
        except Exception as error:  # whatever the store raises, the caller still has the event
            log.warning("the online store did not take an event: %s", type(error).__name__)
            message = "the online store did not confirm the event; the same event may be sent again"
            raise ApiError("features_unavailable", message, retry_after=1) from None
        EVENTS.labels(status).inc()
        return schemas.EventAnswer(status=status, history=history)

    async def _history(self, endpoint: str, bundle: Bundle, asked: schemas.HistoryRequest) -> _Read:
        if asked.items is not None or asked.user_id is None:
            history, reason = asked.items or [], "empty_history"
        else:
            history, reason = await self._looked_up(endpoint, asked.user_id)
        known = [item for item in history if item in bundle.recommender.index.rows]
        ignored = list(
            dict.fromkeys(item for item in history if item not in bundle.recommender.index.rows)
        )
        return _Read(known, ignored, None if known else "no_known_items" if history else reason)

    async def _looked_up(self, endpoint: str, user_id: str) -> tuple[list[str], str]:
        """Return a user's history and, for where it is empty, why."""
        if self.store is None:
            return [], "features_unavailable"
        try:
            history = await self.store.history(endpoint, user_id)
        except TimeoutError:
            return [], "features_slow"
        except Exception as error:  # whatever the store raises, the fallback ranking answers
            log.warning("the online store did not answer: %s: %s", type(error).__name__, error)
            return [], "features_unavailable"
        return ([], "unknown_user") if history is None else (history, "empty_history")

    async def _decoded(
        self, endpoint: str, decoder: Decoder, job: Any, deadline: float
    ) -> tuple[Any, Any]:
        """Return the decoder's answer, or None and why there is none."""
        try:
            return await decoder.ask(
                endpoint, job, deadline - asyncio.get_running_loop().time()
            ), None
        except ApiError:
            raise
        except TimeoutError:
            return None, "deadline"
        except Exception as error:  # a model that fails must not take the shop's page with it
            log.error("the decoder failed: %s: %s", type(error).__name__, error)
            return None, "decoder_failed"

    def _ranked(
        self, bundle: Bundle, answer: Answer, asked: schemas.HistoryRequest, read: _Read
    ) -> schemas.ItemsAnswer:
        items = [
            schemas.RankedItem(item_id=item, title=bundle.title(item), score=score)
            for item, score in answer.items
        ]
        if answer.levels is not None:
            for item, levels in zip(items, answer.levels, strict=True):
                item.why = why(bundle, item.item_id, levels, read.known)
        return schemas.ItemsAnswer(
            items=items,
            source="model",
            shortfall=answer.reason,
            ignored_items=read.ignored,
            history=read.known[-bundle.recommender.max_history :],
            bundle_version=bundle.version,
        )

    def _fallback(
        self, bundle: Bundle, items: list[str], k: int, reason: Any, read: _Read
    ) -> schemas.ItemsAnswer:
        FALLBACKS.labels(reason).inc()
        return schemas.ItemsAnswer(
            items=[
                schemas.RankedItem(item_id=item, title=bundle.title(item), score=None)
                for item in items
            ],
            source="fallback",
            reason=reason,
            shortfall=_shortfall(len(items), k),
            ignored_items=read.ignored,
            history=read.known[-bundle.recommender.max_history :],
            bundle_version=bundle.version,
        )

    async def _checked(self, work: Any, *arguments: Any) -> Any:
        """Do work over the catalogue beside the event loop; a filter that does not fit is refused."""
        try:
            return await asyncio.to_thread(work, *arguments)
        except UserError as error:
            raise ApiError("invalid_filter", str(error), "filters") from None

    def _decoder(self, place: str) -> Decoder:
        if place not in self.decoders:
            raise ApiError("no_such_bundle", "the service has no second bundle", "bundle")
        return self.decoders[place]

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.settings.deadline_ms / 1000

    def _offered(self) -> None:
        if not self.settings.describe:
            raise ApiError(
                "not_offered", "the service was started without texts (EAGER_LLM_DESCRIBE)"
            )


def why(bundle: Bundle, item_id: str, levels: list[float], history: list[str]) -> schemas.Why:
    """Return the path of an item with its probabilities, and the nearest item of the history in each source."""
    index = bundle.recommender.index
    row, neighbours = index.rows[item_id], []
    past = np.array(sorted({index.rows[item] for item in history} - {row}), dtype=np.int64)
    for source in index.levels_of if len(past) else ():
        near = bundle.near.among(row, past, 1, source)[0]
        neighbour = index.item_ids[near.row]
        neighbours.append(
            schemas.HistoryNeighbour(
                item_id=neighbour,
                title=bundle.title(neighbour),
                source=source,
                shared_levels=near.shared[source],
                distance=near.distance,
            )
        )
    path = [
        schemas.PathToken(**token.model_dump(), probability=math.exp(score))
        for token, score in zip(path_of(bundle, item_id), levels, strict=True)
    ]
    return schemas.Why(path=path, neighbours=neighbours)


def path_of(bundle: Bundle, item_id: str) -> list[schemas.IndexToken]:
    """Return the tokens of an item, each with its source and its level there."""
    index = bundle.recommender.index
    starts = {source: part.start for source, part in index.levels_of.items()}
    return [
        schemas.IndexToken(token=token, source=source, level=number - starts[source] + 1)
        for number, (token, source) in enumerate(
            zip(index.tokens(item_id), index.sources, strict=True)
        )
    ]


def _matching(
    bundle: Bundle, words: str, k: int, conditions: Filter, without: set[str]
) -> list[str]:
    """Return items whose titles hold the words, and the popular ones behind them."""
    found = bundle.finder.find(words, len(bundle.fallback))
    found = bundle.passing([item for item in found if item not in without], conditions)[:k]
    rest = (
        bundle.popular(k - len(found), conditions, without | set(found)) if len(found) < k else []
    )
    return found + rest


def _row(bundle: Bundle, item_id: str) -> int:
    row = bundle.recommender.index.rows.get(item_id)
    if row is None:
        raise ApiError("unknown_item", f"the bundle knows no item {item_id!r}", "item_id")
    return row


def _shortfall(found: int, wanted: int, kind: str = "") -> str | None:
    return None if found == wanted else f"only {found} such {kind}items are in the index"
