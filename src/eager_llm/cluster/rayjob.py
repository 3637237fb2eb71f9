"""A step as a RayJob: KubeRay makes a cluster for it, or takes the one of the template."""

import time
from dataclasses import dataclass
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
UNSUCCESSFUL = ("FAILED", "STOPPED")
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


@dataclass(frozen=True)
class JobStatus:
    """What KubeRay reports of a RayJob; each field is empty where it reports nothing.

    Attributes:
        deployment: state of the RayJob, such as `Initializing`, `Running` or `Complete`.
        job: state of Ray's job, such as `RUNNING` or `FAILED`.
        cluster: name of the Ray cluster.
        reason: KubeRay's word for a failure.
        message: its details.
    """

    deployment: str = ""
    job: str = ""
    cluster: str = ""
    reason: str = ""
    message: str = ""

    @classmethod
    def of(cls, job: dict[str, Any]) -> "JobStatus":
        """Read the status of a RayJob."""
        status = job.get("status") or {}
        return cls(
            deployment=status.get("jobDeploymentStatus") or "",
            job=status.get("jobStatus") or "",
            cluster=status.get("rayClusterName") or "",
            reason=status.get("reason") or "",
            message=(status.get("message") or "").strip(),
        )

    @property
    def text(self) -> str:
        """Both states, for a person."""
        return f"{self.deployment} {self.job.lower()}".strip()

    @property
    def runs(self) -> bool:
        """Whether the job has started."""
        return self.job == "RUNNING" or self.deployment == "Running"

    @property
    def has_failed(self) -> bool:
        """Whether the job ended, and not well."""
        return self.deployment in FAILED or self.job in UNSUCCESSFUL

    @property
    def failure(self) -> str:
        """What KubeRay's reason means, the reason, and the message."""
        meaning = REASONS.get(self.reason, "see below")
        details = self.reason
        if self.message:
            details = f"{details} ({self.message})".strip()
        return f"{meaning}; {details}"


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
        template = self.kube.template(self.settings.template)
        job = fill_template(template, self.call, self.settings)
        if self.kube.create(job):
            say(f"Ray: RayJob {self.kube.namespace}/{self.name} created")
            return
        status = JobStatus.of(self.kube.job(self.name) or {})
        if status.has_failed:
            self._say("failed before; it is made anew")
            self._replace(job)
        else:
            state = status.deployment or "new"
            self._say(f"is there already ({state}); following it")

    def _say(self, text: str) -> None:
        say(f"Ray: RayJob {self.name} {text}")

    def _error(self, text: str) -> UserError:
        return UserError(f"RayJob {self.name} {text}")

    def _replace(self, job: dict[str, Any]) -> None:
        """Delete the job of the name, and create another as soon as it is gone."""
        self.kube.delete(self.name)
        for _ in range(DELETION_SECONDS):
            if self.kube.create(job):
                return
            time.sleep(1)
        raise self._error("failed before and is not deleted within a minute; delete it by hand")

    def poll(self) -> bool:
        """See `Job`."""
        job = self.kube.job(self.name)
        if job is None:
            raise self._error("is gone: somebody deleted it while the step waited for it")
        status = JobStatus.of(job)
        self._report_status(status)
        # The pods come before the log and the job's end: a cause stands above its consequences.
        # The cluster of a complete job may go.
        if status.deployment != COMPLETE:
            self._report_pods(status.cluster)
        self._show_log()
        return self._has_ended(status)

    def remove(self) -> None:
        """See `Job`."""
        self.kube.delete(self.name)
        self._say("deleted, and its cluster where it had one of its own")

    def _has_ended(self, status: JobStatus) -> bool:
        """Return whether the job ended well.

        Raises:
            UserError: it failed, was stopped, or does not start.
        """
        if status.job == "STOPPED":
            raise self._error(f"was stopped from outside{self.log.tail_text}")
        if status.has_failed:
            raise self._error(f"failed: {status.failure}{self.log.tail_text}")
        if status.deployment == COMPLETE:
            return True
        if not status.runs:
            self._require_start(status.deployment)
        return False

    def _require_start(self, deployment: str) -> None:
        """Check that a job that does not run yet still has time to start.

        Raises:
            UserError: it has none; what it waits for is named.
        """
        minutes = self.settings.start_minutes
        if time.monotonic() - self.start_time <= minutes * 60:
            return
        waiting = [pod for pod in self.pods.values() if pod.wait_reason]
        cause = "; ".join(f"pod {pod.name}: {pod.wait_reason}" for pod in waiting)
        if not waiting:
            state = deployment or "not taken up"
            cause = f"it is {state}; is the KubeRay operator running?"
        raise self._error(f"is not running after ray.start_minutes = {minutes:g}: {cause}")

    def _report_status(self, status: JobStatus) -> None:
        if status.text and status.text != self.last_status:
            say(f"Ray: RayJob {self.name}: {status.text}")
            self.last_status = status.text

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
