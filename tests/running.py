"""The real service, started by its command and stopped by its own process id."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(run, *arguments, port, log=subprocess.DEVNULL, **environment):
    bundle = str(run.folder / "bundle")
    command = [sys.executable, "-m", "eager_llm.cli.main", "serve", "--bundle", bundle]
    # A machine that tests keep busy is slow: time limits have tests of their own.
    long_limits = {"EAGER_LLM_DEADLINE_MS": "20000", "EAGER_LLM_FEATURES_MS": "10000"}
    return subprocess.Popen(
        [*command, "--port", str(port), *arguments],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **long_limits, **environment},
    )


def wait_until_ready(client, process):
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the service ended"
        assert time.monotonic() < deadline, "the service did not get ready in 60 seconds"
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)


@contextmanager
def serving(run, *arguments, log=subprocess.DEVNULL, **environment):
    port = free_port()
    process = start(run, *arguments, port=port, log=log, **environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_until_ready(client, process)
            client.process = process
            yield client
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        process.wait(30)
