"""Open-loop load: requests leave at their due times, whatever becomes of those before them."""

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
START_SECONDS, POLL_SECONDS = 120, 0.2
STOP_SECONDS = 120
# Between the start of the clock and the first request that may be due.
LEAD_SECONDS = 0.05
# What an answer's body and its expected content are judged by.
Judge = Callable[[Any, Any], bool]


@dataclass
class LoadResult:
    """What became of the requests of one rate.

    Attributes:
        rate: requests a second.
        seconds: of each answer, from the time at which its request was due.
        outcomes: how many ended as "model", "fallback", "wrong", "503", "503 without Retry-After",
            another status, or "lost".
    """

    rate: float
    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def quantile(self, share: float) -> float:
        """Return the milliseconds that a share of the answers took at most."""
        if not self.seconds:
            return float("nan")
        return 1000 * float(np.quantile(self.seconds, share))

    @property
    def errors(self) -> int:
        """Requests that the model did not answer."""
        return self.outcomes.total() - self.outcomes["model"]

    def holds(self, limit_ms: float) -> bool:
        """Return whether the model answered all requests, 99 % of them in time."""
        return not self.errors and self.quantile(0.99) <= limit_ms


@dataclass(frozen=True)
class ServiceProcess:
    """A BentoML service in processes of its own."""

    address: str
    process: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        """Tell the service to end, as Kubernetes does, and wait until it has."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
        self.process.wait(STOP_SECONDS)

    @property
    def memory_mb(self) -> float:
        """The resident memory of its processes together, in MB."""
        parent = psutil.Process(self.process.pid)
        processes = [parent, *parent.children(recursive=True)]
        return sum(process.memory_info().rss for process in processes) / 1e6


@contextmanager
def running_service(
    service: str, import_paths: list[str], environment: dict[str, str]
) -> Iterator[ServiceProcess]:
    """Yield a service that is ready; it has ended when the context is left.

    Args:
        service: its BentoML name.
        import_paths: folders of the project; the service starts in the last one.
        environment: variables besides those of this process.
    """
    port = _free_port()
    command = [sys.executable, "-m", "bentoml", "serve", service]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / path) for path in import_paths),
        "BENTOML_DO_NOT_TRACK": "true",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    process = subprocess.Popen(
        command,
        env=variables,
        cwd=ROOT / import_paths[-1],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    service_process = ServiceProcess(f"http://127.0.0.1:{port}", process)
    try:
        asyncio.run(_wait_until_ready(service_process))
        yield service_process
    finally:
        service_process.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def _wait_until_ready(service: ServiceProcess) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(int(START_SECONDS / POLL_SECONDS)):
            if service.process.poll() is not None:
                raise SystemExit("the service ended while it started")
            if await _is_ready(session, service.address):
                return
            await asyncio.sleep(POLL_SECONDS)
    raise SystemExit("the service did not get ready in two minutes")


async def _is_ready(session: aiohttp.ClientSession, address: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=2)
    try:
        async with session.get(f"{address}/readyz", timeout=timeout) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def send_load(
    address: str,
    rate: float,
    seconds: float,
    bodies: Iterator[tuple[Any, Any]],
    is_right: Judge,
    seed: int,
) -> LoadResult:
    """Send requests as a Poisson process and return what became of them.

    Args:
        rate: requests a second, on average.
        bodies: the body of each request, with its expected content.
        is_right: whether an answer of the model is as expected.
    """
    count = int(rate * seconds)
    pauses = np.random.default_rng(seed).exponential(1 / rate, count)
    due_times = np.cumsum(pauses)
    requests = [next(bodies) for _ in pauses]
    result = LoadResult(rate)
    asyncio.run(_send_all(address, due_times, requests, is_right, result))
    return result


async def _send_all(
    address: str,
    due_times: np.ndarray,
    requests: list[tuple[Any, Any]],
    is_right: Judge,
    result: LoadResult,
) -> None:
    """Send each request at its due time and add its outcome to the result."""
    timeout = aiohttp.ClientTimeout(total=LOST_AFTER_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        start = time.perf_counter() + LEAD_SECONDS

        async def send_one(due_time: float, body: Any, expected: Any) -> None:
            outcome = await _send(session, address, body, expected, is_right)
            if outcome in ("model", "wrong", "fallback"):
                result.seconds.append(time.perf_counter() - start - due_time)
            result.outcomes[outcome] += 1

        tasks = []
        for due_time, (body, expected) in zip(due_times, requests, strict=True):
            pause = start + due_time - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(send_one(due_time, body, expected)))
        await asyncio.gather(*tasks)


async def _send(
    session: aiohttp.ClientSession, address: str, body: Any, expected: Any, is_right: Judge
) -> str:
    """Send a request and return its outcome."""
    try:
        async with session.post(f"{address}/recommend", json=body) as response:
            content = await response.json()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return "lost"
    if response.status == 503:
        has_retry_after = response.headers.get("Retry-After", "").isdigit()
        return "503" if has_retry_after else "503 without Retry-After"
    if response.status != 200:
        return str(response.status)
    if isinstance(content, dict) and content.get("source") == "fallback":
        return "fallback"
    return "model" if is_right(content, expected) else "wrong"
