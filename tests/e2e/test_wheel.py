"""The wheel: it holds the whole project, and works where no checkout is."""

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

PARTS = ("pipelines", "components", "serving", "feature_repo", "charts")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--wheel-dir", str(folder), str(ROOT),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
        "--target", str(folder), str(wheel),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def python(installed, folder, *arguments):
    """Python with the installed wheel first on its path, in a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("EAGER_LLM_HOME", None)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=folder, env=environment
    )


def cli(installed, folder, *words):
    return python(installed, folder, "-m", "eager_llm.cli.main", *words)


def source_files(folder):
    files = set()
    for file in folder.rglob("*"):
        hidden = any(part in ("__pycache__", ".ruff_cache") for part in file.parts)
        if file.is_file() and not hidden:
            files.add(file.relative_to(folder).as_posix())
    return files


def test_the_wheel_holds_the_library_and_every_part_outside_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    library = {f"eager_llm/{name}" for name in source_files(ROOT / "src" / "eager_llm")}
    assert library <= names
    project = set()
    for part in PARTS:
        files = source_files(ROOT / part)
        project |= {f"eager_llm/_project/{part}/{name}" for name in files}
    assert project == {name for name in names if name.startswith("eager_llm/_project/")}
    others = {name.split("/")[0] for name in names}
    assert others == {"eager_llm", f"eager_llm-{importlib.metadata.version('eager-llm')}.dist-info"}


def test_every_part_is_found_without_a_checkout(installed, tmp_path):
    code = (
        "import eager_llm; from eager_llm.core.project import project_home; "
        "print(eager_llm.__file__); print(project_home())"
    )
    done = python(installed, tmp_path, "-c", code)
    library, home = map(Path, done.stdout.split())
    assert library.is_relative_to(installed)
    assert home == installed / "eager_llm" / "_project"
    for part in PARTS:
        assert (home / part).is_dir()
    assert (home / "charts" / "eager-llm-serving" / "Chart.yaml").is_file()


def test_the_command_line_works_without_a_checkout(installed, tmp_path, run):
    help_text = cli(installed, tmp_path, "--help")
    assert help_text.returncode == 0, help_text.stderr
    assert "refresh" in help_text.stdout
    assert "tuning.epochs" in cli(installed, tmp_path, "settings").stdout
    schema = json.loads(cli(installed, tmp_path, "settings", "--schema").stdout)
    assert "tuning" in schema["properties"]
    verified = cli(installed, tmp_path, "bundle", "verify", run.folder / "bundle")
    assert verified.returncode == 0, verified.stderr
    assert "all as packed" in verified.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--data", "nowhere"], "nowhere: no such folder"),
        (["refresh", "--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_the_runners_start_without_a_checkout(installed, tmp_path, words, message):
    # A folder of the same name in the current folder is not theirs.
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise SystemExit('not this one')")
    done = cli(installed, tmp_path, *words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_a_home_without_the_parts_is_refused(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(installed))
    environment = {**os.environ, "EAGER_LLM_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "eager_llm.cli.main", "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert f"EAGER_LLM_HOME = {tmp_path}: holds no pipelines" in done.stderr
