"""The parts outside the library, each run as a process of its own with the project on its path."""

import json
import os
import subprocess
import sys
from typing import Any, NoReturn

from eager_llm.core.project import project_home


def run_module(module: str, options: dict[str, Any]) -> int:
    """Run a module of the project with options that the command line has parsed.

    Args:
        module: its `main` takes the options as one JSON object.
        options: plain values.

    Returns:
        The status of the process.
    """
    # -P: a folder of the same name in the current folder does not come first.
    command = [sys.executable, "-P", "-m", module, json.dumps(options)]
    return subprocess.run(command, env=project_environment()).returncode


def become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Replace this process by a command in the project's folder: its signals and its end are ours.

    Args:
        command: a program and its arguments.
        environment: its variables.
    """
    os.chdir(project_home())
    os.execvpe(command[0], command, environment)  # noqa: S606


def project_environment() -> dict[str, str]:
    """Return this process's variables, with the project first on Python's path."""
    home = project_home()
    folders = [str(home)]
    sources = home / "src"
    if sources.is_dir():
        folders.append(str(sources))
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    if path:
        folders.append(path)
    environment["PYTHONPATH"] = os.pathsep.join(folders)
    return environment
