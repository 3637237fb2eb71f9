"""Submit the pipelines to a cluster: versions that never change, one run, or a recurring one.

Versions go through Kubernetes, as `kubectl apply` does it. A version whose name is taken by another
content is refused. Runs go through the API of Kubeflow Pipelines, whatever executes them below it.

Examples:
  python -m pipelines.cluster.submit version --namespace kubeflow
  kubectl -n kubeflow port-forward service/ml-pipeline 8888 &
  python -m pipelines.cluster.submit run --host http://localhost:8888 --source s3://shop/log \\
    --set ray.cluster=rayjob --wait
  python -m pipelines.cluster.submit recurring --host http://localhost:8888 \\
    --source s3://shop/log --cron "0 0 2 * * *"
  python -m pipelines.cluster.submit recurring --pipeline refresh --host http://localhost:8888 \\
    --source s3://shop/arrivals
"""

import argparse
import sys
from pathlib import Path

from eager_llm.core.errors import UserError
from pipelines.cluster.compile import PIPELINES
from pipelines.cluster.runs import Runs, manifest_file
from pipelines.cluster.versions import submit_version

# Earlier names of a pipeline, which are still accepted.
RENAMED_PIPELINES = {"nightly": "refresh"}


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and submit.

    Returns:
        0, 1 where a run failed, or 2 where the input is wrong.
    """
    options = command_parser().parse_args(arguments)
    try:
        if options.command == "version":
            for line in submit_version(manifest_file(options), options.namespace):
                print(line)
            return 0
        runs = Runs(options)
        if options.command == "run":
            return runs.start()
        if options.delete:
            return runs.unschedule()
        return runs.schedule()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.cluster.submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    version = commands.add_parser(
        "version", help="create the pipeline and its version, unless they are there"
    )
    run = commands.add_parser("run", help="start one run")
    recurring = commands.add_parser(
        "recurring", help="have it run by a schedule, or no longer (--delete)"
    )
    for command in (version, run, recurring):
        _add_pipeline_options(command)
    for command in (run, recurring):
        _add_run_options(command)
    _add_one_run_options(run)
    _add_schedule_options(recurring)
    return parser


def _pipeline(name: str) -> str:
    """Return a pipeline's name of today."""
    if name in RENAMED_PIPELINES:
        today = RENAMED_PIPELINES[name]
        print(f"note: --pipeline {name} is called {today} now", file=sys.stderr)
        return today
    return name


def _add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--namespace", default="kubeflow", help="namespace of the pipeline (default: kubeflow)"
    )
    parser.add_argument(
        "--pipeline",
        default="recommender",
        type=_pipeline,
        choices=[Path(name).stem for name in PIPELINES],
        help="recommender: all of it, from a log; refresh: the running bundle brought up to date "
        "(default: recommender)",
    )
    parser.add_argument(
        "--file",
        type=Path,
        help="compiled manifest; default: pipelines/manifests; those for GPUs are in its cuda",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="http://localhost:8888", help="address of Kubeflow Pipelines' API"
    )
    parser.add_argument(
        "--source",
        default="demo",
        help="URI or folder of the log, or of the new events, as the steps see it; or demo",
    )
    parser.add_argument("--version", help="name of the version; default: that of the manifest")
    parser.add_argument("--settings", type=Path, help="YAML file of settings")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help="override a setting",
    )
    parser.add_argument(
        "--root", help="URI below which artifacts lie; default: that of the installation"
    )
    parser.add_argument(
        "--service-account", help="account of the steps; default: that of the installation"
    )


def _add_one_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-version",
        metavar="NAME",
        help="names the state of the log: the same name re-uses the ingested tables; default: the "
        "time of the start",
    )
    # Its earlier name.
    parser.add_argument("--mark", dest="log_version", help=argparse.SUPPRESS)
    parser.add_argument(
        "--wait", action="store_true", help="until the run has ended; the exit status says how"
    )
    parser.add_argument("--hours", type=float, default=72, help="how long to wait (default: 72)")


def _add_schedule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default="nightly", help="name of the schedule (default: nightly)")
    parser.add_argument(
        "--cron",
        default="0 0 2 * * *",
        help="six fields, seconds first (default: every night at two)",
    )
    parser.add_argument("--delete", action="store_true", help="delete the schedule")


if __name__ == "__main__":
    sys.exit(main())
