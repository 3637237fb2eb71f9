"""The Docker engine of the end-to-end scripts: from Debian, on the loopback, without a registry."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OFFLINE_BASE = "eager-llm/base:bookworm"
ENGINE_PACKAGES = {"docker": "docker.io", "dockerd": "docker.io", "debootstrap": "debootstrap"}


def install(packages: dict[str, str]) -> None:
    """Install from Debian what is missing of commands and the packages that bring them."""
    missing = sorted({package for tool, package in packages.items() if shutil.which(tool) is None})
    if missing:
        if os.geteuid() or shutil.which("apt-get") is None:
            sys.exit(f"missing: {', '.join(missing)}; install them, or run this as root on Debian")
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", *missing], check=True, stdout=subprocess.DEVNULL
        )


@contextmanager
def docker_engine() -> Iterator[None]:
    """Start a Docker engine without bridge and firewall rules, unless one runs; stop it again."""
    if docker("info", check=False).returncode == 0:
        yield
        return
    command = ["dockerd", "--iptables=false", "--bridge=none"]
    engine = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(
            lambda: docker("info", check=False).returncode == 0,
            engine.poll,
            60,
            "the Docker engine",
        )
        yield
    finally:
        engine.terminate()
        engine.wait(60)


def base_image(name: str) -> str:
    """Return a base image of this machine: the named one, pulled if need be, else Debian's."""
    for command in (
        ("image", "inspect", name),
        ("pull", "--quiet", name),
        ("image", "inspect", OFFLINE_BASE),
    ):
        if docker(*command, check=False).returncode == 0:
            return command[-1]
    print(f"{name} cannot be pulled here: making {OFFLINE_BASE} with debootstrap", flush=True)
    subprocess.run([ROOT / "scripts" / "base_image.sh", OFFLINE_BASE], check=True)
    return OFFLINE_BASE


def wait_until(
    holds: Callable[[], bool], ended: Callable[[], object], seconds: float, what: str
) -> None:
    """Wait for a condition; end where its process has ended or time is up."""
    deadline = time.monotonic() + seconds
    while not holds():
        end = ended()
        if end is not None:
            sys.exit(f"{what} ended: {end}")
        if time.monotonic() > deadline:
            sys.exit(f"{what} was not there in {seconds:.0f} seconds")
        time.sleep(0.2)


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the Docker client; where it must succeed, end with what it said."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done


def inside(image: str) -> tuple[str, list[str]]:
    """Return who runs in an image, and which tools in it compile or install.

    A base from Debian packages brings apt, which without root and on a read-only root does nothing.
    """
    script = (
        "import os, shutil; "
        "print(os.getuid(), *filter(shutil.which, ['cc', 'gcc', 'g++', 'make', 'pip']))"
    )
    command = ["run", "--rm", "--network=none", "--read-only", image, "python3", "-c", script]
    user, *tools = docker(*command).stdout.split()
    return user, tools


def call(*arguments: str) -> None:
    """Run a script of the project with this Python; end where it fails."""
    if subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode:
        sys.exit(f"failed: {' '.join(arguments)}")
