"""Steps as processes of this Python: kfp's runner, with a fault of it mended."""

import shlex
from typing import Any

# What kfp's command for a step holds in its one line of shell.
EXECUTOR = "python3 -m kfp.dsl.executor_main"
ARGUMENTS = '"$@"'


def process_runner() -> Any:
    """Return kfp's runner for steps as processes of this Python.

    kfp puts the interpreter in the place of the letters `python3` wherever they stand, also in the
    paths of a step's arguments: an installed wheel lies in `lib/python3.11`. Here the command alone
    is replaced.
    """
    from kfp import local
    from kfp.local import subprocess_task_handler

    subprocess_task_handler.replace_python_executable = with_interpreter
    return local.SubprocessRunner(use_venv=False)


def with_interpreter(full_command: list[str], new_executable: str) -> list[str]:
    """Return kfp's command for a step with the interpreter's path in the place of `python3`.

    Args:
        full_command: a shell with its line, the step's code and its arguments.
        new_executable: path of the interpreter.
    """
    interpreter = shlex.quote(new_executable)
    command: list[str] = []
    for word in full_command:
        is_shell_line = EXECUTOR in word and ARGUMENTS in word
        if is_shell_line:
            word = word.replace("python3 ", f"{interpreter} ")
        command.append(word)
    return command
