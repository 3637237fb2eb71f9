"""A step as a job of a static Ray cluster: a real one on loopback, whose machines are killed while they work."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pytest
from conftest import ROOT
from running import free_port

pytest.importorskip("aiohttp_cors", reason="Ray's job API needs ray[default]")
SPLITS = 20
# A step of the test's own, done by the real pool of the item index; a part takes half a second.
ENTRY = f"""
import sys, time
from pathlib import Path
import numpy as np
from eager_llm.index import ray_pool, ray_worker
from eager_llm.index.shards import Shards
from eager_llm.steps.distributed import distributed
from eager_llm.steps.remote import main

class Slow(ray_worker.Worker):
    def part(self, number):
        time.sleep(0.5)
        return number, float(self.sources["a"].read(number, number + 1)[0, 0])

ray_pool.Worker = Slow

@distributed(("rows",), ("out",), ())
def count(rows, out, settings):
    total = 0.0
    with ray_pool.worker_pool({{"a": Shards(np.load(rows), "a")}}, "float32", 2) as workers:
        for number, value in workers.map("part", [(n,) for n in range({SPLITS})]):
            print(f"part {{number}}", flush=True)
            total += value
    out.write_text(str(total))
    return {{"total": total}}

sys.exit(main(sys.argv[1:]))
"""


# The step that waits, and the cluster, with a token of the test's own; a process keeps the first that it has seen.
ENVIRONMENT = {
    **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}/src",
    "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-tests-own-with-some-length",
}  # fmt: skip
ENVIRONMENT.pop("RAY_ADDRESS", None)
WAITING = """
from dataclasses import replace
from eager_llm.cluster import static_cluster
from eager_llm.cluster.step_calls import StepCall
from eager_llm.settings import RaySettings, Settings
from eager_llm.steps.distributed import elsewhere

static_cluster.ENTRY = "python3 {folder}/entry.py"
settings = Settings().replace(ray=RaySettings(cluster="{address}", poll_seconds=0.2, away_minutes=0.05))
print("ANSWER", elsewhere(StepCall("count", {inputs}, {outputs}, {{}}, settings.to_dict()), settings, []))
"""


@contextmanager
def ray_node(folder, name, *arguments):
    """One machine of a Ray cluster, as processes of their own."""
    command = [
        "ray",
        "start",
        "--block",
        "--node-ip-address=127.0.0.1",
        "--object-store-memory=80000000",
    ]
    with (folder / f"{name}.log").open("w") as log:
        node = subprocess.Popen(
            [*command, *arguments], stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True
        )
    try:
        yield node
    finally:
        kill(node)


def kill(node):
    """End a machine without a word."""
    with suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait(20)


@pytest.fixture
def cluster():
    """The address of a cluster with a head that does no work; and what starts a machine with two cores."""
    port, dashboard = free_port(), free_port()
    address = f"http://127.0.0.1:{dashboard}"
    # Ray's sockets need a short path.
    with (
        TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
        ExitStack() as machines,
    ):
        head = (
            "--head",
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            "--num-cpus=0",
            f"--temp-dir={folder}/s",
        )

        def start(name, *arguments):
            return machines.enter_context(ray_node(Path(folder), name, *arguments))

        def worker(name):
            return start(name, f"--address=127.0.0.1:{port}", "--num-cpus=2")

        node = start("head", *head)
        wait_for(lambda: answers(address))
        yield address, node, worker


def answers(address):
    with suppress(httpx.TransportError):
        return httpx.get(f"{address}/api/version").status_code in (200, 401, 403)
    return False


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)


@contextmanager
def step(folder, address, number):
    """A step that waits for its job, in a process of its own; and what it has said so far."""
    inputs, outputs = {"rows": str(folder / "rows.npy")}, {"out": str(folder / "out")}
    (folder / "step.py").write_text(
        WAITING.format(folder=folder, address=address, inputs=inputs, outputs=outputs)
    )
    log = folder / f"step-{number}.log"
    with log.open("w") as out:
        waiting = subprocess.Popen(
            [sys.executable, folder / "step.py"], stdout=out, stderr=out, env=ENVIRONMENT
        )
    try:
        yield waiting, lambda pattern: re.findall(pattern, log.read_text())
    finally:
        waiting.kill()
        waiting.wait(20)


def test_lost_machines_are_told_as_what_they_are(cluster, tmp_path):
    """A lost worker's parts are done again, on the machine that comes in its place; a lost head ends the job."""
    address, head, start_worker = cluster
    (tmp_path / "entry.py").write_text(ENTRY)
    np.save(tmp_path / "rows.npy", np.arange(SPLITS, dtype=np.float32)[:, None])
    worker = start_worker("one")
    with step(tmp_path, address, 1) as (waiting, heard):
        wait_for(lambda: waiting.poll() is not None or heard(r"  part 1\n"))
        assert waiting.poll() is None, heard(".+")
        kill(worker)
        start_worker("two")
        assert waiting.wait(90) == 0, heard(".+")
        total = float(sum(range(SPLITS)))
        assert heard(f"ANSWER {{'total': {total}}}")
        assert float((tmp_path / "out").read_text()) == total
        assert heard(r"worker \w+ \([\d.]+\) was lost: .+ Its part is done again")
        assert [int(number) for number in heard(r"  part (\d+)\n")] == list(range(SPLITS))

    # The same call again is another job: the one that ended well was taken away with its answer.
    with step(tmp_path, address, 2) as (waiting, heard):
        wait_for(lambda: waiting.poll() is not None or heard(r"  part 1\n"))
        kill(head)
        assert waiting.wait(60) == 1
        # Whichever of the head's processes is missed first.
        assert heard(
            r"UserError: .*(head of the Ray cluster at http\S+ does not answer; if it was lost, so is its job|"
            "the head of the cluster, was lost)"
        )


def test_a_cluster_that_is_not_there_is_named(tmp_path):
    with step(tmp_path, f"http://127.0.0.1:{free_port()}", 1) as (waiting, heard):
        assert waiting.wait(60) == 1
        assert heard(r"UserError: ray.cluster = http://127\S+: no Ray cluster answers there: ")
