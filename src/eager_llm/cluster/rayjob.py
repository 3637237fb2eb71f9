"""A step as a RayJob: KubeRay makes a cluster for it, or takes the one of the template."""

import time
from typing import Any

import yaml

from eager_llm.cluster.job_watch import Log, follow, retry
from eager_llm.cluster.kube import KubeClient, Timestamp
from eager_llm.cluster.pods import Pod, advice, read_pod
from eager_llm.cluster.static_cluster import ENTRY
from eager_llm.cluster.step_calls import StepCall
from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.settings import RaySettings

COMPLETE = "Complete"
FAILED = ("Failed", "ValidationFailed")
DELETION_SECONDS = 60
# What KubeRay's reasons mean to somebody who waits for a step.
REASONS = {
    "AppFailed": "the step failed",
    "SubmissionFailed": "the job could not be handed to the cluster",
    "DeadlineExceeded": "it took longer than ray.hours",
    "PreRunningDeadlineExceeded": "the cluster was not there within ray.start_minutes",
    "JobStatusCheckTimeoutExceeded": "the head of the cluster stopped answering",
    "JobDeploymentStatusTransitionGracePeriodExceeded": (
        "the job ended and the cluster did not take note"
    ),
    "ValidationFailed": "KubeRay refuses the template",
}


def run_rayjob(call: StepCall, settings: RaySettings) -> None:
    """Have KubeRay run a call; a job that already runs the same call is followed further.

    Raises:
        UserError: the job failed, the cluster did not come up, or its head was lost.
    """
    job = RayJob(call, settings, KubeClient())
    retry(job.submit, settings)
    follow(job, settings)


def fill_template(template: str, call: StepCall, settings: RaySettings) -> dict[str, Any]:
    """Return the RayJob that runs a call.

    Args:
        template: a RayJob as YAML; its name, entry point and deadline are filled in.
        call: names the job and its step.
        settings: have the deadline.

    Raises:
        UserError: the template is no RayJob.
    """
    job = yaml.safe_load(template)
    if not _is_rayjob(job):
        raise UserError(f"ray.template = {settings.template}: rayjob.yaml holds no RayJob")
    metadata = job.setdefault("metadata", {})
    metadata["name"] = call.name
    labels = metadata.setdefault("labels", {})
    labels["app.kubernetes.io/managed-by"] = "eager-llm"
    labels["eager-llm/step"] = call.step.replace("_", "-")
    spec = job["spec"]
    spec["entrypoint"] = f"{ENTRY} {call.encode()}"
    spec["jobId"] = call.name
    spec["submissionMode"] = "K8sJobMode"  # the submitter's log is the job's
    spec["activeDeadlineSeconds"] = max(1, int(settings.hours * 3600))
    if "rayClusterSpec" in spec:
        # Where the waiting pod is lost, no cluster stays behind; the step's answer does.
        spec["shutdownAfterJobFinishes"] = True
        spec["ttlSecondsAfterFinished"] = 600
    return dict(job)


def _is_rayjob(job: Any) -> bool:
    if not isinstance(job, dict):
        return False
    return job.get("kind") == "RayJob" and isinstance(job.get("spec"), dict)


class RayJob:
    """A RayJob and the pods of its cluster.

    Args:
        call: what to run; its name is the job's.
        settings: the template, and how long to wait.
        kube: the namespace.
    """

    def __init__(self, call: StepCall, settings: RaySettings, kube: KubeClient) -> None:
        self.call = call
        self.settings = settings
        self.kube = kube
        self.name = call.name
        self.log = Log()
        self.start_time = time.monotonic()
        self.last_status = ""
        # By pod: the time of the last line shown of its log, and its state at the last poll.
        self.log_times: dict[str, Timestamp] = {}
        self.pods: dict[str, Pod] = {}
        self.reported_waits: set[tuple[str, str]] = set()

    def submit(self) -> None:
        """Create the job, unless it is there already and has not failed.

        Raises:
            UserError: the cluster refuses it, or an earlier one is not deleted.
            ApiUnavailable: there was no answer.
        """
        job = fill_template(self.kube.template(self.settings.template), self.call, self.settings)
        if self.kube.create(job):
            say(f"Ray: RayJob {self.kube.namespace}/{self.name} created")
            return
        existing = self.kube.job(self.name) or {}
        status = existing.get("status", {})
        deployment = status.get("jobDeploymentStatus")
        if deployment not in FAILED and status.get("jobStatus") not in ("FAILED", "STOPPED"):
            say(f"Ray: RayJob {self.name} is there already ({deployment or 'new'}); following it")
            return
        say(f"Ray: RayJob {self.name} failed before; it is made anew")
        self._replace(job)

    def _replace(self, job: dict[str, Any]) -> None:
        """Delete the job of the name, and create another as soon as it is gone."""
        self.kube.delete(self.name)
        for _ in range(DELETION_SECONDS):
            if self.kube.create(job):
                return
            time.sleep(1)
        raise UserError(
            f"RayJob {self.name} failed before and is not deleted within a minute; delete it by "
            "hand"
        )

    def poll(self) -> bool:
        """See `Job`."""
        job = self.kube.job(self.name)
        if job is None:
            raise UserError(
                f"RayJob {self.name} is gone: somebody deleted it while the step waited for it"
            )
        status = job.get("status") or {}
        self._report_status(status)
        # The pods come before the log and the job's end: a cause stands above its consequences.
        # The cluster of a complete job may go.
        if status.get("jobDeploymentStatus") != COMPLETE:
            self._report_pods(status.get("rayClusterName", ""))
        self._show_log()
        return self._has_ended(status)

    def remove(self) -> None:
        """See `Job`."""
        self.kube.delete(self.name)
        say(f"Ray: RayJob {self.name} deleted, and its cluster where it had one of its own")

    def _has_ended(self, status: dict[str, Any]) -> bool:
        """Return whether the job ended well.

        Raises:
            UserError: it failed, was stopped, or does not start.
        """
        deployment = status.get("jobDeploymentStatus", "")
        job_status = status.get("jobStatus", "")
        if job_status == "STOPPED":
            raise UserError(f"RayJob {self.name} was stopped from outside{self.log.tail_text}")
        if deployment in FAILED or job_status == "FAILED":
            raise UserError(f"RayJob {self.name} failed: {_cause(status)}{self.log.tail_text}")
        if deployment == COMPLETE:
            return True
        if job_status != "RUNNING" and deployment != "Running":
            self._require_start(deployment)
        return False

    def _require_start(self, deployment: str) -> None:
        """Check that a job that does not run yet still has time to start.

        Raises:
            UserError: it has none; what it waits for is named.
        """
        minutes = self.settings.start_minutes
        if time.monotonic() - self.start_time <= minutes * 60:
            return
        waits = [
            f"pod {pod.name}: {pod.wait_reason}" for pod in self.pods.values() if pod.wait_reason
        ]
        cause = "; ".join(waits)
        if not waits:
            state = deployment or "not taken up"
            cause = f"it is {state}; is the KubeRay operator running?"
        raise UserError(
            f"RayJob {self.name} is not running after ray.start_minutes = {minutes:g}: {cause}"
        )

    def _report_status(self, status: dict[str, Any]) -> None:
        words = [status.get("jobDeploymentStatus") or "", status.get("jobStatus", "").lower()]
        text = " ".join(filter(None, words))
        if text and text != self.last_status:
            say(f"Ray: RayJob {self.name}: {text}")
            self.last_status = text

    def _report_pods(self, cluster: str) -> None:
        """Say which pods wait, and which were lost.

        Raises:
            UserError: the head was lost, and with it everything that the cluster knew.
        """
        pods: dict[str, Pod] = {}
        if cluster:
            for kube_pod in self.kube.pods(f"ray.io/cluster={cluster}"):
                pod = read_pod(kube_pod)
                pods[pod.name] = pod
        for name, earlier in self.pods.items():
            gone = Pod(name, earlier.head, earlier.restarts, loss="the pod is gone")
            current = pods.get(name, gone)
            is_lost = current.loss or current.restarts > earlier.restarts
            if is_lost and not earlier.loss:
                self._report_loss(current, earlier.head)
                pods.setdefault(name, current)
        self._report_waits(pods)
        self.pods = pods

    def _report_loss(self, pod: Pod, is_head: bool) -> None:
        reason = pod.loss or pod.last_exit or "its container was started again"
        if is_head:
            raise UserError(
                f"the head of the Ray cluster was lost (pod {pod.name}: {reason}), and the job "
                f"with it. {advice(reason)}Run the step again: it goes on from what was finished"
                f"{self.log.tail_text}"
            )
        say(
            f"Ray: worker pod {pod.name} was lost: {reason}. {advice(reason)}Its part is done again"
        )

    def _report_waits(self, pods: dict[str, Pod]) -> None:
        """Say what each pod waits for, once."""
        for pod in pods.values():
            wait = (pod.name, pod.wait_reason)
            if pod.wait_reason and wait not in self.reported_waits:
                self.reported_waits.add(wait)
                say(f"Ray: pod {pod.name} waits: {pod.wait_reason}")

    def _show_log(self) -> None:
        """Show the new lines of the job's submitter, a pod beside the cluster."""
        for pod in self.kube.pods(f"job-name={self.name}"):
            name = pod.metadata.name
            last = self.log_times.get(name, ("", ""))
            for timestamp, line in self.kube.log(name, last):
                self.log_times[name] = timestamp
                self.log.add(line)


def _cause(status: dict[str, Any]) -> str:
    """Return why a job failed: what KubeRay's reason means, the reason, and its message."""
    reason = status.get("reason", "")
    details = [reason]
    if status.get("message"):
        details.append(f"({status['message'].strip()})")
    text = " ".join(filter(None, details))
    return f"{REASONS.get(reason, 'see below')}; {text}"
