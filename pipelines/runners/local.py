"""Run the pipeline on this machine with kfp.local: a process or a container a step."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eager_llm.core.errors import UserError
from eager_llm.core.project import project_home
from eager_llm.core.stores import in_store
from eager_llm.features.feast_repository import ONLINE_VARIABLE, SQLITE
from eager_llm.settings import Settings
from eager_llm.steps.timing import TIMES_VARIABLE
from pipelines.fingerprint import fingerprint
from pipelines.runners.output import StepOutput
from pipelines.runners.processes import process_runner
from pipelines.runners.summary import ARTIFACTS, TIMES_FILE, finish

if TYPE_CHECKING:
    from pipelines.runners.docker import Containers

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "pipelines" / "settings"
DEMO = "demo"


def main(arguments: list[str]) -> int:
    """Run with the options that `eager-llm run` has parsed.

    Args:
        arguments: the keyword arguments of `run_source`, as one JSON object.

    Returns:
        0, 1 where a step failed, or 2 where the input is wrong.
    """
    options = json.loads(arguments[0])
    try:
        return run_source(**options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run_source(
    source: str,
    name: str | None,
    runs: str,
    settings_file: str | None,
    overrides: list[str],
    in_images: bool,
) -> int:
    """Run the pipeline on a source; see `run`.

    Args:
        source: a folder, a URI of an object store, or `demo`.
        name: of the run's folder; None: the source's name.
        runs: folder of all runs.
        settings_file: YAML; None: one of pipelines/settings.
        overrides: of settings, as section.name=value.
        in_images: whether each step runs in a container of its own image.

    Raises:
        UserError: the input is wrong.
    """
    default_file = "demo.yaml" if source == DEMO else "small.yaml"
    file = Path(settings_file) if settings_file else SETTINGS / default_file
    settings = Settings.read(file, overrides)
    containers = _containers() if in_images else None
    return run(source, name or run_name(source), Path(runs), settings, containers)


def _containers() -> "Containers":
    from pipelines.runners.docker import Containers

    return Containers()


def run(
    source: str, name: str, runs: Path, settings: Settings, containers: "Containers | None" = None
) -> int:
    """Run the pipeline into `runs/name`, re-using the steps whose inputs have not changed.

    Args:
        source: a folder, a URI of an object store, or `demo`.
        name: of the run's folder.
        runs: folder of all runs.
        settings: all sections.
        containers: what the steps run in; None: processes of this Python.

    Returns:
        0, or 1 where a step failed; the step has said why.

    Raises:
        UserError: the source or the templates cannot be read, or no Docker engine answers.
    """
    folder = (runs / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    settings = with_absolute_paths(settings)
    _drop_stale_cache(folder)
    if source != DEMO and not in_store(source):
        source = str(Path(source).resolve())
    source_fingerprint = fingerprint(source, settings)
    engine: AbstractContextManager[Any] = containers or nullcontext()
    outputs: dict[str, Path] = {}
    with step_environment(folder), redirect_stdout(StepOutput(sys.stdout)), engine:
        _configure_kfp(folder, source, settings, containers)
        try:
            outputs = _run_graph(
                folder, source, source_fingerprint, settings, containers is not None
            )
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
    if containers:
        containers.print_summary()
    if not outputs:
        return 1
    finish(folder, outputs, settings)
    return 0


def _drop_stale_cache(folder: Path) -> None:
    """Remove the cache of a run whose online store is gone.

    The store is written in place, so that a step taken from the cache would leave it empty.
    """
    uses_sqlite = os.environ.get(ONLINE_VARIABLE, SQLITE) == SQLITE
    if uses_sqlite and not (folder / "features" / "online.db").is_file():
        shutil.rmtree(folder / "cache", ignore_errors=True)


def _configure_kfp(
    folder: Path, source: str, settings: Settings, containers: "Containers | None"
) -> None:
    """Tell kfp.local how to run a step and where its outputs lie."""
    from kfp import local

    runner: Any
    if containers is None:
        runner = process_runner()
    else:
        inputs = [Path(path) for path in (source, settings.tuning.template_file) if path]
        inputs = [path for path in inputs if path.exists()]
        tensorboard = settings.tuning.tensorboard
        outputs = [Path(tensorboard)] if tensorboard else []
        variables = {TIMES_VARIABLE: str(folder / TIMES_FILE)}
        runner = containers.runner(folder, variables, inputs, outputs)
    local.init(
        runner,
        pipeline_root=str(folder / ARTIFACTS),
        enable_caching=True,
        cache_root=str(folder / "cache"),
    )


def _run_graph(
    folder: Path, source: str, source_fingerprint: str, settings: Settings, in_images: bool
) -> dict[str, Path]:
    """Run every step that has to run, and return where the pipeline's outputs lie."""
    from pipelines.graphs.placement import FEATURE_REPO, Target, compiled_for
    from pipelines.graphs.recommender import recommender, setting_parameters

    feature_repo = FEATURE_REPO if in_images else str(project_home() / "feature_repo")
    task = compiled_for(recommender, Target("laptop"))(
        source=source,
        fingerprint=source_fingerprint,
        feature_repo=feature_repo,
        feature_store=str(folder / "features"),
        checkpoints=str(folder / "checkpoints"),
        **setting_parameters(settings),
    )
    return {name: Path(artifact.uri) for name, artifact in task.outputs.items()}


def with_absolute_paths(settings: Settings) -> Settings:
    """Return the settings with absolute paths: a step may run in another folder."""
    tuning = settings.tuning.replace(
        template_file=_absolute(settings.tuning.template_file),
        tensorboard=_absolute(settings.tuning.tensorboard),
    )
    return settings.replace(tuning=tuning)


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if path else ""


def run_name(source: str) -> str:
    """Return a folder name for a source: the last name of its path, in letters, digits, - and _."""
    return re.sub(r"[^\w.-]+", "-", Path(source).resolve().name).strip("-.") or "run"


@contextmanager
def step_environment(folder: Path) -> Iterator[None]:
    """Set the environment variables of the steps for the length of a block.

    Args:
        folder: of the run; the steps append their seconds to a file of it.
    """
    from pipelines.graphs.placement import ENVIRONMENT

    original = dict(os.environ)
    paths = [str(ROOT / "src")]
    if original.get("PYTHONPATH"):
        paths.append(original["PYTHONPATH"])
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ[TIMES_VARIABLE] = str(folder / TIMES_FILE)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(original)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
