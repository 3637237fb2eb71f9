"""The online store behind its queue: histories by one look-up for all that wait, events in their order."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from eager_llm.features.feature_store import Features, Pushed
from serving.batching import Batcher
from serving.metrics import stage
from serving.settings import ServiceSettings

log = logging.getLogger("eager_llm.serving")


@dataclass(frozen=True)
class Event:
    """What a user did."""

    user_id: str
    item_id: str
    moment: pd.Timestamp


class Store:
    """Users' histories online.

    Args:
        max_history: items of a history that are kept.
    """

    def __init__(self, features: Features, max_history: int, settings: ServiceSettings) -> None:
        self.features, self.max_history = features, max_history
        self.settings = settings
        self._batches: Batcher[str | Event] = Batcher(
            "online store", self._work, settings.batch, 4 * settings.queue
        )

        self._some_users: list[str] = []

    def some_users(self, n: int) -> list[str]:
        """Return some users that the published table knows."""
        return self._some_users[:n]

    def warm_up(self) -> None:
        """Open the store; one that is down now may come later."""
        try:
            self._some_users = self.features.some_users(100)
            self.features.online_history("")
        except Exception:
            log.warning(
                "the online store does not answer; until it does, the fallback answers",
                exc_info=True,
            )

    async def history(self, endpoint: str, user_id: str) -> list[str] | None:
        """Return a user's items, oldest first, or None for a user nobody has seen.

        Raises:
            TimeoutError: the store is slow.
            Exception: whatever it raised.
        """
        with stage(endpoint, "features"):
            return (await self._batches.submit(user_id, self.settings.features_ms / 1000)).value

    async def push(self, event: Event, timeout: float) -> tuple[list[str], Pushed]:
        """Add an event; see `Features.push`, and `history` for what it raises."""
        with stage("events", "features"):
            return (await self._batches.submit(event, timeout)).value

    def close(self) -> None:
        """End the thread."""
        self._batches.close()

    def _work(self, jobs: Sequence[str | Event]) -> list[Any]:
        """Do what waits, in its order: who asks after an event was sent sees it."""
        results: list[Any] = []
        asked: list[str] = []
        for job in jobs:
            if isinstance(job, str):
                asked.append(job)
                continue
            results += self._look_up(asked)
            asked = []
            results.append(self._push(job))
        return results + self._look_up(asked)

    def _look_up(self, users: list[str]) -> list[Any]:
        return self.features.online_histories(users) if users else []

    def _push(self, event: Event) -> Any:
        try:
            return self.features.push(event.user_id, event.item_id, event.moment, self.max_history)
        except Exception as error:  # its own failure: the look-ups beside it may be answered
            log.warning("an event was not stored", exc_info=True)
            return error
