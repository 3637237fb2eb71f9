"""A step as a job of a standing Ray cluster, by the address of its dashboard."""

import time
from typing import Any

from eager_llm.cluster.job_watch import Away, Log, follow
from eager_llm.cluster.step_calls import StepCall
from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.settings import RaySettings

ENTRY = "python3 -m eager_llm.steps.remote"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def run_on_static_cluster(call: StepCall, settings: RaySettings) -> None:
    """Have a standing cluster do a call; one that it is at already is followed further.

    Raises:
        UserError: the cluster cannot be reached, or the job failed, or was lost with its head.
    """
    job = StaticClusterJob(call, settings)
    job.submit()
    follow(job, settings)


class StaticClusterJob:
    """A job of a cluster, through Ray's job API.

    Args:
        call: what to do; its name is the job's submission id.
        settings: the address, and how long to wait.
    """

    def __init__(self, call: StepCall, settings: RaySettings) -> None:
        from ray.job_submission import JobSubmissionClient

        self.call, self.settings, self.name = call, settings, call.name
        try:
            self.client = JobSubmissionClient(settings.cluster)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"ray.cluster = {settings.cluster}: no Ray cluster answers there: {_first_line(error)}. The address "
                "is that of the head's dashboard, port 8265"
            ) from None
        self.log, self.status, self.started = Log(), "", time.monotonic()
        self.lost: set[str] | None = None

    def submit(self) -> None:
        """Start the job, unless it is there already and not failed.

        Raises:
            UserError: the cluster takes none.
        """
        end = time.monotonic() + self.settings.start_minutes * 60
        while True:
            try:
                return self._submit()
            except (OSError, RuntimeError) as error:  # it answers, and its head is not quite there
                if time.monotonic() > end:
                    raise UserError(
                        f"the Ray cluster at {self.settings.cluster} took no job within ray.start_minutes = "
                        f"{self.settings.start_minutes:g}: {_first_line(error)}"
                    ) from None
                time.sleep(self.settings.poll_seconds)

    def _submit(self) -> None:
        found = {job.submission_id: str(job.status) for job in self.client.list_jobs()}.get(
            self.name
        )
        if found in ("PENDING", "RUNNING", "SUCCEEDED"):
            say(f"Ray: job {self.name} is there already ({found}); following it")
            return
        if found:
            self.client.delete_job(self.name)
        entry = f"{ENTRY} {self.call.encode()}"
        self.client.submit_job(
            entrypoint=entry, submission_id=self.name, metadata={"step": self.call.step}
        )
        say(f"Ray: job {self.name} submitted to {self.settings.cluster}")

    def look(self) -> bool:
        """See `Job`."""
        from ray.exceptions import RayError
        from ray.util.state.exception import RayStateApiException

        try:
            status = str(self.client.get_job_status(self.name))
            self.log.whole(self.client.get_job_logs(self.name))
            self._tell_of_lost_nodes()
        except (OSError, RuntimeError, RayError, RayStateApiException) as error:
            raise Away(f"the head of the Ray cluster at {self.settings.cluster} does not answer; if it was lost, so is "
                       f"its job ({_first_line(error)})") from None  # fmt: skip
        if status != self.status:
            say(f"Ray: job {self.name} is {status.lower()}")
            self.status = status
        if status == "SUCCEEDED":
            return True
        if status in ENDED:
            message = _first_line(self.client.get_job_info(self.name).message or "")
            if "supervisor" in message:  # it runs beside the job
                message = f"the machine that the job ran on, the head of the cluster, was lost ({message})"
            raise UserError(
                f"Ray job {self.name} on {self.settings.cluster} {status.lower()}: {message}{self.log.end}"
            )
        if (
            status == "PENDING"
            and time.monotonic() - self.started > self.settings.start_minutes * 60
        ):
            raise UserError(
                f"Ray job {self.name} did not start within ray.start_minutes = {self.settings.start_minutes:g}: "
                f"{self.client.get_job_info(self.name).message}"
            )
        return False

    def remove(self) -> None:
        """See `Job`."""
        try:
            status = str(self.client.get_job_status(self.name))
            if status not in ENDED:
                self.client.stop_job(self.name)
                self._wait_for_end()
            self.client.delete_job(self.name)
        except (OSError, RuntimeError) as error:
            raise Away(_first_line(error)) from None

    def _wait_for_end(self) -> None:
        for _ in range(50):
            if str(self.client.get_job_status(self.name)) in ENDED:
                return
            time.sleep(0.2)

    def _tell_of_lost_nodes(self) -> None:
        nodes = self._nodes()
        dead = {node["nodeId"]: node for node in nodes if node["state"] == "DEAD"}
        for name in set(dead) - (set(dead) if self.lost is None else self.lost):
            say(
                f"Ray: worker {name[:12]} ({dead[name]['ip']}) was lost: {dead[name]['why']}. Its part is done again "
                "by the others, or from the last checkpoint"
            )
        self.lost = set(dead)

    def _nodes(self) -> list[dict[str, Any]]:
        from ray.util.state import list_nodes

        rows = list_nodes(address=self.settings.cluster, limit=1000, raise_on_missing_output=False)
        return [
            {
                "nodeId": row.node_id,
                "ip": row.node_ip,
                "state": row.state,
                "why": row.state_message or "no reason told",
            }
            for row in rows
        ]


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
