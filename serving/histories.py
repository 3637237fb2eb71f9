"""The history that an answer starts from: of the request itself, or of the online store."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from eager_llm.bundle.bundle import Bundle
from serving.schemas.answers import FallbackReason
from serving.schemas.requests import HistoryRequest
from serving.store import Store

log = logging.getLogger("eager_llm.serving")


@dataclass(frozen=True)
class History:
    """The history of a request, oldest item first.

    Attributes:
        items: ids of the items in the bundle's index.
        unknown_items: ids of the others, each once.
        reason: why `items` is empty; None where it is not.
    """

    items: list[str]
    unknown_items: list[str]
    reason: FallbackReason | None

    @classmethod
    def of_items(
        cls, bundle: Bundle, item_ids: Sequence[str], reason_if_empty: FallbackReason
    ) -> "History":
        """Return the history of some item ids.

        Args:
            reason_if_empty: why there are no ids, where there are none.
        """
        rows = bundle.recommender.index.rows
        items: list[str] = []
        unknown_items: dict[str, None] = {}
        for item_id in item_ids:
            if item_id in rows:
                items.append(item_id)
            else:
                unknown_items[item_id] = None
        reason: FallbackReason | None = None
        if unknown_items and not items:
            reason = "no_known_items"
        elif not items:
            reason = reason_if_empty
        return cls(items, list(unknown_items), reason)


async def read_history(
    endpoint: str,
    bundle: Bundle,
    store: Store | None,
    request: HistoryRequest,
    timeout: float,
) -> History:
    """Return the history of a request; a store that does not work costs the history, no more.

    Args:
        timeout: seconds that are left; the store has its own bound, too.
    """
    if request.items is not None:
        return History.of_items(bundle, request.items, "empty_history")
    if request.user_id is None:
        return History.of_items(bundle, [], "empty_history")
    if store is None:
        return History.of_items(bundle, [], "features_unavailable")
    try:
        item_ids = await store.history(endpoint, request.user_id, timeout)
    except TimeoutError:
        return History.of_items(bundle, [], "features_slow")
    except Exception as error:  # Whatever the store raises, the fallback answers.
        log.warning("the online store did not answer: %s: %s", type(error).__name__, error)
        return History.of_items(bundle, [], "features_unavailable")
    if item_ids is None:
        return History.of_items(bundle, [], "unknown_user")
    return History.of_items(bundle, item_ids, "empty_history")
