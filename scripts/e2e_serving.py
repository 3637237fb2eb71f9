"""The serving image from end to end on this machine's loopback: `make e2e-serving`.

Builds the image, runs it as a cluster would (read-only, not root, no capabilities) with Redis as the online
store, asks every endpoint, also through a client generated from its OpenAPI, opens the page in Chromium, kills
Redis, brings it back, kills the decoder's process, gives it no time, stops the service, and prints what was
answered. Starts the Docker engine and installs docker.io, debootstrap, redis-server and chromium where they are
missing, which needs root on Debian. Ends with a status other than 0 if an answer is not the expected one.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from e2e_checks import (
    Check,
    Shop,
    endpoint_checks,
    no_time_checks,
    store_back_checks,
    without_store_checks,
)
from e2e_clients import generated_client_rows, page_row
from engine import (
    ENGINE_PACKAGES,
    base_image,
    call,
    docker,
    docker_engine,
    free_port,
    inside,
    install,
    wait_until,
)

from components.images import SERVING
from eager_llm.core.files import read_json
from eager_llm.features.feast_repository import ONLINE_VARIABLE
from eager_llm.features.feature_store import Features

CONTAINER = "eager-llm-e2e"
PACKAGES = {**ENGINE_PACKAGES, "redis-server": "redis-server", "chromium": "chromium"}


def main() -> None:
    """Do it all, print the table, and end with 1 where something was not as expected."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base", default="python:3.11-slim", help="pulled; where that fails, made by debootstrap"
    )
    parser.add_argument(
        "--run", type=Path, default=ROOT / "runs" / "demo", help="run whose bundle is served"
    )
    parser.add_argument("--no-build", action="store_true", help="take the image that is there")
    options = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    with ExitStack() as stack:
        install(PACKAGES)
        stack.enter_context(docker_engine())
        if not options.no_build:
            call("scripts/images.py", "--base", base_image(options.base), "serving")
        if not (options.run / "bundle").is_dir():
            call(
                "-m",
                "eager_llm.cli.main",
                "run",
                "--runs",
                str(options.run.parent),
                "--name",
                options.run.name,
            )
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eager-llm-e2e-")))
        scratch.chmod(0o755)
        redis = Redis(scratch / "redis")
        stack.callback(redis.stop)
        redis.start()
        shop = publish(options.run, scratch / "features", redis.url)
        rows += image_rows()
        mounts = {
            "bundle": options.run / "bundle",
            "features": scratch / "features",
            "redis": redis.url,
        }
        start = time.monotonic()
        with service(**mounts) as client:
            took = f"{1000 * (time.monotonic() - start):.0f}"
            rows.append(("image", "started, verified, warmed up", "", took, "", ""))
            rows += ask(client, "all well", endpoint_checks(shop))
            rows += generated_client_rows(str(client.base_url), shop)
            rows.append(page_row(str(client.base_url), scratch))
            redis.kill()
            rows += ask(client, "Redis killed", without_store_checks(shop))
            redis.start()
            rows += ask(client, "Redis back", store_back_checks(shop))
            rows.append(killed_row(client))
            rows += ask(client, "decoder back", store_back_checks(shop))
            rows.append(stop_row())
        with service(**mounts, EAGER_LLM_DEADLINE_MS="1") as client:
            rows += ask(client, "no time", no_time_checks(shop))
    print_table(rows)
    sys.exit(1 if any(row[-1].startswith("WRONG") for row in rows) else 0)


class Redis:
    """A Redis on the loopback that keeps its data over a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
        ]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._answers, self.process.poll, 30, "Redis")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        """End it without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.kill()


def publish(run: Path, folder: Path, url: str) -> Shop:
    """Publish a run's tables into Redis, and return whom to ask about."""
    import pandas as pd

    tables = max(run.glob("artifacts/*/ingest-data/tables"), key=lambda path: path.stat().st_mtime)
    os.environ[ONLINE_VARIABLE] = url
    history = read_json(run / "bundle" / "generation.json")["max_history"]
    Features(ROOT / "feature_repo", folder).publish(tables, history)
    readable(folder)
    events = pd.read_parquet(tables / "events.parquet")
    last = events.sort_values("timestamp").groupby("user_id")["item_id"].agg(list)
    return Shop(str(last.index[0]), [str(item) for item in last.iloc[0]])


def readable(source: Path, copy: Path | None = None) -> Path:
    """Return a folder that the container's user can read, as a cluster's `fsGroup` sees to; a copy where named."""
    folder = Path(shutil.copytree(source, copy)) if copy else source
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@contextmanager
def service(bundle: Path, features: Path, redis: str, **settings: str) -> Iterator[httpx.Client]:
    """Run the container as the chart does, and yield a client once it is ready."""
    docker("rm", "--force", CONTAINER, check=False)
    port = free_port()
    environment = {
        "EAGER_LLM_BUNDLE": "/bundle",
        "EAGER_LLM_FEATURES": "/features",
        "EAGER_LLM_ONLINE_STORE": redis,
        "BENTOML_HOST": "127.0.0.1",
        "BENTOML_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        **settings,
    }
    options = [
        "--network=host",
        "--read-only",
        "--tmpfs=/tmp",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
    ]
    options += [f"--env={name}={value}" for name, value in environment.items()]
    options += [f"--volume={bundle.resolve()}:/bundle:ro", f"--volume={features}:/features:ro"]
    docker("run", "--detach", f"--name={CONTAINER}", *options, SERVING)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            try:
                wait_until(lambda: _ready(client), _ended, 120, "the service")
            except SystemExit:
                print(
                    docker("logs", "--tail", "30", CONTAINER, check=False).stderr, file=sys.stderr
                )
                raise
            yield client
    finally:
        docker("rm", "--force", CONTAINER, check=False)


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _ended() -> str | None:
    if docker("inspect", "--format", "{{.State.Running}}", CONTAINER).stdout.strip() == "true":
        return None
    return docker("logs", "--tail", "20", CONTAINER).stderr


def ask(client: httpx.Client, phase: str, checks: list[Check]) -> list[tuple[str, ...]]:
    """Ask every question, and return a row for each."""
    rows = []
    for check in checks:
        start = time.monotonic()
        answer = client.request(check.method, check.path, json=check.body)
        took = f"{1000 * (time.monotonic() - start):.0f}"
        try:
            assert answer.status_code == check.status, (
                f"status {answer.status_code}: {answer.text[:80]}"
            )
            decoded = (
                answer.json() if "json" in answer.headers.get("content-type", "") else answer.text
            )
            result = check.expect(decoded) or "as expected"
        except (AssertionError, KeyError, TypeError) as error:
            result = f"WRONG: {error!r}"[:120]
        rows.append(
            (
                phase,
                check.what,
                f"{check.method} {check.path}",
                took,
                str(answer.status_code),
                result,
            )
        )
    return rows


def image_rows() -> list[tuple[str, ...]]:
    """Look into the image: who runs in it, and that nothing in it compiles or installs."""
    uid, builders = inside(SERVING)
    metadata = json.loads(docker("image", "inspect", SERVING).stdout)[0]
    labels = metadata["Config"]["Labels"]
    return [
        (
            "image",
            "size",
            "",
            "",
            "",
            f"{metadata['Size'] / 1e6:.0f} MB, torch {labels['eager-llm.torch']}",
        ),
        ("image", "runs as", "", "", "", f"user {uid}" if uid != "0" else "WRONG: root"),
        (
            "image",
            "compilers and installers",
            "",
            "",
            "",
            f"WRONG: {builders}" if builders else "none",
        ),
        ("image", "commit", "", "", "", labels["org.opencontainers.image.revision"]),
    ]


def killed_row(client: httpx.Client) -> tuple[str, ...]:
    """Kill the process that decodes, without a word; say after how long it answers again, by itself."""
    listed = docker("top", CONTAINER, "-eo", "pid,args").stdout.splitlines()
    worker = next(line for line in listed if "worker.service" in line)
    os.kill(int(worker.split()[0]), signal.SIGKILL)
    start = time.monotonic()
    wait_until(lambda: _ready(client), _ended, 120, "the decoder's process")
    return (
        "decoder killed",
        "its process",
        "SIGKILL",
        f"{1000 * (time.monotonic() - start):.0f}",
        "",
        "ready again",
    )


def stop_row() -> tuple[str, ...]:
    """Send SIGTERM, and say how the service ended."""
    usage = (
        docker("stats", "--no-stream", "--format", "{{.MemUsage}}", CONTAINER)
        .stdout.split("/")[0]
        .strip()
    )
    start = time.monotonic()
    docker("stop", "--time=60", CONTAINER)
    took = f"{1000 * (time.monotonic() - start):.0f}"
    code = docker("inspect", "--format", "{{.State.ExitCode}}", CONTAINER).stdout.strip()
    result = f"memory before: {usage}" if code == "0" else f"WRONG: exit code {code}"
    return ("stopped", "SIGTERM", "", took, code, result)


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows with columns as wide as they need."""
    table = [("when", "what", "asked", "ms", "status", "answered"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


if __name__ == "__main__":
    main()
