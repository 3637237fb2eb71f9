"""What a pod of a Ray cluster reports: whether it waits, and how it ended."""

from dataclasses import dataclass
from typing import Any

# Reasons of a container's waiting that pass by themselves.
STARTING = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class Pod:
    """A pod of a Ray cluster, as far as the job depends on it.

    Attributes:
        name: its name.
        head: whether it is the head, without which there is no cluster.
        restarts: how often its container was started again.
        wait_reason: what it waits for; empty where it does not wait.
        loss: why it will not come back; empty where it runs or waits.
        last_exit: how its container failed the last time; empty where it never did.
    """

    name: str
    head: bool
    restarts: int = 0
    wait_reason: str = ""
    loss: str = ""
    last_exit: str = ""


def read_pod(pod: Any) -> Pod:
    """Read a pod of the Kubernetes client."""
    labels = pod.metadata.labels or {}
    status = pod.status
    main_containers = status.container_statuses or []
    containers = [*(status.init_container_statuses or []), *main_containers]
    last_exit = _last_failure(containers)
    loss = ""
    if status.phase == "Failed" or pod.metadata.deletion_timestamp:
        loss = last_exit or _status_text(status) or "it is being deleted"
    return Pod(
        name=pod.metadata.name,
        head=labels.get("ray.io/node-type") == "head",
        restarts=sum(container.restart_count or 0 for container in main_containers),
        wait_reason=_wait_reason(status, containers),
        loss=loss,
        last_exit=last_exit,
    )


def advice(reason: str) -> str:
    """Return a sentence on how to prevent the loss of a pod, and a blank; or nothing."""
    if "OOMKilled" in reason:
        return (
            "It needs more memory: raise ray.head.resources or ray.workers.resources of "
            "charts/eager-llm-platform. "
        )
    if "Evicted" in reason:
        return (
            "Its node ran short: lower the requests of its neighbours, or give it a node of its "
            "own. "
        )
    return ""


def _last_failure(containers: list[Any]) -> str:
    """Return how the last container that failed ended, or nothing."""
    failure = ""
    for container in containers:
        for state in (container.state, container.last_state):
            end = state.terminated if state else None
            if end and end.exit_code:
                failure = f"{end.reason or 'ended'}, exit status {end.exit_code}"
    return failure


def _status_text(status: Any) -> str:
    """Return a pod's own reason and message."""
    texts = []
    if status.reason:
        texts.append(status.reason)
    if status.message:
        texts.append(f"({status.message})")
    return " ".join(texts)


def _wait_reason(status: Any, containers: list[Any]) -> str:
    for container in containers:
        waiting = container.state.waiting if container.state else None
        if waiting and waiting.reason and waiting.reason not in STARTING:
            return f"{waiting.reason}: {waiting.message or container.image}"
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            reason = condition.reason or "not scheduled"
            return f"{reason}: {condition.message or ''}".rstrip(": ")
    return ""
