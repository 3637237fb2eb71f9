"""Open-loop load: requests leave at their moments whatever becomes of those before them."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
LOST_AFTER_SECONDS = 30


@dataclass
class Measured:
    """What became of the requests of one rate.

    Attributes:
        seconds: of each answer, from the moment at which its request was due.
        outcomes: how many ended as "model", "fallback", "wrong", "503", "503 without Retry-After", a
            status, or "lost".
    """

    rate: float
    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def quantile(self, share: float) -> float:
        """Return so many milliseconds that a share of the answers took at most."""
        return 1000 * float(np.quantile(self.seconds, share)) if self.seconds else float("nan")

    @property
    def errors(self) -> int:
        """Requests that the model did not answer."""
        return sum(count for outcome, count in self.outcomes.items() if outcome != "model")

    def holds(self, limit_ms: float) -> bool:
        """Whether all were answered by the model, 99 % of them in time."""
        return not self.errors and self.quantile(0.99) <= limit_ms


@dataclass(frozen=True)
class Running:
    """A BentoML service in processes of its own."""

    address: str
    process: "subprocess.Popen[bytes]"

    def end(self) -> None:
        """Tell it to end, as Kubernetes does, and wait until it has."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
        self.process.wait(120)

    @property
    def memory_mb(self) -> float:
        """What its processes hold in memory, in MB."""
        parent = psutil.Process(self.process.pid)
        return (
            sum(one.memory_info().rss for one in [parent, *parent.children(recursive=True)]) / 1e6
        )


@contextmanager
def running(service: str, path: list[str], environment: dict[str, str]) -> Iterator[Running]:
    """Yield a service that is ready; it has ended when the context is left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        service,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    places = {
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in path),
        "BENTOML_DO_NOT_TRACK": "true",
    }
    own = {**os.environ, **places, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(
        command, env=own, cwd=ROOT / path[-1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    service_there = Running(f"http://127.0.0.1:{port}", process)
    try:
        asyncio.run(_ready(service_there.address, process))
        yield service_there
    finally:
        service_there.end()


async def _ready(address: str, process: "subprocess.Popen[bytes]") -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit("the service ended while it started")
            try:
                async with session.get(
                    f"{address}/readyz", timeout=aiohttp.ClientTimeout(total=2)
                ) as answer:
                    if answer.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.2)
    raise SystemExit("the service did not get ready in two minutes")


def load(
    address: str,
    rate: float,
    seconds: float,
    bodies: Iterator[tuple[Any, Any]],
    right: Callable[[Any, Any], bool],
    seed: int,
) -> Measured:
    """Send requests as a Poisson process and return what became of them.

    Args:
        rate: requests a second, on average.
        bodies: a body and what its answer is judged by, for each request.
        right: whether an answer of the model is the decoder's own.
    """
    pauses = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    return asyncio.run(
        _load(address, np.cumsum(pauses), [next(bodies) for _ in pauses], right, Measured(rate))
    )


async def _load(
    address: str, moments: np.ndarray, bodies: list[Any], right: Any, found: Measured
) -> Measured:
    timeout = aiohttp.ClientTimeout(total=LOST_AFTER_SECONDS)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        begin = time.perf_counter() + 0.05

        async def one(moment: float, body: Any, judged_by: Any) -> None:
            try:
                async with session.post(f"{address}/recommend", json=body) as answer:
                    content = await answer.json()
                    outcome = _outcome(answer, content, judged_by, right)
            except (aiohttp.ClientError, TimeoutError, OSError):
                outcome = "lost"
            if outcome in ("model", "wrong", "fallback"):
                found.seconds.append(time.perf_counter() - begin - moment)
            found.outcomes[outcome] += 1

        tasks = []
        for moment, (body, judged_by) in zip(moments, bodies, strict=True):
            if (pause := begin + moment - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(one(moment, body, judged_by)))
        await asyncio.gather(*tasks)
    return found


def _outcome(answer: aiohttp.ClientResponse, content: Any, judged_by: Any, right: Any) -> str:
    if answer.status == 503:
        return (
            "503" if answer.headers.get("Retry-After", "").isdigit() else "503 without Retry-After"
        )
    if answer.status != 200:
        return str(answer.status)
    if isinstance(content, dict) and content.get("source") == "fallback":
        return "fallback"
    return "model" if right(content, judged_by) else "wrong"
