"""Runs of a pipeline through the API of Kubeflow Pipelines: one run, or a recurring one."""

import argparse
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eager_llm.core.errors import UserError
from eager_llm.settings import Settings
from pipelines.cluster.compile import MANIFESTS, PIPELINES
from pipelines.cluster.versions import version_name
from pipelines.fingerprint import fingerprint
from pipelines.graphs.placement import CHECKPOINTS, FEATURE_REPO, FEATURE_STORE, RUN
from pipelines.graphs.recommender import setting_parameters
from pipelines.graphs.refresh import with_refresh_split

EXPERIMENT = "eager-llm"
PAGE_SIZE = 100
TOKEN_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105  # kfp's name of the variable
# A recurring run names the time that it is for, so that its log is read anew.
SCHEDULED = "[[ScheduledTime]]"


def manifest_file(options: argparse.Namespace) -> Path:
    """Return the compiled manifest that a command line names, or that of its pipeline."""
    return Path(options.file or MANIFESTS / f"{options.pipeline}.yaml")


class Runs:
    """Runs of one pipeline.

    Args:
        options: the command line: host, namespace, version, source, settings.

    Raises:
        UserError: a setting is wrong, or Kubeflow's API does not answer.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.file = manifest_file(options)
        self.name = PIPELINES[f"{options.pipeline}.yaml"].name
        self.settings = Settings.read(options.settings, options.set)
        try:
            self.client = _client(options.host, options.namespace)
            experiment = self.client.create_experiment(EXPERIMENT, namespace=options.namespace)
        except Exception as error:  # the client's own errors and those of three libraries below it
            raise UserError(
                f"Kubeflow Pipelines at {options.host} does not answer: {_first_line(error)}"
            ) from None
        self.experiment = experiment.experiment_id

    def start(self) -> int:
        """Start one run, and wait for its end where the options say so.

        Returns:
            0, or 1 where the run did not succeed.
        """
        options = self.options
        start_time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        pipeline, version, version_label = self._version()
        run = self.client.run_pipeline(
            self.experiment,
            f"{self.name}-{start_time}",
            params=self._parameters(options.log_version or start_time),
            pipeline_id=pipeline,
            version_id=version,
            pipeline_root=options.root,
            service_account=options.service_account,
        )
        print(f"run {run.run_id} of {version_label} started", flush=True)
        if not options.wait:
            return 0
        timeout = int(options.hours * 3600)
        state = self.client.wait_for_run_completion(run.run_id, timeout=timeout).state
        print(f"run {run.run_id}: {state}")
        return 0 if state == "SUCCEEDED" else 1

    def schedule(self) -> int:
        """Have the pipeline run by a schedule.

        The same schedule is left alone; another one of its name is replaced.

        Returns:
            0.

        Raises:
            UserError: the cron expression has not six fields, or the version is not on the cluster.
        """
        options = self.options
        if len(options.cron.split()) != 6:
            raise UserError(
                f"--cron {options.cron!r}: six fields, seconds first: 0 0 2 * * * is every night "
                "at two o'clock UTC"
            )
        pipeline, version, version_label = self._version()
        parameters = self._parameters(SCHEDULED)
        content = [version, options.cron, parameters, options.root, options.service_account]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        description = f"content {digest[:16]}"
        existing = self._recurring_runs()
        if [run.description for run in existing] == [description]:
            print(f"recurring run {options.name} is there already, unchanged")
            return 0
        created = self.client.create_recurring_run(
            self.experiment,
            options.name,
            description=description,
            cron_expression=options.cron,
            max_concurrency=1,
            no_catchup=True,
            params=parameters,
            pipeline_id=pipeline,
            version_id=version,
            pipeline_root=options.root,
            service_account=options.service_account,
        )
        for run in existing:
            self.client.delete_recurring_run(run.recurring_run_id)
        print(
            f"recurring run {options.name} ({created.recurring_run_id}) of {version_label}: "
            f"{options.cron}"
        )
        return 0

    def unschedule(self) -> int:
        """Delete the recurring run; none of its name is fine.

        Returns:
            0.
        """
        for run in self._recurring_runs():
            self.client.delete_recurring_run(run.recurring_run_id)
            print(f"recurring run {self.options.name} ({run.recurring_run_id}) deleted")
        return 0

    def _recurring_runs(self) -> list[Any]:
        """Return the recurring runs of the name: more than one where a person made them."""
        matches: list[Any] = []
        token = ""
        while True:
            page = self.client.list_recurring_runs(token, PAGE_SIZE, experiment_id=self.experiment)
            runs = page.recurring_runs or []
            matches += [run for run in runs if run.display_name == self.options.name]
            token = page.next_page_token
            if not token:
                return matches

    def _version(self) -> tuple[str, str, str]:
        """Return the ids of the pipeline and of the version to run, and the version's name.

        Raises:
            UserError: the version is not on the cluster.
        """
        name = self.options.version or version_name(self.file)
        pipeline = self.client.get_pipeline_id(self.name)
        versions: list[str] = []
        token = ""
        while pipeline:
            page = self.client.list_pipeline_versions(pipeline, token, PAGE_SIZE)
            for version in page.pipeline_versions or []:
                versions.append(str(version.display_name))
                if name in (version.display_name, getattr(version, "name", None)):
                    return pipeline, version.pipeline_version_id, name
            token = page.next_page_token
            if not token:
                break
        listing = "there is none"
        if versions:
            listing = f"there: {', '.join(sorted(versions))}"
        raise UserError(
            f"version {name} is not on the cluster ({listing}); run: "
            "python -m pipelines.cluster.submit version"
        )

    def _parameters(self, log_version: str) -> dict[str, Any]:
        folders = {
            "feature_repo": FEATURE_REPO,
            "feature_store": FEATURE_STORE,
            "checkpoints": CHECKPOINTS,
        }
        if self.options.pipeline == "refresh":
            settings = with_refresh_split(self.settings).to_dict()
            return {"arrivals": self.options.source, "run": RUN, **folders, "settings": settings}
        # Only the cluster can read the log, so a name of its state stands for its bytes.
        return {
            "source": self.options.source,
            "fingerprint": f"{fingerprint('demo', self.settings)}-{log_version}",
            **folders,
            **setting_parameters(self.settings),
        }


def _client(host: str, namespace: str) -> Any:
    """Return Kubeflow's client.

    A pod proves its identity by a token of Kubeflow's audience; a forwarded port needs none.
    """
    import kfp

    credentials = None
    if os.environ.get(TOKEN_VARIABLE):
        credentials = kfp.client.ServiceAccountTokenVolumeCredentials()
    return kfp.Client(host=host, namespace=namespace, credentials=credentials)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
