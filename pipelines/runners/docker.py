"""Run the steps in containers on this machine, each in its own image and limits."""

import os
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from components.images import USER
from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.steps.memory import remedy
from pipelines.graphs.placement import STEPS, THREADS_VARIABLE
from pipelines.runners.summary import ARTIFACTS

LABEL = "eager-llm.run"
LAST_EVENTS_SECONDS = 5.0
MEBIBYTE = 2**20
CPU_PERIOD = 100_000  # microseconds, of the scheduler
# Variables of this process that every container gets, too.
INHERITED = (THREADS_VARIABLE,)
HEADER = ("step", "image", "user", "seconds", "most memory", "of", "status")


@dataclass
class StepRun:
    """What the engine reported of one step's container.

    Attributes:
        step: its name.
        image: reference of its image.
        user: user and group that it runs as.
        memory_limit: of its container, as Kubernetes writes it.
        start_time: seconds since the epoch.
        seconds: how long it ran, once it has ended.
        memory: its largest use in bytes, measured once a second.
        exit_status: None while it runs.
        out_of_memory: whether the system ended one of its processes at the limit.
    """

    step: str
    image: str
    user: str
    memory_limit: str
    start_time: float
    seconds: float = 0.0
    memory: int = 0
    exit_status: int | None = None
    out_of_memory: bool = False

    @property
    def ended_by_memory(self) -> bool:
        """Whether the limit ended the step; it can also replace a lost process and go on."""
        return self.out_of_memory and self.exit_status != 0

    @property
    def failure(self) -> str:
        """Why it failed where the step itself could not say it; empty where it could."""
        if not self.ended_by_memory:
            return ""
        return (
            f"{self.step}: out of memory: the system ended it (status {self.exit_status}) at the "
            f"{self.memory_limit} of its container. {remedy(self.step, ())}"
        )


@dataclass
class Containers:
    """The containers of one run, watched through the engine's events.

    Attributes:
        memory: limits that differ from the table's, by step.
        runs: a row for each container, in the order of their starts.
    """

    memory: Mapping[str, str] = field(default_factory=dict)
    runs: list[StepRun] = field(default_factory=list)
    _label: str = field(default_factory=lambda: uuid.uuid4().hex)
    _by_id: dict[str, StepRun] = field(default_factory=dict)

    def runner(
        self,
        folder: Path,
        environment: Mapping[str, str],
        inputs: Sequence[Path],
        outputs: Sequence[Path],
    ) -> Any:
        """Return kfp's runner of containers.

        They run without root and capabilities; only the run's folder, `outputs` and /tmp are
        writable.

        Args:
            folder: of the run; every container has it under its own path.
            environment: variables of the steps beside those of their rows.
            inputs: further files and folders that a step may read.
            outputs: further folders that a step may write to.
        """
        from docker.types import Mount
        from kfp import local

        # kfp mounts the artifacts' folder by itself; the engine would make a missing one root's.
        for path in (folder / ARTIFACTS, folder, *outputs):
            _give_to_user(path)
        mounts = [Mount(str(path), str(path), "bind") for path in (folder, *outputs)]
        mounts += [Mount(str(path), str(path), "bind", read_only=True) for path in inputs]
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return local.DockerRunner(
            network_mode="host",
            init=True,
            read_only=True,
            tmpfs={"/tmp": "mode=1777"},  # noqa: S108
            shm_size=_largest_shared_memory(),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            user=_user(),
            labels={LABEL: self._label},
            environment={**environment, **inherited},
            mounts=mounts,
        )

    def __enter__(self) -> "Containers":
        """Start to listen.

        Raises:
            UserError: no Docker engine answers, or its Python package is missing.
        """
        try:
            import docker
        except ImportError:
            raise UserError(
                "the runner docker needs the Python package docker: pip install docker"
            ) from None
        filters = {"type": "container", "label": self._label_filter}
        try:
            self._client = docker.from_env()
            self._events = self._client.events(filters=filters, decode=True)
        except docker.errors.DockerException as error:
            raise UserError(
                f"no Docker engine answers; start one, or take the runner `process` ({error})"
            ) from None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    @property
    def _label_filter(self) -> str:
        return f"{LABEL}={self._label}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop to listen, and leave no container behind."""
        for container in self._client.containers.list(filters={"label": self._label_filter}):
            container.kill()
        # The last events may still be under way.
        deadline = time.monotonic() + LAST_EVENTS_SECONDS
        while any(run.exit_status is None for run in self.runs) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._events.close()
        self._listener.join(10)
        self._client.close()

    def print_summary(self) -> None:
        """Print what became of the steps, and why one failed that could not say it."""
        if self.runs:
            print(f"\n{table(self.runs)}")
        for run in self.runs:
            if run.failure:
                print(f"error: {run.failure}", file=sys.stderr)

    def _listen(self) -> None:
        for event in self._events:
            action = event["Action"]
            container_id = event["id"]
            seconds = event["timeNano"] / 1e9
            if action == "start":
                self._on_start(container_id, seconds)
            elif container_id in self._by_id:
                run = self._by_id[container_id]
                _on_end(run, action, seconds, event["Actor"]["Attributes"])

    def _on_start(self, container_id: str, start_time: float) -> None:
        import docker

        try:
            container = self._client.containers.get(container_id)
        except docker.errors.NotFound:  # it has ended already
            return
        config = container.attrs["Config"]
        command = [*(config["Entrypoint"] or []), *config["Cmd"]]
        step = command[command.index("--function_to_execute") + 1]
        memory_limit = self.memory.get(step, STEPS[step].memory_limit)
        run = StepRun(step, config["Image"], config["User"], memory_limit, start_time)
        self.runs.append(run)
        self._by_id[container_id] = run
        _set_limits(container, run)
        threading.Thread(target=_follow_memory, args=(container, run), daemon=True).start()


def _on_end(run: StepRun, action: str, end_time: float, attributes: Mapping[str, str]) -> None:
    """Note that a container lost a process for want of memory, or that it ended."""
    if action == "oom":
        run.out_of_memory = True
    elif action == "die":
        run.exit_status = int(attributes["exitCode"])
        run.seconds = end_time - run.start_time


def _set_limits(container: Any, run: StepRun) -> None:
    """Give a container the limits of its step: kfp's runner starts all of them alike."""
    import docker
    from kubernetes.utils.quantity import parse_quantity

    memory = int(parse_quantity(run.memory_limit))
    cores = parse_quantity(STEPS[run.step].cpu[1])
    try:
        container.update(
            mem_limit=memory,
            memswap_limit=memory,
            cpu_period=CPU_PERIOD,
            cpu_quota=int(cores * CPU_PERIOD),
        )
    except docker.errors.NotFound:  # it has ended already
        return
    except docker.errors.APIError as error:
        say(f"warning: {run.step}: the engine sets no limits here ({error.explanation})")


def _follow_memory(container: Any, run: StepRun) -> None:
    """Measure a container's memory until it ends, without the file cache, which it gives back."""
    import docker

    try:
        for sample in container.stats(stream=True, decode=True):
            memory = sample.get("memory_stats") or {}
            details = memory.get("stats", {})
            # The first name is that of control groups of version 1, the second that of version 2.
            cache = details.get("total_inactive_file", details.get("inactive_file", 0))
            run.memory = max(run.memory, memory.get("usage", 0) - cache)
    except docker.errors.APIError:  # removed between two samples
        return


def _largest_shared_memory() -> int:
    """Return the largest /dev/shm of all steps in bytes: kfp's runner has one size for all."""
    from kubernetes.utils.quantity import parse_quantity

    sizes = [row.shared_memory for row in STEPS.values() if row.shared_memory]
    return max(int(parse_quantity(size)) for size in sizes)


def _user() -> str:
    """Return user and group of the containers: those of the images where this process is root."""
    if os.geteuid() == 0:
        return f"{USER}:{USER}"
    return f"{os.getuid()}:{os.getgid()}"


def _give_to_user(folder: Path) -> None:
    """Make a folder, and give it to the images' user, as a cluster's storage class does."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)


def table(runs: Sequence[StepRun]) -> str:
    """Return the steps with their image, user, seconds, memory and status, as text."""
    rows = [HEADER, *(_row(run) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(run: StepRun) -> tuple[str, ...]:
    return (
        run.step,
        run.image,
        run.user.split(":")[0],
        f"{run.seconds:.1f}",
        f"{run.memory / MEBIBYTE:.0f} MiB",
        run.memory_limit,
        "out of memory" if run.ended_by_memory else str(run.exit_status),
    )
