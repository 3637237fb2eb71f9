"""Users send requests while the service is restarted behind a proxy, as a rollout restarts it.

python benchmarks/serving_rollout.py [--quick] [--bundle DIR] [--users 100] [--minutes 10]

The order is a Deployment's with no pod to spare: a new service gets ready, traffic moves to it, the
old one is told to end after a pause (the preStop hook's) and answers what it has begun. Every user
keeps a connection to the proxy and sends one request after another. Prints a table and, as the last
line, one JSON object; ends with status 1 where any request failed.
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
from serving_load import ServiceProcess, running_service

from eager_llm.bundle.bundle import Bundle

PAUSE_SECONDS = 3.0  # between taking a service out of the proxy and telling it to end
THINKING_SECONDS = 2.0  # of a user between two requests, on average
BODIES = 2000
MAX_HISTORY = 14


class Proxy:
    """Passes requests on to the one service that is ready, over connections that it keeps."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.address = ""
        self._session = session

    async def pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the service's answer; a broken connection is a 502, and is not tried again."""
        url = self.address + request.path
        try:
            async with self._session.post(url, json=await request.json()) as response:
                return web.Response(
                    body=await response.read(),
                    status=response.status,
                    content_type="application/json",
                )
        except aiohttp.ClientError as error:
            return web.json_response({"proxy": repr(error)}, status=502)


async def send_requests(
    address: str, bodies: list[Any], end: float, seed: int, outcomes: Counter[str]
) -> None:
    """Send one request after another until the end, as one user, and count their outcomes."""
    rng = np.random.default_rng(seed)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while time.monotonic() < end:
            await asyncio.sleep(rng.exponential(THINKING_SECONDS))
            body = bodies[rng.integers(len(bodies))]
            try:
                async with session.post(f"{address}/recommend", json=body) as response:
                    content = await response.json()
            except (aiohttp.ClientError, TimeoutError) as error:
                outcomes[type(error).__name__] += 1
                continue
            outcome = str(response.status)
            if response.status == 200:
                outcome = content["source"]
            outcomes[outcome] += 1


def _start(environment: dict[str, str]) -> tuple[contextlib.ExitStack, ServiceProcess]:
    """Start a service; closing the stack ends it."""
    stack = contextlib.ExitStack()
    context = running_service("serving.service:EagerLLM", ["src", "."], environment)
    return stack, stack.enter_context(context)


async def restart_repeatedly(
    proxy: Proxy, environment: dict[str, str], stop: asyncio.Event, is_ready: asyncio.Event
) -> int:
    """Replace the service again and again; return how often."""
    old_service, process = await asyncio.to_thread(_start, environment)
    proxy.address = process.address
    restarts = 0
    is_ready.set()
    try:
        while not stop.is_set():
            new_service, process = await asyncio.to_thread(_start, environment)
            proxy.address = process.address
            await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.to_thread(old_service.close)
            old_service = new_service
            restarts += 1
    finally:
        await asyncio.to_thread(old_service.close)
    return restarts


async def measure_rollout(
    bodies: list[Any], environment: dict[str, str], users: int, seconds: float
) -> tuple[Counter[str], int]:
    """Return the outcomes of the users' requests, and how often the service was replaced."""
    outcomes: Counter[str] = Counter()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        proxy = Proxy(session)
        runner = web.ServerRunner(web.Server(proxy.pass_on))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        is_ready, stop = asyncio.Event(), asyncio.Event()
        restarting = asyncio.create_task(restart_repeatedly(proxy, environment, stop, is_ready))
        # A service that does not start ends the task: the wait must not outlast it.
        ready = asyncio.create_task(is_ready.wait())
        await asyncio.wait({restarting, ready}, return_when=asyncio.FIRST_COMPLETED)
        end = time.monotonic() + seconds
        senders = [send_requests(address, bodies, end, seed, outcomes) for seed in range(users)]
        await asyncio.gather(*senders)
        stop.set()
        restarts = await restarting
        await runner.cleanup()
    return outcomes, restarts


def random_bodies(item_ids: list[str]) -> list[Any]:
    """Return requests with random histories."""
    rng = np.random.default_rng(0)
    bodies = []
    for _ in range(BODIES):
        history = rng.choice(item_ids, size=rng.integers(1, MAX_HISTORY + 1))
        bodies.append({"items": history.tolist(), "k": 10})
    return bodies


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
    bodies = random_bodies(Bundle.load(arguments.bundle).recommender.index.item_ids)
    minutes = 1 if arguments.quick else arguments.minutes
    environment = {"EAGER_LLM_BUNDLE": str(arguments.bundle.resolve())}
    rollout = measure_rollout(bodies, environment, arguments.users, 60 * minutes)
    outcomes, restarts = asyncio.run(rollout)
    print(machine())
    title = f"{arguments.users} users for {minutes:g} minutes, {restarts} restarts"
    show(title, ["outcome", "requests"], sorted(outcomes.items()))
    failed = outcomes.total() - outcomes["model"] - outcomes["fallback"]
    finish(
        {
            "users": arguments.users,
            "minutes": minutes,
            "restarts": restarts,
            "requests": outcomes.total(),
            "failed": failed,
            "fallbacks": outcomes["fallback"],
        }
    )
    sys.exit(1 if failed or not restarts else 0)


if __name__ == "__main__":
    main()
