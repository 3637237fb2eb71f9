"""Submit the pipelines to a cluster: versions that never change, one run, or a recurring one.

Versions go through Kubernetes, as `kubectl apply` does it, but one whose content is another than that of its name is
refused; runs go through the API of Kubeflow Pipelines. Nothing depends on the engine below it.

Examples:
  python -m pipelines.cluster.submit version --namespace kubeflow
  kubectl -n kubeflow port-forward service/ml-pipeline 8888 &
  python -m pipelines.cluster.submit run --host http://localhost:8888 --source s3://shop/log --set ray.cluster=rayjob --wait
  python -m pipelines.cluster.submit recurring --host http://localhost:8888 --source s3://shop/log --cron "0 0 2 * * *"
  python -m pipelines.cluster.submit recurring --pipeline refresh --host http://localhost:8888 --source s3://shop/arrivals
"""

import argparse
import hashlib
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from eager_llm.core.errors import UserError
from eager_llm.settings import Settings
from pipelines.cluster.compile import MANIFESTS, PIPELINES
from pipelines.graphs.placement import CHECKPOINTS, FEATURE_REPO, FEATURE_STORE, RUN
from pipelines.graphs.recommender import setting_parameters
from pipelines.graphs.refresh import cut_for_a_refresh
from pipelines.runners.local import fingerprint

GROUP, VERSION = "pipelines.kubeflow.org", "v2beta1"
EXPERIMENT = "eager-llm"
TOKEN_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105  # kfp's name of the variable
# A recurring run names the time that it is for, so that its log is read anew.
SCHEDULED = "[[ScheduledTime]]"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and submit."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "version":
            for line in submit_version(_manifest(asked), asked.namespace):
                print(line)
            return 0
        runs = Runs(asked)
        if asked.command == "run":
            return runs.once()
        return runs.remove() if asked.delete else runs.recur()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def submit_version(file: Path, namespace: str) -> list[str]:
    """Create the objects of a compiled manifest where they are not there yet; return what was done, a line each.

    Raises:
        UserError: a version of that name is there with another content; the cluster does not know versions, or
            refuses.
    """
    from kubernetes import client, config

    try:
        config.load_kube_config()
    except config.ConfigException:
        try:
            config.load_incluster_config()
        except config.ConfigException as error:
            raise UserError(f"no cluster: {error}; set KUBECONFIG") from None
    api = client.CustomObjectsApi()
    return [
        _create(api, found, namespace)
        for found in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    ]


def _create(api: Any, wanted: dict[str, Any], namespace: str) -> str:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    kind, name = wanted["kind"], wanted["metadata"]["name"]
    where = (GROUP, VERSION, namespace, f"{kind.lower()}s")
    try:
        api.create_namespaced_custom_object(*where, wanted)
        return f"{kind} {name} created"
    except HTTPError as error:
        raise UserError(f"the Kubernetes API does not answer: {error}") from None
    except ApiException as error:
        if error.status == 404:
            raise UserError(
                f"namespace {namespace} knows no {kind} ({GROUP}/{VERSION}); Kubeflow Pipelines 2.14 and later has it, "
                "installed with its Kubernetes-native API"
            ) from None
        if error.status != 409:
            raise UserError(
                f"{kind} {name}: refused: {error.status} {error.reason} {error.body or ''}"
            ) from None
    there = api.get_namespaced_custom_object(*where, name)
    differing = sorted(
        part for part in wanted["spec"] if there.get("spec", {}).get(part) != wanted["spec"][part]
    )
    if kind == "PipelineVersion" and differing:
        raise UserError(
            f"PipelineVersion {name} is there already with another {', '.join(differing)}. A version never changes: runs "
            "refer to it. Compile it anew (`make manifests`), which names it by its content, or delete the other one"
        )
    return f"{kind} {name} is there already, unchanged"


class Runs:
    """Runs of the pipeline through Kubeflow's API.

    Args:
        asked: the command line: host, namespace, version, source, settings.
    """

    def __init__(self, asked: argparse.Namespace) -> None:
        import kfp

        self.asked, self.file = asked, _manifest(asked)
        self.name = PIPELINES[f"{asked.pipeline}.yaml"].name
        self.settings = Settings.read(asked.settings, asked.set)
        try:
            # A pod proves who it is by a token of Kubeflow's audience; whoever forwards a port need not.
            token = (
                kfp.client.ServiceAccountTokenVolumeCredentials()
                if os.environ.get(TOKEN_VARIABLE)
                else None
            )
            self.client = kfp.Client(host=asked.host, namespace=asked.namespace, credentials=token)
            self.experiment = self.client.create_experiment(
                EXPERIMENT, namespace=asked.namespace
            ).experiment_id
        except Exception as error:  # the client's own errors and those of three libraries below it
            raise UserError(
                f"Kubeflow Pipelines at {asked.host} does not answer: {_first(error)}"
            ) from None

    def once(self) -> int:
        """Start one run, and wait for it where that was asked for.

        Returns:
            0, or 1 where the run did not succeed.
        """
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        pipeline, version, name = self._version()
        run = self.client.run_pipeline(
            self.experiment, f"{self.name}-{now}", params=self._parameters(self.asked.mark or now), pipeline_id=pipeline,
            version_id=version, pipeline_root=self.asked.root, service_account=self.asked.service_account,
        )  # fmt: skip
        print(f"run {run.run_id} of {name} started", flush=True)
        if not self.asked.wait:
            return 0
        state = self.client.wait_for_run_completion(
            run.run_id, timeout=int(self.asked.hours * 3600)
        ).state
        print(f"run {run.run_id}: {state}")
        return 0 if state == "SUCCEEDED" else 1

    def recur(self) -> int:
        """Have the pipeline run by a schedule; the same schedule is left alone, another one of its name replaced."""
        if len(self.asked.cron.split()) != 6:
            raise UserError(
                f"--cron {self.asked.cron!r}: six fields, seconds first: 0 0 2 * * * is every night at two o'clock UTC"
            )
        pipeline, version, name = self._version()
        parameters = self._parameters(SCHEDULED)
        facts = [version, self.asked.cron, parameters, self.asked.root, self.asked.service_account]
        mark = (
            f"content {hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]}"
        )
        before = self._recurring()
        if [run.description for run in before] == [mark]:
            print(f"recurring run {self.asked.name} is there already, unchanged")
            return 0
        made = self.client.create_recurring_run(
            self.experiment, self.asked.name, description=mark, cron_expression=self.asked.cron, max_concurrency=1,
            no_catchup=True, params=parameters, pipeline_id=pipeline, version_id=version, pipeline_root=self.asked.root,
            service_account=self.asked.service_account,
        )  # fmt: skip
        for run in before:
            self.client.delete_recurring_run(run.recurring_run_id)
        print(
            f"recurring run {self.asked.name} ({made.recurring_run_id}) of {name}: {self.asked.cron}"
        )
        return 0

    def remove(self) -> int:
        """Delete the recurring run; none of its name is fine."""
        for run in self._recurring():
            self.client.delete_recurring_run(run.recurring_run_id)
            print(f"recurring run {self.asked.name} ({run.recurring_run_id}) deleted")
        return 0

    def _recurring(self) -> list[Any]:
        found, token = [], ""
        while True:
            page = self.client.list_recurring_runs(token, 100, experiment_id=self.experiment)
            found += [
                run for run in page.recurring_runs or [] if run.display_name == self.asked.name
            ]
            token = page.next_page_token
            if not token:
                return found

    def _version(self) -> tuple[str, str, str]:
        """Return the ids of the pipeline and of the version that the manifest names, and its name."""
        name = self.asked.version or version_name(self.file)
        pipeline = self.client.get_pipeline_id(self.name)
        token, known = "", []
        while pipeline:
            page = self.client.list_pipeline_versions(pipeline, token, 100)
            for found in page.pipeline_versions or []:
                known.append(str(found.display_name))
                if name in (found.display_name, getattr(found, "name", None)):
                    return pipeline, found.pipeline_version_id, name
            token = page.next_page_token
            if not token:
                break
        there = f"there: {', '.join(sorted(known))}" if known else "there is none"
        raise UserError(
            f"version {name} is not on the cluster ({there}); run: python -m pipelines.cluster.submit version"
        )

    def _parameters(self, mark: str) -> dict[str, Any]:
        places = {
            "feature_repo": FEATURE_REPO,
            "feature_store": FEATURE_STORE,
            "checkpoints": CHECKPOINTS,
        }
        if self.asked.pipeline == "refresh":
            settings = cut_for_a_refresh(self.settings).to_dict()
            return {"arrivals": self.asked.source, "run": RUN, **places, "settings": settings}
        return {
            "source": self.asked.source,
            # The log lies where only the cluster can look: its bytes are told by a mark of the person or the schedule.
            "fingerprint": f"{fingerprint('demo', self.settings)}-{mark}",
            **places,
            **setting_parameters(self.settings),
        }


def _manifest(asked: argparse.Namespace) -> Path:
    return Path(asked.file or MANIFESTS / f"{asked.pipeline}.yaml")


def version_name(file: Path) -> str:
    """Return the name of the version in a compiled manifest.

    Raises:
        UserError: there is no such file, or no version in it.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such manifest; run: make manifests")
    for found in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        if found and found.get("kind") == "PipelineVersion":
            return str(found["metadata"]["name"])
    raise UserError(f"{file}: holds no PipelineVersion")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.cluster.submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    version = commands.add_parser(
        "version", help="create the pipeline and its version, unless they are there"
    )
    once = commands.add_parser("run", help="start one run")
    recurring = commands.add_parser(
        "recurring", help="have it run by a schedule, or no longer (--delete)"
    )
    for one in (version, once, recurring):
        one.add_argument(
            "--namespace", default="kubeflow", help="where the pipeline lies (default: kubeflow)"
        )
        one.add_argument(
            "--pipeline", default="recommender", choices=[Path(name).stem for name in PIPELINES],
            help="recommender: all of it, from a log; refresh: the running bundle brought up to date (default: recommender)",
        )  # fmt: skip
        one.add_argument(
            "--file",
            type=Path,
            help="compiled manifest; default: pipelines/manifests; those for GPUs are in its cuda",
        )
    for one in (once, recurring):
        one.add_argument(
            "--host", default="http://localhost:8888", help="address of Kubeflow Pipelines' API"
        )
        one.add_argument(
            "--source",
            default="demo",
            help="URI or folder of the log, or of what arrived, as the steps see it; or demo",
        )
        one.add_argument("--version", help="name of the version; default: that of the manifest")
        one.add_argument("--settings", type=Path, help="YAML file of settings")
        one.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="SECTION.NAME=VALUE",
            help="override a setting",
        )
        one.add_argument(
            "--root", help="URI below which artifacts lie; default: that of the installation"
        )
        one.add_argument(
            "--service-account", help="account of the steps; default: that of the installation"
        )
    once.add_argument(
        "--mark",
        help="names the state of the log: the same mark re-uses what was ingested; default: now",
    )
    once.add_argument(
        "--wait", action="store_true", help="until it has ended; the status tells how"
    )
    once.add_argument("--hours", type=float, default=72, help="how long to wait (default: 72)")
    recurring.add_argument(
        "--name", default="refresh", help="name of the schedule (default: refresh)"
    )
    recurring.add_argument(
        "--cron",
        default="0 0 2 * * *",
        help="six fields, seconds first (default: every night at two)",
    )
    recurring.add_argument("--delete", action="store_true", help="take the schedule away")
    return parser


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    sys.exit(main())
