"""The whole pipeline in containers, from a log to a bundle that serves: `make e2e-pipeline`.

Builds the images, runs the compiled graph on the demo shop through kfp's DockerRunner, each step in a container of
its own (not root, read-only, bounded as pipelines/graphs/placement.py says), runs it again to see every step re-used, and
asks the serving image for recommendations from the bundle. Then breaks it on purpose: a step out of memory, a gate
that fails, a store that is away. Starts the Docker engine and installs docker.io and debootstrap where they are
missing, which needs root on Debian. Ends with a status other than 0 if something is not as expected.
"""

import argparse
import io
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(ROOT / "scripts")]

import httpx
from e2e_serving import readable, service
from engine import (
    ENGINE_PACKAGES,
    base_image,
    call,
    docker,
    docker_engine,
    free_port,
    inside,
    install,
)

from components.images import USER
from components.ingest_data.component import ingest_data
from eager_llm.bundle.verify import verify_bundle
from eager_llm.settings import Settings
from pipelines.graphs.placement import step_name
from pipelines.graphs.recommender import recommender
from pipelines.runners import local
from pipelines.runners.docker import Containers, table

SETTINGS = ROOT / "pipelines" / "settings" / "demo.yaml"
# What the step that runs out of memory is given of what it needed.
SHORT = 0.7
AWAY = "s3://eager-llm-is-away/log"


def main() -> None:
    """Do it all, print what came out, and end with 1 where something was not as expected."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base", default="python:3.11-slim", help="pulled; where that fails, made by debootstrap"
    )
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "runs", help="folder for the run `e2e-pipeline`"
    )
    parser.add_argument(
        "--set", action="append", default=[], help="override a setting of the demo's"
    )
    parser.add_argument("--no-build", action="store_true", help="take the images that are there")
    options = parser.parse_args()
    folder = options.runs.resolve() / "e2e-pipeline"
    shutil.rmtree(folder, ignore_errors=True)
    with ExitStack() as stack:
        install(ENGINE_PACKAGES)
        stack.enter_context(docker_engine())
        if not options.no_build:
            call("scripts/images.py", "--base", base_image(options.base))
        first = Containers()
        run(folder, options.set, first, 0)
        rows = [*whole_run(folder, first), *again(folder, options.set), *served(folder)]
        rows += [
            *out_of_memory(folder, options.set, first),
            *failing_gate(folder, options.set),
            *store_away(folder),
        ]
    print("\n" + table(first.runs) + "\n")
    width = max(len(what) for what, *_ in rows)
    for what, holds, shown in rows:
        print(f"{what.ljust(width)}  {'' if holds else 'WRONG: '}{shown}")
    sys.exit(0 if all(holds for _, holds, _ in rows) else 1)


Row = tuple[str, bool, str]


def run(folder: Path, overrides: list[str], containers: Containers, status: int) -> str:
    """Run the pipeline in containers, and return what it printed; end where its status differs."""
    settings = Settings.read(SETTINGS, overrides)
    with _recorded_output() as output:
        ended = local.run("demo", folder.name, folder.parent, settings, containers)
    if ended != status:
        sys.exit(f"the run ended with status {ended}, not {status}")
    return output.getvalue()


def whole_run(folder: Path, containers: Containers) -> list[Row]:
    """Look at the first run: every step in a container of its own, none of them root, to a bundle that verifies."""
    runs = containers.runs
    verify_bundle(folder / "bundle")
    graph = sorted(step_name(task) for task in recommender.pipeline_spec.root.dag.tasks)
    users, images = (
        {entry.user.split(":")[0] for entry in runs},
        sorted({entry.image for entry in runs}),
    )
    tools = [tool for image in images for tool in inside(image)[1]]
    return [
        (
            "images",
            len(images) == 2,
            "; ".join(f"{image} {megabytes(image):.0f} MB" for image in images),
        ),
        ("compilers and installers", not tools, ", ".join(tools) or "none"),
        (
            "every step, once",
            sorted(entry.step for entry in runs) == graph,
            f"{len(runs)} containers",
        ),
        (
            "all ended well",
            all(entry.exit_status == 0 for entry in runs),
            f"{sum(entry.seconds for entry in runs):.0f} s in all",
        ),
        ("not root", users == {str(USER)}, f"user {', '.join(users)}"),
        ("bundle", True, "verified"),
    ]


def megabytes(image: str) -> float:
    """Return an image's size, uncompressed."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout) / 1e6


def again(folder: Path, overrides: list[str]) -> list[Row]:
    """Run the same once more."""
    containers, start = Containers(), time.monotonic()
    run(folder, overrides, containers, 0)
    took = f"{len(containers.runs)} containers, {time.monotonic() - start:.1f} s"
    return [("run again, all re-used", not containers.runs, took)]


def served(folder: Path) -> list[Row]:
    """Ask the serving image for what follows a history and for a user of the online store, from the run's bundle."""
    import pandas as pd

    histories = pd.read_parquet(folder / "features" / "user_history.parquet", columns=["user_id"])
    items = pd.read_parquet(folder / "bundle" / "catalogue.parquet", columns=["item_id"])[
        "item_id"
    ].tolist()
    requests = {
        "a history": {"items": items[:3], "k": 3},
        "a user": {"user_id": str(histories["user_id"].iat[0]), "k": 3},
    }
    rows = []
    with tempfile.TemporaryDirectory(prefix="eager-llm-e2e-") as scratch:
        Path(scratch).chmod(0o755)
        bundle, features = (
            readable(folder / name, Path(scratch) / name) for name in ("bundle", "features")
        )
        with service(bundle, features, "sqlite") as client:
            for what, body in requests.items():
                rows.append(_answered(client, what, body))
    return rows


def _answered(client: httpx.Client, what: str, body: dict[str, object]) -> Row:
    answer = client.post("/recommend", json=body)
    recommendations = answer.json()
    holds = (
        answer.status_code == 200
        and recommendations["source"] == "model"
        and len(recommendations["items"]) == body["k"]
    )
    titles = "; ".join(str(item.get("title")) for item in recommendations.get("items", []))
    return (
        f"served, {what}",
        holds,
        f"{recommendations.get('source')}: {titles}" if holds else answer.text[:200],
    )


def out_of_memory(folder: Path, overrides: list[str], first: Containers) -> list[Row]:
    """Give a step less than it needed; what was there before must be re-used, what follows must not start."""
    needed = next(entry.memory for entry in first.runs if entry.step == "tune_model")
    limit = f"{int(SHORT * needed / 2**20)}Mi"
    containers = Containers(memory={"tune_model": limit})
    text = run(folder, [*overrides, "tuning.warmup_share=0.06"], containers, 1)
    # The step's own warning comes before; the run's last word counts.
    message = re.search(r"error: (tune_model: out of memory: .*)", text)
    alone = [entry.step for entry in containers.runs] == ["tune_model"]
    holds = (
        alone
        and message is not None
        and "memory_limit of tune_model" in message[1]
        and limit in message[1]
    )
    return [
        (f"out of memory at {limit}", holds, message[1] if message else text[-300:]),
        (
            "  warned before",
            True,
            "yes" if "warning: tune_model: " in text else "no: it grew too fast",
        ),
        _untouched(folder),
    ]


def failing_gate(folder: Path, overrides: list[str]) -> list[Row]:
    """Ask more of the log than it holds."""
    containers = Containers()
    text = run(folder, [*overrides, "gates.min_users=1000000"], containers, 1)
    report = re.search(r"report: (\S+)", text)
    kept = report is not None and Path(report[1]).is_file()
    named = re.search(r"(\w+: .* break it \[.*)", text)
    stopped = [entry.step for entry in containers.runs] == [
        "validate_data"
    ] and "Traceback" not in text
    shown = f"{named[1].strip()}; report {'kept' if kept else 'lost'}" if named else text[-300:]
    return [("a gate fails", kept and stopped and named is not None, shown), _untouched(folder)]


def store_away(folder: Path) -> list[Row]:
    """Let the first step read its log from an object store that nobody answers for."""
    from kfp import local as kfp_local

    endpoint = f"http://127.0.0.1:{free_port()}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
    }
    with Containers() as containers, _recorded_output() as output:
        kfp_local.init(
            containers.runner(folder, environment, [], []), pipeline_root=str(folder / "artifacts")
        )
        try:
            ingest_data(source=AWAY, fingerprint="", settings=Settings().to_dict())
        except RuntimeError as error:
            print(error)
    text = output.getvalue()
    message = re.search(rf"error: ({re.escape(AWAY)}: .*)", text)
    holds = message is not None and endpoint in message[1] and "Traceback" not in text
    ended = containers.runs[0]
    return [
        (
            "the store is away",
            holds and ended.exit_status == 1,
            message[1] if message else text[-300:],
        )
    ]


def _untouched(folder: Path) -> Row:
    """See whether the bundle of the good run is still whole."""
    return ("  the bundle from before", bool(verify_bundle(folder / "bundle")), "verified")


class _Tee(io.StringIO):
    """What is printed, kept too."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(text)
        self._stream.flush()
        return super().write(text)


@contextmanager
def _recorded_output() -> Iterator[io.StringIO]:
    tee = _Tee(sys.stdout)
    with redirect_stdout(tee), redirect_stderr(tee):
        yield tee


if __name__ == "__main__":
    main()
