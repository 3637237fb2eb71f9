"""Resolve requirements.lock: every transitive pin for Python 3.11 on Linux."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# Made by `make lock`; every transitive pin for Python 3.11 on Linux.
# torch is pinned without a local version: an index of CPU builds gives the CPU build, PyPI the CUDA
# build, whose NVIDIA packages are pinned by torch itself.
"""


def main() -> None:
    """Run uv and leave out what depends on the machine: local versions, NVIDIA's and Triton's builds."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--all-extras",
        "--python-version",
    ]
    command += [
        "3.11",
        "--quiet",
        "--no-header",
        "--no-annotate",
        "--no-emit-index-url",
        "--no-emit-find-links",
    ]
    # The packages that build this one without isolation are part of the environment.
    command += ["--constraint", "scripts/constraints.txt", "scripts/build.in"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    pins = [
        re.sub(r"\+[\w.]+", "", line)
        for line in done.stdout.splitlines()
        if line and not line.startswith("#")
    ]
    pins = [pin for pin in pins if not re.match(r"(nvidia-(?!ml-py)|cuda-|triton==)", pin)]
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(pins) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
