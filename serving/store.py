"""The online store behind its queue: one look-up for all histories that wait, events in order."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from eager_llm.features.feature_store import Features
from eager_llm.features.online_history import Pushed
from serving.batching import Batcher
from serving.metrics import stage
from serving.settings import ServiceSettings

# The store's queue is longer than the decoder's: a look-up is shorter than a decoding.
QUEUE_FACTOR = 4
SAMPLE_USERS = 100
log = logging.getLogger("eager_llm.serving")


@dataclass(frozen=True)
class Event:
    """A user took an item at a time."""

    user_id: str
    item_id: str
    timestamp: pd.Timestamp


class Store:
    """The users' histories online.

    Args:
        max_history: items of a history that the store keeps.
    """

    def __init__(self, features: Features, max_history: int, settings: ServiceSettings) -> None:
        self.features = features
        self.max_history = max_history
        self.settings = settings
        self._batches: Batcher[str | Event] = Batcher(
            "online store", self._work, settings.batch, QUEUE_FACTOR * settings.queue
        )
        self._sample_users: list[str] = []

    async def some_users(self, n: int, timeout: float) -> list[str]:
        """Return some users of the published table who are online now.

        Who was erased since the service started is not online any more, and is not listed.

        Args:
            timeout: seconds; nobody is listed where the store is slower or down.
        """
        users = self._sample_users[:n]
        look_ups = [self.history("users", user, timeout) for user in users]
        histories = await asyncio.gather(*look_ups, return_exceptions=True)
        online: list[str] = []
        for user, history in zip(users, histories, strict=True):
            if isinstance(history, list):
                online.append(user)
        return online

    def warm_up(self) -> None:
        """Open the store; a store that is down now may come later."""
        try:
            self._sample_users = self.features.some_users(SAMPLE_USERS)
            self.features.online_history("")
        except Exception:
            log.warning(
                "the online store does not answer; until it does, the fallback answers",
                exc_info=True,
            )

    async def history(self, endpoint: str, user_id: str, timeout: float) -> list[str] | None:
        """Return a user's items, oldest first, or None for an unknown user.

        Args:
            timeout: seconds; the settings bound them, too.

        Raises:
            TimeoutError: the store is slow.
            Exception: whatever the store raised.
        """
        with stage(endpoint, "features"):
            seconds = min(timeout, self.settings.features_ms / 1000)
            result = await self._batches.submit(user_id, seconds)
        return result.value

    async def push(self, event: Event, timeout: float) -> tuple[list[str], Pushed]:
        """Add an event; see `Features.push`, and `history` for what it raises."""
        with stage("events", "features"):
            result = await self._batches.submit(event, timeout)
        return result.value

    def close(self) -> None:
        """End the thread."""
        self._batches.close()

    def _work(self, jobs: Sequence[str | Event]) -> list[Any]:
        """Work in the order of the jobs: a look-up after an event sees the event."""
        results: list[Any] = []
        users: list[str] = []
        for job in jobs:
            if isinstance(job, str):
                users.append(job)
                continue
            results += self._look_up(users)
            users = []
            results.append(self._push(job))
        return results + self._look_up(users)

    def _look_up(self, users: list[str]) -> list[Any]:
        return self.features.online_histories(users) if users else []

    def _push(self, event: Event) -> Any:
        try:
            return self.features.push(
                event.user_id, event.item_id, event.timestamp, self.max_history
            )
        except Exception as error:  # The event's own failure: look-ups beside it may succeed.
            log.warning("an event was not stored", exc_info=True)
            return error
