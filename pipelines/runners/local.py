"""Run the pipeline on this machine with kfp.local: the compiled graph, a process or a container a step."""

import argparse
import hashlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from eager_llm.core.errors import UserError
from eager_llm.core.files import content_digest, in_store, store_digest
from eager_llm.core.project import project_home
from eager_llm.features.feature_store import ONLINE_VARIABLE, SQLITE
from eager_llm.prompts.templates import read_templates, template_file
from eager_llm.settings import Settings
from eager_llm.steps.timing import TIMES_VARIABLE
from pipelines.runners.summary import ARTIFACTS, TIMES_FILE, finish

if TYPE_CHECKING:
    from pipelines.runners.docker import Containers

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.runners.local", description=__doc__)
    parser.add_argument(
        "--source", default="demo", help="folder that holds the log, or `demo`: the made-up shop"
    )
    parser.add_argument("--name", help="name of the run's folder; default: the source's name")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument(
        "--settings", type=Path, help="YAML file of settings; default: pipelines/settings"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help="override a setting",
    )
    parser.add_argument(
        "--runner",
        default="process",
        choices=["process", "docker"],
        help="what a step runs in; docker: its own image",
    )
    asked = parser.parse_args(arguments)
    try:
        file = asked.settings or ROOT / "pipelines" / "settings" / (
            "demo.yaml" if asked.source == "demo" else "small.yaml"
        )
        settings = Settings.read(file, asked.set)
        name = asked.name or run_name(asked.source)
        return run(
            asked.source,
            name,
            asked.runs,
            settings,
            _containers() if asked.runner == "docker" else None,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _containers() -> "Containers":
    from pipelines.runners.docker import Containers

    return Containers()


def run(
    source: str, name: str, runs: Path, settings: Settings, containers: "Containers | None" = None
) -> int:
    """Run the pipeline into `runs/name`, re-using the steps whose inputs have not changed.

    Args:
        containers: what the steps run in; None: processes of this Python.

    Returns:
        0, or 1 where a step failed; the step has said why.
    """
    folder = (runs / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    settings = with_whole_paths(settings)
    store = folder / "features"
    if not (store / "online.db").is_file() and os.environ.get(ONLINE_VARIABLE, SQLITE) == SQLITE:
        # The feature store is written in place: without it nothing that was published can be re-used.
        shutil.rmtree(folder / "cache", ignore_errors=True)
    source = source if source == "demo" or in_store(source) else str(Path(source).resolve())
    mark = fingerprint(source, settings)
    with environment(folder), redirect_stdout(Readable(sys.stdout)), containers or nullcontext():
        _start(folder, source, settings, containers)
        try:
            outputs = _run_graph(folder, source, mark, settings, containers is not None)
        except RuntimeError as error:
            outputs = {}
            print(f"error: {error}", file=sys.stderr)
    if containers:
        containers.tell()
    if outputs:
        finish(folder, outputs, settings)
    return 0 if outputs else 1


def _start(folder: Path, source: str, settings: Settings, containers: "Containers | None") -> None:
    """Tell kfp.local how to run a step and where its outputs lie."""
    from kfp import local

    if containers is None:
        # kfp's runner replaces the word python3 by this very interpreter.
        runner = local.SubprocessRunner(use_venv=False)
    else:
        read = [
            Path(path)
            for path in (source, settings.tuning.template_file)
            if path and Path(path).exists()
        ]
        write = [Path(settings.tuning.tensorboard)] if settings.tuning.tensorboard else []
        runner = containers.runner(folder, {TIMES_VARIABLE: str(folder / TIMES_FILE)}, read, write)
    local.init(
        runner,
        pipeline_root=str(folder / ARTIFACTS),
        enable_caching=True,
        cache_root=str(folder / "cache"),
    )


def _run_graph(
    folder: Path, source: str, mark: str, settings: Settings, in_images: bool
) -> dict[str, Path]:
    """Run every step that has to run, and return where the pipeline's outputs lie."""
    from pipelines.graphs.placement import FEATURE_REPO, Target, compiled_for
    from pipelines.graphs.recommender import recommender, setting_parameters

    task = compiled_for(recommender, Target("laptop"))(
        source=source,
        fingerprint=mark,
        feature_repo=FEATURE_REPO if in_images else str(project_home() / "feature_repo"),
        feature_store=str(folder / "features"),
        checkpoints=str(folder / "checkpoints"),
        **setting_parameters(settings),
    )
    return {name: Path(artifact.uri) for name, artifact in task.outputs.items()}


def with_whole_paths(settings: Settings) -> Settings:
    """Return the settings with whole paths: a step may run in another folder."""
    template_file, tensorboard = (
        str(Path(path).resolve()) if path else ""
        for path in (settings.tuning.template_file, settings.tuning.tensorboard)
    )
    return settings.replace(
        tuning=settings.tuning.replace(template_file=template_file, tensorboard=tensorboard)
    )


def fingerprint(source: str, settings: Settings) -> str:
    """Return a digest of the library's code, of the source's files and of the phrasings."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "src" / "eager_llm").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(file.read_bytes())
    read_templates(template_file(settings))  # refused before anything runs
    digest.update(template_file(settings).read_bytes())
    if in_store(source):
        digest.update(store_digest(source).encode())
    elif source != "demo":
        if not Path(source).is_dir():
            raise UserError(
                f"{source}: no such folder; name the folder that holds the log, or demo"
            )
        digest.update(content_digest(Path(source)).encode())
    return digest.hexdigest()[:16]


def run_name(source: str) -> str:
    """Return a folder name for a source: the last part of its path, in plain characters."""
    return re.sub(r"[^\w.-]+", "-", Path(source).resolve().name).strip("-.") or "run"


# A line of indented JSON: a bracket, a name or a text, or a plain value of a list.
_JSON_LINE = re.compile(r"""[{}\[\]"]|(-?\d[\d.eE+-]*|true|false|null),?$""")


class Readable(io.TextIOBase):
    """Standard output without what kfp's executor tells of itself: its inputs, in full, for each step."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._dumping, self._blank = stream, False, ""

    def write(self, text: str) -> int:
        """Pass lines on, with the blanks before them, unless they are the executor's own."""
        for line in text.splitlines(keepends=True):
            self._write(line)
        return len(text)

    def _write(self, text: str) -> None:
        line = text.strip()
        if not line:
            self._blank += text
        elif "[KFP Executor" in line:
            self._dumping, self._blank = line.endswith("Got executor_input:"), ""
        elif self._dumping and _JSON_LINE.match(line):  # what follows
            self._blank = ""
        else:
            self._stream.write(self._blank + text)
            self._stream.flush()
            self._dumping, self._blank = False, ""


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """Give the steps what they need of the environment; their times are kept in a file of the folder."""
    from pipelines.graphs.placement import ENVIRONMENT

    before = dict(os.environ)
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [before.get("PYTHONPATH")])])
    os.environ.update({name: before.get(name, value) for name, value in ENVIRONMENT.items()})
    os.environ["PYTHONPATH"] = path
    os.environ[TIMES_VARIABLE] = str(folder / TIMES_FILE)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    sys.exit(main())
