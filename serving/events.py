"""Events: what a user just did, checked and pushed to the online store."""

import logging
from datetime import UTC, datetime, timedelta

import pandas as pd

from eager_llm.bundle.bundle import Bundle
from serving.errors import ApiError
from serving.metrics import EVENTS
from serving.schemas.answers import EventAnswer
from serving.schemas.requests import EventRequest
from serving.store import Event, Store

CLOCK_SKEW = timedelta(minutes=5)
FIRST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)
log = logging.getLogger("eager_llm.serving")


async def push_event(
    bundle: Bundle, store: Store | None, request: EventRequest, timeout: float
) -> EventAnswer:
    """Push an event to the online store.

    Args:
        timeout: seconds.

    Raises:
        ApiError: there is no store, it does not answer, or the event does not fit.
    """
    if store is None:
        message = "the service was started without features: it keeps no users"
        raise ApiError("not_offered", message)
    timestamp = _utc(request.timestamp)
    event = Event(request.user_id, request.item_id, timestamp)
    try:
        history, status = await store.push(event, timeout)
    except Exception as error:  # Whatever the store raises, the caller still has the event.
        log.warning("the online store did not take an event: %s", type(error).__name__)
        message = "the online store did not confirm the event; the same event may be sent again"
        raise ApiError("features_unavailable", message, retry_after=1) from None
    EVENTS.labels(status).inc()
    is_known = request.item_id in bundle.recommender.index.rows
    unknown_item = None if is_known else request.item_id
    return EventAnswer(status=status, history=history, unknown_item=unknown_item)


def _utc(timestamp: datetime) -> pd.Timestamp:
    """Return a moment in UTC. Raises ApiError where the store would not take it."""
    if timestamp > datetime.now(UTC) + CLOCK_SKEW:
        message = "timestamp: lies in the future; send when it happened"
        raise ApiError("event_in_future", message, "timestamp")
    # Compared as moments: in its own zone a time may have another year.
    if timestamp < FIRST_MOMENT:
        message = f"timestamp: lies before {FIRST_MOMENT:%Y-%m-%d} in UTC"
        raise ApiError("invalid_request", message, "timestamp")
    return pd.Timestamp(timestamp.astimezone(UTC))
