"""A step as a job of a static Ray cluster, by the address of its dashboard."""

import time
from typing import Any

from eager_llm.cluster.job_watch import ApiUnavailable, Log, follow
from eager_llm.cluster.step_calls import StepCall
from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.settings import RaySettings

ENTRY = "python3 -m eager_llm.steps.remote"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOP_SECONDS = 10
NODE_LIMIT = 1000


def run_on_static_cluster(call: StepCall, settings: RaySettings) -> None:
    """Have a static cluster run a call; a job that already runs the same call is followed further.

    Raises:
        UserError: the cluster cannot be reached, or the job failed, or was lost with its head.
    """
    job = StaticClusterJob(call, settings)
    job.submit()
    follow(job, settings)


class StaticClusterJob:
    """A job of a cluster, through Ray's job API.

    Args:
        call: what to run; its name is the job's submission id.
        settings: the address, and how long to wait.

    Raises:
        UserError: no cluster answers at the address.
    """

    def __init__(self, call: StepCall, settings: RaySettings) -> None:
        from ray.job_submission import JobSubmissionClient

        self.call = call
        self.settings = settings
        self.name = call.name
        try:
            self.client = JobSubmissionClient(settings.cluster)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"ray.cluster = {settings.cluster}: no Ray cluster answers there: "
                f"{_first_line(error)}. The address is that of the head's dashboard, port 8265"
            ) from None
        self.log = Log()
        self.start_time = time.monotonic()
        self.last_status = ""
        # The nodes that were dead at the last poll; None before the first.
        self.dead_nodes: set[str] | None = None

    def submit(self) -> None:
        """Start the job, unless it is there already and has not failed.

        Raises:
            UserError: the cluster takes no job.
        """
        minutes = self.settings.start_minutes
        deadline = time.monotonic() + minutes * 60
        while True:
            try:
                return self._submit()
            except (OSError, RuntimeError) as error:  # it answers, and its head is not quite there
                if time.monotonic() > deadline:
                    raise UserError(
                        f"the Ray cluster at {self.settings.cluster} took no job within "
                        f"ray.start_minutes = {minutes:g}: {_first_line(error)}"
                    ) from None
                time.sleep(self.settings.poll_seconds)

    def _submit(self) -> None:
        statuses = {job.submission_id: str(job.status) for job in self.client.list_jobs()}
        status = statuses.get(self.name)
        if status in ("PENDING", "RUNNING", "SUCCEEDED"):
            say(f"Ray: job {self.name} is there already ({status}); following it")
            return
        if status:
            self.client.delete_job(self.name)
        self.client.submit_job(
            entrypoint=f"{ENTRY} {self.call.encode()}",
            submission_id=self.name,
            metadata={"step": self.call.step},
        )
        say(f"Ray: job {self.name} submitted to {self.settings.cluster}")

    def poll(self) -> bool:
        """See `Job`."""
        from ray.exceptions import RayError
        from ray.util.state.exception import RayStateApiException

        try:
            status = str(self.client.get_job_status(self.name))
            self.log.show_new(self.client.get_job_logs(self.name))
            self._report_lost_nodes()
        except (OSError, RuntimeError, RayError, RayStateApiException) as error:
            raise ApiUnavailable(
                f"the head of the Ray cluster at {self.settings.cluster} does not answer; if it "
                f"was lost, so is its job ({_first_line(error)})"
            ) from None
        if status != self.last_status:
            say(f"Ray: job {self.name} is {status.lower()}")
            self.last_status = status
        if status == "SUCCEEDED":
            return True
        if status in ENDED:
            raise UserError(
                f"Ray job {self.name} on {self.settings.cluster} {status.lower()}: "
                f"{self._end_message()}{self.log.tail_text}"
            )
        if status == "PENDING":
            self._require_start()
        return False

    def _end_message(self) -> str:
        """Return why the job ended."""
        message = _first_line(self.client.get_job_info(self.name).message or "")
        if "supervisor" in message:  # it runs beside the job
            return f"the machine that the job ran on, the head of the cluster, was lost ({message})"
        return message

    def _require_start(self) -> None:
        """Check that a pending job still has time to start.

        Raises:
            UserError: it has none.
        """
        minutes = self.settings.start_minutes
        if time.monotonic() - self.start_time > minutes * 60:
            raise UserError(
                f"Ray job {self.name} did not start within ray.start_minutes = {minutes:g}: "
                f"{self.client.get_job_info(self.name).message}"
            )

    def remove(self) -> None:
        """See `Job`."""
        try:
            if self._is_running():
                self.client.stop_job(self.name)
                self._wait_for_stop()
            self.client.delete_job(self.name)
        except (OSError, RuntimeError) as error:
            raise ApiUnavailable(_first_line(error)) from None

    def _is_running(self) -> bool:
        return str(self.client.get_job_status(self.name)) not in ENDED

    def _wait_for_stop(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self._is_running() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _report_lost_nodes(self) -> None:
        """Say which machines were lost since the last poll."""
        from ray.util.state import list_nodes

        nodes = list_nodes(
            address=self.settings.cluster, limit=NODE_LIMIT, raise_on_missing_output=False
        )
        dead: dict[str, Any] = {}
        for node in nodes:
            if node.state == "DEAD":
                dead[node.node_id] = node
        if self.dead_nodes is not None:
            for name in set(dead) - self.dead_nodes:
                node = dead[name]
                reason = node.state_message or "no reason told"
                say(
                    f"Ray: worker {name[:12]} ({node.node_ip}) was lost: {reason}. Its part is "
                    "done again by the others, or from the last checkpoint"
                )
        self.dead_nodes = set(dead)


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:300]
