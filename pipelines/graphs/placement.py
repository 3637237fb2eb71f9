"""Where and how each step runs on a cluster: one row a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from kfp import dsl, kubernetes
from kfp.dsl.graph_component import GraphComponent

from components.images import IMAGES, REGISTRY, Accelerator

# The claim that outlives the steps: features, tuning checkpoints, and the run's folder with the
# accepted log and the running bundle.
CLAIM = "eager-llm-store"
STORE = "/store"
FEATURE_STORE = f"{STORE}/features"
CHECKPOINTS = f"{STORE}/checkpoints"
RUN = f"{STORE}/run"
# Where every image of the project holds the Feast definitions.
FEATURE_REPO = "/app/feature_repo"

GPU = "nvidia.com/gpu"
# A secret and the variable of each of its keys. It is named by reference and may be missing.
Secret = tuple[str, dict[str, str]]
OBJECT_STORE: Secret = (
    "eager-llm-object-store",
    {
        "AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL": "AWS_ENDPOINT_URL",
        "AWS_REGION": "AWS_REGION",
    },
)
ONLINE_STORE: Secret = (
    "eager-llm-online-store",
    {"url": "EAGER_LLM_ONLINE_STORE", "registry": "EAGER_LLM_REGISTRY"},
)
OFFLINE_STORE: Secret = ("eager-llm-offline-store", {"url": "EAGER_LLM_OFFLINE_STORE"})

# Of every step: its lines show at once, and no library reports its usage.
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
        cpu: requested cores, and their limit.
        memory: requested memory.
        memory_limit: above it the system ends the step.
        gpus: with the CUDA images only.
        retries: after a failure that may pass by itself; 0 where a failure is an answer: a gate.
        backoff: wait before the first retry; each later one waits twice as long.
        timeout: after it the step's pod is ended; each retry has as long.
        cached: whether a run takes the outputs of an earlier one. Kubeflow's key is the image, the
            command (the step's code), every parameter and every artifact that comes in. The
            settings come in by the sections that the step reads. The library's code and the log's
            bytes come in as `fingerprint` of the first step.
        store: whether the claim is mounted.
        shared_memory: size of /dev/shm, through which Ray's workers pass arrays; Ray wants 30 % of
            the limit.
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
        cpu=("2", "4"),
        memory="4Gi",
        memory_limit="8Gi",
        gpus=1,
        retries=2,
        timeout=timedelta(hours=6),
        store=True,
        shared_memory="3Gi",
        secrets=(OBJECT_STORE, ONLINE_STORE, OFFLINE_STORE),
    ),
    # It resumes from its last checkpoint, so a lost node costs little.
    "tune_model": Placement(
        cpu=("2", "4"),
        memory="4Gi",
        memory_limit="16Gi",
        gpus=1,
        retries=3,
        timeout=timedelta(hours=48),
        store=True,
        shared_memory="5Gi",
        secrets=(OBJECT_STORE,),
    ),
    "evaluate_model": Placement(
        cpu=("2", "4"),
        memory="2Gi",
        memory_limit="8Gi",
        gpus=1,
        retries=1,
        timeout=timedelta(hours=6),
    ),
    "pack_bundle": Placement(memory_limit="8Gi"),
    "ingest_increment": Placement(retries=2, store=True, secrets=(OBJECT_STORE,)),
    "update_index": Placement(
        cpu=("2", "4"),
        memory="4Gi",
        memory_limit="8Gi",
        gpus=1,
        retries=2,
        timeout=timedelta(hours=6),
        store=True,
        shared_memory="3Gi",
        secrets=(OBJECT_STORE, ONLINE_STORE, OFFLINE_STORE),
    ),
    # Where the drift is large, the refresh tunes a new model.
    "update_model": Placement(
        cpu=("2", "4"),
        memory="4Gi",
        memory_limit="16Gi",
        gpus=1,
        retries=3,
        timeout=timedelta(hours=48),
        store=True,
        shared_memory="5Gi",
        secrets=(OBJECT_STORE,),
    ),
    # A second try would meet the run's folder as the first one left it, and a rollout that began.
    "promote_bundle": Placement(
        cpu=("2", "4"),
        memory="2Gi",
        memory_limit="8Gi",
        gpus=1,
        timeout=timedelta(hours=6),
        store=True,
        secrets=(OBJECT_STORE,),
    ),
}

# A laptop has neither retries nor credentials: a person reads a failure there at once.
Where = Literal["cluster", "laptop"]


@dataclass(frozen=True)
class Target:
    """What a pipeline is compiled for.

    Attributes:
        where: a cluster, or this machine through kfp.local, which obeys images, environment and
            cache only.
        accelerator: cuda takes the CUDA images, and the GPUs of the table.
        registry: prefix of the images' names.
    """

    where: Where = "cluster"
    accelerator: Accelerator = "cpu"
    registry: str = REGISTRY


_CLUSTER = Target()
_target: ContextVar[Target] = ContextVar("target", default=_CLUSTER)


@contextmanager
def _for_target(target: Target) -> Iterator[None]:
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def compiled_for(pipeline: GraphComponent, target: Target) -> GraphComponent:
    """Return the same graph, its steps placed for a target."""
    with _for_target(target):
        return dsl.pipeline(
            pipeline.pipeline_func, name=pipeline.name, description=pipeline.description
        )


def place(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a step of the graph the image, environment and resources of its row.

    Raises:
        KeyError: the step has no row.
    """
    row = STEPS[step_name(task.component_spec.name)]
    target = _target.get()
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
    """Return the build of an image for a target."""
    images = {image.reference(): image for image in IMAGES.values()}
    return images[reference].reference(target.accelerator, target.registry)


def _place_on_cluster(task: dsl.PipelineTask, row: Placement, target: Target) -> None:
    # Otherwise torch starts a thread for each core of the node, and the limit throttles them all.
    task.set_env_variable(THREADS_VARIABLE, row.cpu[1])
    task.set_cpu_request(row.cpu[0]).set_cpu_limit(row.cpu[1])
    task.set_memory_request(row.memory).set_memory_limit(row.memory_limit)
    if row.gpus and target.accelerator == "cuda":
        task.set_accelerator_type(GPU).set_accelerator_limit(row.gpus)
        # Nodes with GPUs are commonly reserved for pods that request one.
        kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
    if row.retries:
        task.set_retry(row.retries, f"{row.backoff.seconds}s", 2.0)
    kubernetes.set_timeout(task, int(row.timeout.total_seconds()))
    kubernetes.set_security_context(task, run_as_non_root=True)
    if row.store:
        kubernetes.mount_pvc(task, CLAIM, STORE)
    if row.shared_memory:
        shared_memory = "/dev/shm"  # noqa: S108
        kubernetes.empty_dir_mount(
            task, "shared-memory", shared_memory, "Memory", row.shared_memory
        )
    for name, keys in row.secrets:
        kubernetes.use_secret_as_env(task, name, keys, optional=True)
