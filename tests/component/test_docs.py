"""The documents: the site builds without a warning, and every command in them exists."""

import re
import subprocess
import sys

import pytest
import typer
from conftest import ROOT

from eager_llm.cli.main import app

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def commands():
    for page in PAGES:
        for block in FENCE.findall(page.read_text(encoding="utf-8")):
            text = block.replace("\\\n", " ")
            for line in text.splitlines():
                command = re.split(r"\s+#", line)[0].strip()
                if command:
                    yield page.relative_to(ROOT), command


def targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))


MAKE = [(page, command) for page, command in commands() if command.startswith("make ")]
EAGER = [(page, command) for page, command in commands() if command.startswith("eager-llm ")]


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("page", "command"), MAKE)
def test_a_make_target_exists(page, command):
    for part in command.split("&&"):
        words = part.split()
        if words[0] == "make":
            names = [word for word in words[1:] if "=" not in word and not word.startswith('"')]
            assert names[0] in targets(), f"{page}: {command}"


@pytest.mark.parametrize(("page", "command"), EAGER)
def test_a_command_and_its_options_exist(page, command):
    current = typer.main.get_command(app)
    words = command.split()[1:]
    while words and hasattr(current, "commands") and words[0] in current.commands:
        current = current.commands[words.pop(0)]
    assert not hasattr(current, "commands"), f"{page}: {command}: no such command"
    options = {"--help"}
    for parameter in current.params:
        options |= {*parameter.opts, *parameter.secondary_opts}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in options, f"{page}: {command}: no option {word}"
