"""Work over the catalogue behind its own queue: beside the event loop, bounded, each by a deadline."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eager_llm.core.errors import UserError
from serving.batching import Batcher, QueueFull
from serving.errors import ApiError

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Call:
    """A function and its arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class CatalogueQueue:
    """One thread that works through calls in their order; who has given up is left out.

    Args:
        queue_size: calls that may wait.
    """

    def __init__(self, queue_size: int) -> None:
        self._batches: Batcher[_Call] = Batcher("catalogue", _results, 1, queue_size)

    async def run(self, timeout: float, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function returns.

        Args:
            timeout: seconds.

        Raises:
            ApiError: too many wait, it was not done in time, or a filter does not fit the
                catalogue.
        """
        try:
            result = await self._batches.submit(_Call(function, arguments), timeout)
        except QueueFull as error:
            wait = max(1, math.ceil(self._batches.wait_estimate))
            raise ApiError("overloaded", f"{error}; try again later", retry_after=wait) from None
        except TimeoutError:
            message = "the answer was not ready by its deadline; try again later"
            raise ApiError("overloaded", message, retry_after=1) from None
        except UserError as error:
            raise ApiError("invalid_filter", str(error), "filters") from None
        return result.value

    def close(self) -> None:
        """End the thread."""
        self._batches.close()


def _results(calls: Sequence[_Call]) -> list[Any]:
    """Call each; a filter that does not fit is a result, and no fault of the service."""
    results: list[Any] = []
    for call in calls:
        try:
            results.append(call.function(*call.arguments))
        except UserError as error:
            results.append(error)
    return results
