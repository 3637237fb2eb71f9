"""A PostgreSQL of one's own on loopback, with a password, for the time of a block."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "shop", "s3cret@/word"


def program(name: str) -> str | None:
    """Where a program of the server is: on the PATH, or where Debian puts it."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(places[-1]) if places else None)


@contextmanager
def postgres() -> Iterator[int]:
    """Yield the port of a fresh server; it is stopped by its own process and its files are removed."""
    initdb, server = program("initdb"), program("postgres")
    assert initdb
    assert server
    # The server refuses to be root; a folder that its user may reach, then.
    other = {"user": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="warehouse-"))
    try:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if other:
            for path in (folder, secret):
                shutil.chown(path, "postgres")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": folder, **other}
        command = [
            initdb,
            "-D",
            str(folder / "data"),
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            "--pwfile",
            str(secret),
            "-N",
        ]
        subprocess.run([*command, "-E", "UTF8", "--locale=C.UTF-8"], check=True, **quiet)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = [
            "-c",
            "fsync=off",
            "-c",
            "unix_socket_directories=",
            "-c",
            "TimeZone=America/New_York",
        ]
        quiet["stderr"] = subprocess.DEVNULL
        process = subprocess.Popen(
            [server, "-D", str(folder / "data"), "-h", "127.0.0.1", "-p", str(port), *settings],
            **quiet,
        )
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
