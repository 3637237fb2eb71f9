"""A step as a RayJob: KubeRay makes a cluster for it, or takes the standing one that the template selects."""

import time
from typing import Any

import yaml

from eager_llm.cluster.job_watch import Log, follow, sit_out
from eager_llm.cluster.kube import Kube, Stamp
from eager_llm.cluster.pods import Pod, pod_of, what_to_do
from eager_llm.cluster.static_cluster import ENTRY
from eager_llm.cluster.step_calls import StepCall
from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.settings import RaySettings

DONE, FAILED = ("Complete",), ("Failed", "ValidationFailed")
# What KubeRay's reasons mean to somebody who waits for a step.
REASONS = {
    "AppFailed": "the step failed",
    "SubmissionFailed": "the job could not be handed to the cluster",
    "DeadlineExceeded": "it took longer than ray.hours",
    "PreRunningDeadlineExceeded": "the cluster was not there within ray.start_minutes",
    "JobStatusCheckTimeoutExceeded": "the head of the cluster stopped answering",
    "JobDeploymentStatusTransitionGracePeriodExceeded": "the job ended and the cluster did not take note",
    "ValidationFailed": "KubeRay refuses the template",
}


def run_rayjob(call: StepCall, settings: RaySettings) -> None:
    """Have KubeRay do a call; one that it is at already is followed further.

    Raises:
        UserError: the job failed, the cluster did not come up, or its head was lost.
    """
    job = RayJob(call, settings, Kube())
    sit_out(job.submit, settings)
    follow(job, settings)


def filled(template: str, call: StepCall, settings: RaySettings) -> dict[str, Any]:
    """Return the RayJob that does a call.

    Args:
        template: a RayJob as YAML, whose name, entry point and deadline are filled in.

    Raises:
        UserError: it is none.
    """
    job = yaml.safe_load(template)
    if (
        not isinstance(job, dict)
        or job.get("kind") != "RayJob"
        or not isinstance(job.get("spec"), dict)
    ):
        raise UserError(f"ray.template = {settings.template}: rayjob.yaml holds no RayJob")
    metadata, spec = job.setdefault("metadata", {}), job["spec"]
    metadata["name"] = call.name
    metadata.setdefault("labels", {}).update(
        {"app.kubernetes.io/managed-by": "eager-llm", "eager-llm/step": call.step.replace("_", "-")}
    )
    spec["entrypoint"] = f"{ENTRY} {call.encode()}"
    spec["jobId"] = call.name
    spec["submissionMode"] = "K8sJobMode"  # the submitter's log is the job's
    spec["activeDeadlineSeconds"] = max(1, int(settings.hours * 3600))
    if "rayClusterSpec" in spec:
        # A step whose pod was lost without a word leaves no cluster behind; its answer stays.
        spec |= {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 600}
    return job


class RayJob:
    """A RayJob and the pods of its cluster.

    Args:
        call: what to do; its name is the job's.
        settings: the template, and how long to wait.
        kube: the namespace.
    """

    def __init__(self, call: StepCall, settings: RaySettings, kube: Kube) -> None:
        self.call, self.settings, self.kube, self.name = call, settings, kube, call.name
        self.log, self.status, self.started = Log(), "", time.monotonic()
        self.read: dict[str, Stamp] = {}
        self.pods: dict[str, Pod] = {}
        self.told: set[str] = set()

    def submit(self) -> None:
        """Create the job, unless it is there already and not failed."""
        job = filled(self.kube.template(self.settings.template), self.call, self.settings)
        if self.kube.create(job):
            say(f"Ray: RayJob {self.kube.namespace}/{self.name} created")
            return
        state = (self.kube.job(self.name) or {}).get("status", {})
        if state.get("jobDeploymentStatus") not in FAILED and state.get("jobStatus") not in (
            "FAILED",
            "STOPPED",
        ):
            say(
                f"Ray: RayJob {self.name} is there already ({state.get('jobDeploymentStatus') or 'new'}); following it"
            )
            return
        say(f"Ray: RayJob {self.name} failed before; it is made anew")
        self.kube.delete(self.name)
        for _ in range(60):
            if self.kube.create(job):
                return
            time.sleep(1)
        raise UserError(
            f"RayJob {self.name} failed before and is not deleted within a minute; delete it by hand"
        )

    def look(self) -> bool:
        """See `Job`."""
        job = self.kube.job(self.name)
        if job is None:
            raise UserError(
                f"RayJob {self.name} is gone: somebody deleted it while the step waited for it"
            )
        state = job.get("status") or {}
        self._tell_status(state)
        # Before the log and the state, so that the cause stands above what follows from it; a cluster whose job is
        # done may go.
        if state.get("jobDeploymentStatus") not in DONE:
            self._tell_of_pods(state.get("rayClusterName", ""))
        self._show_log()
        return self._ended(state)

    def remove(self) -> None:
        """See `Job`."""
        self.kube.delete(self.name)
        say(f"Ray: RayJob {self.name} deleted, and its cluster where it had one of its own")

    def _ended(self, state: dict[str, Any]) -> bool:
        deployed, ran = state.get("jobDeploymentStatus", ""), state.get("jobStatus", "")
        if ran == "STOPPED":
            raise UserError(f"RayJob {self.name} was stopped from outside{self.log.end}")
        if deployed in FAILED or ran == "FAILED":
            reason = state.get("reason", "")
            told = " ".join(
                filter(
                    None, (reason, f"({state['message'].strip()})" if state.get("message") else "")
                )
            )
            raise UserError(
                f"RayJob {self.name} failed: {REASONS.get(reason, 'see below')}; {told}{self.log.end}"
            )
        if deployed in DONE:
            return True
        waited = time.monotonic() - self.started
        if ran != "RUNNING" and deployed != "Running" and waited > self.settings.start_minutes * 60:
            causes = [f"pod {pod.name}: {pod.waits}" for pod in self.pods.values() if pod.waits]
            raise UserError(
                f"RayJob {self.name} is not running after ray.start_minutes = {self.settings.start_minutes:g}: "
                + (
                    "; ".join(causes)
                    or f"it is {deployed or 'not taken up'}; is the KubeRay operator running?"
                )
            )
        return False

    def _tell_status(self, state: dict[str, Any]) -> None:
        status = " ".join(
            filter(None, (state.get("jobDeploymentStatus"), state.get("jobStatus", "").lower()))
        )
        if status and status != self.status:
            say(f"Ray: RayJob {self.name}: {status}")
            self.status = status

    def _tell_of_pods(self, cluster: str) -> None:
        """Say which pods wait, and which were lost.

        Raises:
            UserError: the head was lost, and with it everything that the cluster knew.
        """
        found = (
            {p.name: p for p in map(pod_of, self.kube.pods(f"ray.io/cluster={cluster}"))}
            if cluster
            else {}
        )
        for name, before in self.pods.items():
            now = found.get(name, Pod(name, before.head, before.restarts, lost="the pod is gone"))
            if before.lost or not (now.lost or now.restarts > before.restarts):
                continue
            why = now.lost or now.ended or "its container was started again"
            if before.head:
                raise UserError(
                    f"the head of the Ray cluster was lost (pod {name}: {why}), and the job with it. {what_to_do(why)}"
                    f"Run the step again: it goes on from what was finished{self.log.end}"
                )
            say(f"Ray: worker pod {name} was lost: {why}. {what_to_do(why)}Its part is done again")
            found.setdefault(name, now)
        for pod in found.values():
            if pod.waits and f"{pod.name} {pod.waits}" not in self.told:
                self.told.add(f"{pod.name} {pod.waits}")
                say(f"Ray: pod {pod.name} waits: {pod.waits}")
        self.pods = found

    def _show_log(self) -> None:
        for pod in self.kube.pods(f"job-name={self.name}"):
            name = pod.metadata.name
            for stamp, line in self.kube.log(name, self.read.get(name, ("", ""))):
                self.read[name] = stamp
                self.log.add(line)
