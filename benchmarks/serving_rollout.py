"""Users go on asking while the service is restarted behind a proxy, as a rollout of the chart restarts it.

python benchmarks/serving_rollout.py [--quick] [--bundle DIR] [--users 100] [--minutes 10]

The order is a Deployment's with no pod to spare: a new service gets ready, traffic moves to it, the old
one is told to end after a pause (the preStop hook's) and answers what it has begun. Every user keeps a
connection to the proxy and asks one question after another. Prints a table and, as the last line, one
JSON object; ends with status 1 where any request failed.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web
from reporting import finish, machine, show
from serving_load import Running, running

from eager_llm.bundle.bundle import Bundle

PAUSE_SECONDS = 3.0  # between taking a service out of the proxy and telling it to end
THINKING_SECONDS = 2.0  # of a user between two questions, on average


class Proxy:
    """Passes requests on to the one service that is ready, over connections that it keeps."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.address, self._session = "", session

    async def pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        """Ask the service and return its answer; a connection that breaks is a 502, and is not tried again."""
        try:
            async with self._session.post(
                self.address + request.path, json=await request.json()
            ) as answer:
                return web.Response(
                    body=await answer.read(), status=answer.status, content_type="application/json"
                )
        except aiohttp.ClientError as error:
            return web.json_response({"proxy": repr(error)}, status=502)


async def user(
    address: str, bodies: list[Any], until: float, seed: int, outcomes: Counter[str]
) -> None:
    """Ask one question after another until the time is over."""
    rng = np.random.default_rng(seed)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        while time.monotonic() < until:
            await asyncio.sleep(rng.exponential(THINKING_SECONDS))
            try:
                async with session.post(
                    f"{address}/recommend", json=bodies[rng.integers(len(bodies))]
                ) as answer:
                    content = await answer.json()
                    outcomes[content["source"] if answer.status == 200 else str(answer.status)] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                outcomes[type(error).__name__] += 1


async def roll(
    proxy: Proxy, environment: dict[str, str], until: asyncio.Event, began: asyncio.Event
) -> int:
    """Replace the service over and over; return how often."""

    def start() -> tuple[contextlib.ExitStack, Running]:
        stack = contextlib.ExitStack()
        return stack, stack.enter_context(
            running("serving.service:EagerLLM", ["src", "."], environment)
        )

    old, service = await asyncio.to_thread(start)
    proxy.address, restarts = service.address, 0
    began.set()
    try:
        while not until.is_set():
            new, service = await asyncio.to_thread(start)
            proxy.address = service.address
            await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.to_thread(old.close)
            old, restarts = new, restarts + 1
    finally:
        await asyncio.to_thread(old.close)
    return restarts


async def scene(
    bodies: list[Any], environment: dict[str, str], users: int, seconds: float
) -> tuple[Counter[str], int]:
    """Return what became of the users' questions, and how often the service was replaced."""
    outcomes: Counter[str] = Counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        proxy = Proxy(session)
        runner = web.ServerRunner(web.Server(proxy.pass_on))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        began, until = asyncio.Event(), asyncio.Event()
        rolling = asyncio.create_task(roll(proxy, environment, until, began))
        await asyncio.wait(
            {rolling, asyncio.create_task(began.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        end = time.monotonic() + seconds
        await asyncio.gather(*(user(address, bodies, end, n, outcomes) for n in range(users)))
        until.set()
        restarts = await rolling
        await runner.cleanup()
    return outcomes, restarts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one minute")
    parser.add_argument("--bundle", type=Path, default=Path("runs/demo/bundle"))
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    ids = Bundle.load(arguments.bundle).recommender.index.item_ids
    rng = np.random.default_rng(0)
    bodies = [
        {"items": rng.choice(ids, size=rng.integers(1, 15)).tolist(), "k": 10} for _ in range(2000)
    ]
    minutes = 1 if arguments.quick else arguments.minutes
    environment = {"EAGER_LLM_BUNDLE": str(arguments.bundle.resolve())}
    outcomes, restarts = asyncio.run(scene(bodies, environment, arguments.users, 60 * minutes))
    print(machine())
    show(
        f"{arguments.users} users for {minutes:g} minutes, {restarts} restarts",
        ["outcome", "requests"],
        sorted(outcomes.items()),
    )
    failed = sum(
        count for outcome, count in outcomes.items() if outcome not in ("model", "fallback")
    )
    finish(
        {
            "users": arguments.users,
            "minutes": minutes,
            "restarts": restarts,
            "requests": sum(outcomes.values()),
            "failed": failed,
            "fallbacks": outcomes["fallback"],
        }
    )
    sys.exit(1 if failed or not restarts else 0)


if __name__ == "__main__":
    main()
