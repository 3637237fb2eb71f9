"""A bound on the requests of each client, by token buckets."""

from collections import OrderedDict
from time import monotonic

# A bucket holds this many seconds' worth of requests, and at least one request.
BURST_SECONDS = 2


class RateLimiter:
    """One token bucket for each client; the clients that were silent longest are forgotten.

    A bucket fills at a steady rate up to its capacity, and every request takes one token from it.

    Args:
        rate: requests a second.
        max_clients: clients to remember.
        capacity: tokens of a full bucket, at least 1; None: of two seconds.
    """

    def __init__(
        self, rate: float, max_clients: int = 10_000, capacity: float | None = None
    ) -> None:
        self.rate = rate
        self.capacity = max(1.0, BURST_SECONDS * rate) if capacity is None else capacity
        self.max_clients = max_clients
        # Client → tokens and the time of their count; the client of the latest request last.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        time = monotonic()
        full_bucket = (self.capacity, time)
        tokens, counted_at = self._buckets.pop(client, full_bucket)
        refill = (time - counted_at) * self.rate
        tokens = min(self.capacity, tokens + refill)
        is_admitted = tokens >= 1
        if is_admitted:
            tokens -= 1
        self._buckets[client] = (tokens, time)
        if len(self._buckets) > self.max_clients:
            self._buckets.popitem(last=False)
        if is_admitted:
            return 0.0
        return (1 - tokens) / self.rate
