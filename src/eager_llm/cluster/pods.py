"""What a pod of a Ray cluster says of itself: whether it waits, and how it ended."""

from dataclasses import dataclass
from typing import Any

# What a container waits for that passes by itself.
STARTING = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class Pod:
    """A pod of a Ray cluster, as far as the job depends on it.

    Attributes:
        name: its name.
        head: whether it is the head, without which there is no cluster.
        restarts: how often its container was started again.
        waits: what it waits for; empty where it does not.
        lost: why it will not come back; empty where it runs or waits.
        ended: how its container ended the last time.
    """

    name: str
    head: bool
    restarts: int = 0
    waits: str = ""
    lost: str = ""
    ended: str = ""


def pod_of(found: Any) -> Pod:
    """Read a pod of the Kubernetes client."""
    labels, status = found.metadata.labels or {}, found.status
    containers = [*(status.init_container_statuses or []), *(status.container_statuses or [])]
    endings = [
        state.terminated
        for c in containers
        for state in (c.state, c.last_state)
        if state and state.terminated
    ]
    bad = [end for end in endings if end.exit_code]
    ended = _ending(bad[-1]) if bad else ""
    lost = ""
    if status.phase == "Failed" or found.metadata.deletion_timestamp:
        told = " ".join(
            filter(None, (status.reason, f"({status.message})" if status.message else ""))
        )
        lost = ended or told or "it is being deleted"
    return Pod(
        name=found.metadata.name,
        head=labels.get("ray.io/node-type") == "head",
        restarts=sum(c.restart_count or 0 for c in status.container_statuses or []),
        waits=_waits(status, containers),
        lost=lost,
        ended=ended,
    )


def what_to_do(why: str) -> str:
    """Return a sentence on how to keep it from happening again, where there is one."""
    if "OOMKilled" in why:
        return "It needs more memory: raise ray.head.resources or ray.workers.resources of charts/eager-llm-platform. "
    if "Evicted" in why:
        return "Its node ran short: lower the requests of its neighbours, or give it a node of its own. "
    return ""


def _ending(end: Any) -> str:
    return f"{end.reason or 'ended'}, exit status {end.exit_code}"


def _waits(status: Any, containers: list[Any]) -> str:
    for container in containers:
        waiting = container.state.waiting if container.state else None
        if waiting and waiting.reason and waiting.reason not in STARTING:
            return f"{waiting.reason}: {waiting.message or container.image}"
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason or 'not scheduled'}: {condition.message or ''}".rstrip(": ")
    return ""
