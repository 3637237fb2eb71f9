"""Run the steps in containers on this machine: each in its own image, bounded as its row of the table says."""

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
PATIENCE_SECONDS = 5.0
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
PERIOD = 100_000
PASSED_ON = (THREADS_VARIABLE,)


@dataclass
class StepRun:
    """What the engine said of one step's container.

    Attributes:
        memory: the most that it had in use, looked at once a second, in bytes.
        exit: its status; None while it runs.
    """

    step: str
    image: str
    user: str
    memory_limit: str
    began: float
    seconds: float = 0.0
    memory: int = 0
    exit: int | None = None
    out_of_memory: bool = False

    @property
    def ended_by_memory(self) -> bool:
        """Whether the limit ended it; one of its processes may be lost and replaced, and the step go on."""
        return self.out_of_memory and self.exit != 0

    @property
    def failure(self) -> str:
        """Why it failed where the step itself could not say it; empty where it could."""
        if not self.ended_by_memory:
            return ""
        return (
            f"{self.step}: out of memory: the system ended it (status {self.exit}) at the {self.memory_limit} of its "
            f"container. {remedy(self.step, ())}"
        )


@dataclass
class Containers:
    """The containers of one run, watched through the engine's events.

    Attributes:
        memory: limits that differ from the table's, by step.
        runs: a row for each container, in their order.
    """

    memory: Mapping[str, str] = field(default_factory=dict)
    runs: list[StepRun] = field(default_factory=list)
    _label: str = field(default_factory=lambda: uuid.uuid4().hex)
    _by_id: dict[str, StepRun] = field(default_factory=dict)

    def runner(
        self,
        folder: Path,
        environment: Mapping[str, str],
        read: Sequence[Path],
        write: Sequence[Path],
    ) -> Any:
        """Return kfp's runner: no root, nothing writable but the run's folder and /tmp, no capabilities.

        Args:
            folder: of the run; every container has it under its own path.
            environment: beside that of the steps, and of what is set here for threads.
            read: further files and folders that a step may read.
            write: further folders that a step may write to.
        """
        from docker.types import Mount
        from kfp import local

        bound = [
            (folder, False),
            *((path, True) for path in read),
            *((path, False) for path in write),
        ]
        # kfp mounts the artifacts' folder by itself; the engine would make a missing one root's.
        for path in (folder / ARTIFACTS, folder, *write):
            _hand_over(path)
        return local.DockerRunner(
            network_mode="host",
            init=True,
            read_only=True,
            tmpfs={"/tmp": "mode=1777"},  # noqa: S108
            shm_size=max(size(row.shared_memory) for row in STEPS.values() if row.shared_memory),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            user=f"{USER}:{USER}" if os.geteuid() == 0 else f"{os.getuid()}:{os.getgid()}",
            labels={LABEL: self._label},
            environment={
                **environment,
                **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            },
            mounts=[Mount(str(path), str(path), "bind", read_only=only) for path, only in bound],
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

        try:
            self._client = docker.from_env()
            self._events = self._client.events(
                filters={"type": "container", "label": self._mark}, decode=True
            )
        except docker.errors.DockerException as error:
            raise UserError(
                f"no Docker engine answers; start one, or take the runner `process` ({error})"
            ) from None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    @property
    def _mark(self) -> str:
        return f"{LABEL}={self._label}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop to listen, and leave no container behind."""
        for container in self._client.containers.list(filters={"label": self._mark}):
            container.kill()
        # What was told last may still be under way.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(run.exit is None for run in self.runs) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._events.close()
        self._listener.join(10)
        self._client.close()

    def tell(self) -> None:
        """Print what became of the steps, and why one failed that could not say it."""
        if self.runs:
            print(f"\n{table(self.runs)}")
        for failure in filter(None, (run.failure for run in self.runs)):
            print(f"error: {failure}", file=sys.stderr)

    def _listen(self) -> None:
        for event in self._events:
            name, moment = event["Action"], event["timeNano"] / 1e9
            if name == "start":
                self._started(event["id"], moment)
            elif event["id"] in self._by_id:
                self._ended(self._by_id[event["id"]], name, moment, event["Actor"]["Attributes"])

    def _started(self, key: str, moment: float) -> None:
        import docker

        try:
            container = self._client.containers.get(key)
        except docker.errors.NotFound:  # over already
            return
        metadata = container.attrs["Config"]
        command = [*(metadata["Entrypoint"] or []), *metadata["Cmd"]]
        step = command[command.index("--function_to_execute") + 1]
        limit = self.memory.get(step, STEPS[step].memory_limit)
        run = StepRun(step, metadata["Image"], metadata["User"], limit, moment)
        self.runs.append(run)
        self._by_id[key] = run
        _bound(container, run)
        threading.Thread(target=_look, args=(container, run), daemon=True).start()

    def _ended(self, run: StepRun, name: str, moment: float, metadata: Mapping[str, str]) -> None:
        if name == "oom":
            run.out_of_memory = True
        elif name == "die":
            run.exit, run.seconds = int(metadata["exitCode"]), moment - run.began


def _bound(container: Any, run: StepRun) -> None:
    """Give a container the limits of its step: kfp's runner starts all of them alike."""
    import docker

    memory, quota = size(run.memory_limit), int(cores(STEPS[run.step].cpu[1]) * PERIOD)
    try:
        container.update(mem_limit=memory, memswap_limit=memory, cpu_period=PERIOD, cpu_quota=quota)
    except docker.errors.NotFound:  # over already
        return
    except docker.errors.APIError as error:
        say(f"warning: {run.step}: the engine sets no limits here ({error.explanation})")


def _look(container: Any, run: StepRun) -> None:
    """Follow a container's memory, without the file cache that it would give back, until it ends."""
    import docker

    try:
        for look in container.stats(stream=True, decode=True):
            memory = look.get("memory_stats") or {}
            found = memory.get("stats", {})
            cache = found.get("total_inactive_file", found.get("inactive_file", 0))
            run.memory = max(run.memory, memory.get("usage", 0) - cache)
    except docker.errors.APIError:  # removed between two looks
        return


def size(text: str) -> int:
    """Return the bytes of a quantity such as 512Mi or 4Gi."""
    return int(float(text[:-2]) * UNITS[text[-2:]])


def cores(text: str) -> float:
    """Return the cores of a quantity such as 500m or 2."""
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _hand_over(folder: Path) -> None:
    """Give a folder to the images' user, as a cluster's storage class does."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)


def table(runs: Sequence[StepRun]) -> str:
    """Return the steps with their image, user, seconds, memory and status, as text."""
    head = ("step", "image", "user", "seconds", "most memory", "of", "status")
    rows = [
        (
            run.step, run.image, run.user.split(":")[0], f"{run.seconds:.1f}", f"{run.memory / 2**20:.0f} MiB",
            run.memory_limit, "out of memory" if run.ended_by_memory else str(run.exit),
        )
        for run in runs
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)
