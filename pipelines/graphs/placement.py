"""Where and how each step runs on a cluster: one row a step, and nothing of it anywhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from kfp import dsl, kubernetes
from kfp.dsl.graph_component import GraphComponent

from components.images import IMAGES, REGISTRY, Accelerator

# The claim that outlives the steps: features, tuning checkpoints, and what stands from night to night.
CLAIM = "eager-llm-store"
STORE = "/store"
FEATURE_STORE = f"{STORE}/features"
CHECKPOINTS = f"{STORE}/checkpoints"
RUN = f"{STORE}/run"
# Where every image of the project holds the Feast definitions.
FEATURE_REPO = "/app/feature_repo"

GPU = "nvidia.com/gpu"
# Each is named by reference and may be missing: its keys become variables of the step.
Secret = tuple[str, dict[str, str]]
OBJECT_STORE: Secret = (
    "eager-llm-object-store",
    {
        name: name
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
    },
)
ONLINE_STORE: Secret = (
    "eager-llm-online-store",
    {"url": "EAGER_LLM_ONLINE_STORE", "registry": "EAGER_LLM_REGISTRY"},
)
OFFLINE_STORE: Secret = ("eager-llm-offline-store", {"url": "EAGER_LLM_OFFLINE_STORE"})

# For every step: its lines show at once, and nothing phones home.
ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
    "RAY_USAGE_STATS_ENABLED": "0",
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

THREADS_VARIABLE = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Placement:
    """What one step gets.

    Attributes:
        cpu: cores it asks for, and may use.
        memory: what it asks for.
        memory_limit: at which the system ends it.
        gpus: with the CUDA images only.
        retries: after a failure, for what passes by itself. None where a failure is an answer: a gate.
        backoff: wait before the first retry; each later one waits twice as long.
        timeout: after which its pod is ended; each retry has as long.
        cached: whether a run takes the outputs of an earlier one. The key is Kubeflow's own: the image, the command
            (the step's code), every parameter and every artifact that comes in. The settings come in by the sections
            that the step reads; the library's code and the log's bytes come in as `fingerprint` of the first step.
        store: whether the claim is mounted.
        shared_memory: size of /dev/shm, where Ray's workers pass arrays on; Ray wants 30 % of the limit.
        secrets: credentials by reference.
        environment: beside ENVIRONMENT.
    """

    cpu: tuple[str, str] = ("500m", "2")
    memory: str = "1Gi"
    memory_limit: str = "4Gi"
    gpus: int = 0
    retries: int = 0
    backoff: timedelta = timedelta(seconds=30)
    timeout: timedelta = timedelta(hours=1)
    cached: bool = True
    store: bool = False
    shared_memory: str = ""
    secrets: tuple[Secret, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


STEPS = {
    "ingest_data": Placement(retries=2, secrets=(OBJECT_STORE,)),
    "validate_data": Placement(store=True),
    "publish_features": Placement(retries=2, store=True, secrets=(ONLINE_STORE, OFFLINE_STORE)),
    "build_index": Placement(
        cpu=("2", "4"), memory="4Gi", memory_limit="8Gi", gpus=1, retries=2, timeout=timedelta(hours=6), store=True,
        shared_memory="3Gi", secrets=(OBJECT_STORE, ONLINE_STORE, OFFLINE_STORE),
    ),
    # Goes on from its last checkpoint, so a lost node costs little.
    "tune_model": Placement(
        cpu=("2", "4"), memory="4Gi", memory_limit="16Gi", gpus=1, retries=3, timeout=timedelta(hours=48), store=True,
        shared_memory="5Gi", secrets=(OBJECT_STORE,),
    ),
    "evaluate_model": Placement(
        cpu=("2", "4"), memory="2Gi", memory_limit="8Gi", gpus=1, retries=1, timeout=timedelta(hours=6),
    ),
    "pack_bundle": Placement(memory_limit="8Gi"),
    "ingest_increment": Placement(retries=2, store=True, secrets=(OBJECT_STORE,)),
    "update_index": Placement(
        cpu=("2", "4"), memory="4Gi", memory_limit="8Gi", gpus=1, retries=2, timeout=timedelta(hours=6), store=True,
        shared_memory="3Gi", secrets=(OBJECT_STORE, ONLINE_STORE, OFFLINE_STORE),
    ),
    # Where the drift asks for it, the night tunes anew.
    "update_model": Placement(
        cpu=("2", "4"), memory="4Gi", memory_limit="16Gi", gpus=1, retries=3, timeout=timedelta(hours=48), store=True,
        shared_memory="5Gi", secrets=(OBJECT_STORE,),
    ),
    # Tried again it would find the run's folder as it left it, and a rollout that has begun.
    "promote_bundle": Placement(
        cpu=("2", "4"), memory="2Gi", memory_limit="8Gi", gpus=1, timeout=timedelta(hours=6), store=True,
        secrets=(OBJECT_STORE,),
    ),
}  # fmt: skip

# What waiting and credentials are worth: `laptop` has neither, and a failure there is read at once.
Where = Literal["cluster", "laptop"]


@dataclass(frozen=True)
class Target:
    """What a pipeline is compiled for.

    Attributes:
        where: a cluster, or this machine through kfp.local, which knows images, environment and cache only.
        accelerator: cuda takes the CUDA images, and the GPUs of the table.
        registry: what stands before the images' names.
    """

    where: Where = "cluster"
    accelerator: Accelerator = "cpu"
    registry: str = REGISTRY


_CLUSTER = Target()
_target: ContextVar[Target] = ContextVar("target", default=_CLUSTER)


@contextmanager
def _aimed(target: Target) -> Iterator[None]:
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def compiled_for(pipeline: GraphComponent, target: Target) -> GraphComponent:
    """Return the same graph, its steps placed for a target."""
    with _aimed(target):
        return dsl.pipeline(
            pipeline.pipeline_func, name=pipeline.name, description=pipeline.description
        )


def place(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a step of the graph what its row of the table says.

    Raises:
        KeyError: the step has no row.
    """
    name = step_name(task.component_spec.name)
    row, target = STEPS[name], _target.get()
    for variable, value in {**ENVIRONMENT, **dict(row.environment)}.items():
        task.set_env_variable(variable, value)
    task.set_container_image(_image(task.container_spec.image, target))
    task.set_caching_options(row.cached)
    if target.where == "cluster":
        _place_on_cluster(task, row, target)
    return task


def step_name(component: str) -> str:
    """Return the name of a step's folder from what kfp calls its component."""
    return component.replace("-", "_")


def _image(reference: str, target: Target) -> str:
    image = next(image for image in IMAGES.values() if image.reference() == reference)
    return image.reference(target.accelerator, target.registry)


def _place_on_cluster(task: dsl.PipelineTask, row: Placement, target: Target) -> None:
    # Else torch takes a thread for each core of the node, and the limit throttles them all.
    task.set_env_variable(THREADS_VARIABLE, row.cpu[1])
    task.set_cpu_request(row.cpu[0]).set_cpu_limit(row.cpu[1])
    task.set_memory_request(row.memory).set_memory_limit(row.memory_limit)
    if row.gpus and target.accelerator == "cuda":
        task.set_accelerator_type(GPU).set_accelerator_limit(row.gpus)
        # Nodes with GPUs are commonly kept for those who ask for one.
        kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
    if row.retries:
        task.set_retry(row.retries, f"{row.backoff.seconds}s", 2.0)
    kubernetes.set_timeout(task, int(row.timeout.total_seconds()))
    kubernetes.set_security_context(task, run_as_non_root=True)
    if row.store:
        kubernetes.mount_pvc(task, CLAIM, STORE)
    if row.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", "Memory", row.shared_memory)  # noqa: S108
    for name, keys in row.secrets:
        kubernetes.use_secret_as_env(task, name, keys, optional=True)
