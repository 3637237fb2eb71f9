"""A step as a job of a standing Ray cluster: a real one on loopback, whose machines are killed while they work."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pytest
from conftest import ROOT
from running import free_port

from eager_llm.cluster import standing
from eager_llm.cluster.calls import Call
from eager_llm.errors import UserError
from eager_llm.settings import RaySettings, Settings
from eager_llm.steps.distributed import elsewhere

pytest.importorskip("aiohttp_cors", reason="Ray's job API needs ray[default]")
PARTS = 12
# A step of the test's own, done by the real pool of the item index; a part takes half a second.
ENTRY = f'''
import sys, time
from pathlib import Path
import numpy as np
from eager_llm.index import pool, worker
from eager_llm.index.shards import Shards
from eager_llm.steps.distributed import distributed
from eager_llm.steps.remote import main

class Slow(worker.Worker):
    def part(self, number):
        time.sleep(0.5)
        return number, float(self.sources["a"].read(number, number + 1)[0, 0])

pool.Worker = Slow

@distributed(("rows",), ("out",), ())
def count(rows, out, settings):
    total = 0.0
    with pool.worker_pool({{"a": Shards(np.load(rows), "a")}}, "float32", 2) as workers:
        for number, value in workers.map("part", [(n,) for n in range({PARTS})]):
            print(f"part {{number}}", flush=True)
            total += value
    out.write_text(str(total))
    return {{"total": total}}

sys.exit(main(sys.argv[1:]))
'''


@contextmanager
def ray_node(folder, name, *arguments):
    """One machine of a Ray cluster, as processes of their own."""
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}/src",
        "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "5",
    }  # fmt: skip
    command = ["ray", "start", "--block", "--node-ip-address=127.0.0.1", "--object-store-memory=80000000"]
    with (folder / f"{name}.log").open("w") as log:
        node = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, env=environment, start_new_session=True)
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
def cluster(monkeypatch):
    """The address of a cluster with a head that does no work; and what starts a machine with two cores."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-of-the-tests-own-with-some-length")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    port, dashboard = free_port(), free_port()
    address = f"http://127.0.0.1:{dashboard}"
    # Ray's sockets need a short path.
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder, ExitStack() as machines:
        head = ("--head", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=0", f"--temp-dir={folder}/s")

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


def settings_for(address, **more):
    ray = RaySettings(cluster=address, poll_seconds=0.2, **{"away_minutes": 0.5, **more})
    return replace(Settings(), ray=ray)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)


def submit(call, settings, found):
    """Do a call in a thread; keep what it answers or raises."""

    def work():
        try:
            found.append(elsewhere(call, settings, []))
        except UserError as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_lost_machines_are_told_as_what_they_are(cluster, tmp_path, monkeypatch, capsys):
    """A lost worker's parts are done again, on the machine that comes in its place; a lost head ends the job."""
    address, head, start_worker = cluster
    (tmp_path / "entry.py").write_text(ENTRY)
    np.save(tmp_path / "rows.npy", np.arange(PARTS, dtype=np.float32)[:, None])
    monkeypatch.setattr(standing, "ENTRY", f"python3 {tmp_path}/entry.py")
    settings = settings_for(address)
    call = Call("count", {"rows": str(tmp_path / "rows.npy")}, {"out": str(tmp_path / "out")}, {}, settings.to_dict())
    said, found = [], []

    def heard(pattern):
        said.append(capsys.readouterr().out)
        return re.findall(pattern, "".join(said))

    worker = start_worker("one")
    thread = submit(call, settings, found)
    wait_for(lambda: found or heard(r"  part 1$|  part 1\n"))
    assert not found, found
    kill(worker)
    start_worker("two")
    thread.join(90)
    assert found == [{"total": float(sum(range(PARTS)))}]
    assert float((tmp_path / "out").read_text()) == sum(range(PARTS))
    assert heard(r"worker \w+ \([\d.]+\) was lost: .+ Its part is done again")
    assert [int(number) for number in heard(r"  part (\d+)\n")] == list(range(PARTS))

    # The same call again is another job: the one that ended well was taken away with its answer.
    said.clear()
    thread = submit(call, settings_for(address, away_minutes=0.02), found)
    wait_for(lambda: len(found) > 1 or heard(r"  part 1\n"))
    kill(head)
    thread.join(60)
    # Whichever of the head's processes is missed first.
    told = r"head of the Ray cluster at http.* does not answer; if it was lost, so is its job|head of the cluster, was lost"
    assert re.search(told, str(found[1]))
    with pytest.raises(UserError, match="no Ray cluster answers there"):
        elsewhere(call, settings, [])
