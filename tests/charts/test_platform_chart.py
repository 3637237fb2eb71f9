"""The platform chart: what its values come to, that wrong ones are refused, and that names stand in one place."""

import re

import helm_python
import pytest
import yaml
from rendering import CHARTS, check_custom, objects, render, values

from components.images import IMAGES, REGISTRY, TAG
from eager_llm.cluster.rayjob import fill_template
from eager_llm.cluster.step_calls import StepCall
from eager_llm.settings import RaySettings, Settings
from pipelines.cluster.submit import command_parser
from pipelines.graphs.placement import CLAIM, OBJECT_STORE, ONLINE_STORE, STORE

PLATFORM = CHARTS / "eager-llm-platform"
LAPTOP, CPU, GPU = (PLATFORM / "examples" / f"{name}.yaml" for name in ("laptop", "cpu", "gpu"))
DEFAULTS = yaml.safe_load((PLATFORM / "values.yaml").read_text(encoding="utf-8"))


def rendered(example, *assignments):
    return objects(render(PLATFORM, values(example, *assignments)))


def one(found, kind, name=None):
    (match,) = [
        o
        for o in found
        if o["kind"] == kind and (name is None or o["metadata"]["name"].endswith(name))
    ]
    return match


def template(found):
    return one(found, "ConfigMap", DEFAULTS["ray"]["template"])["data"]["rayjob.yaml"]


def cluster(found):
    return yaml.safe_load(template(found))["spec"]["rayClusterSpec"]


def test_names_stand_in_one_place():
    chart = yaml.safe_load((PLATFORM / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == TAG
    assert DEFAULTS["image"]["repository"] == f"{REGISTRY}/{IMAGES['training'].name}"
    assert DEFAULTS["recurringRun"]["image"]["repository"] == f"{REGISTRY}/{IMAGES['data'].name}"
    assert DEFAULTS["ray"]["template"] == RaySettings().template
    assert DEFAULTS["store"]["claimName"] == CLAIM
    assert DEFAULTS["objectStore"]["credentialsSecret"] == OBJECT_STORE[0]
    assert DEFAULTS["onlineStore"]["secret"] == ONLINE_STORE[0]
    pod = cluster(rendered(LAPTOP))["headGroupSpec"]["template"]["spec"]
    (box,) = pod["containers"]
    assert {"name": "store", "mountPath": STORE} in box["volumeMounts"]
    asked = {
        (e["name"], e["valueFrom"]["secretKeyRef"]["name"], e["valueFrom"]["secretKeyRef"]["key"])
        for e in box["env"]
    }
    secrets = [
        (variable, name, key)
        for name, keys in (OBJECT_STORE, ONLINE_STORE)
        for key, variable in keys.items()
    ]
    assert asked == set(secrets), "a step finds on the Ray cluster what it finds in its own pod"
    locked = (CHARTS.parent / "requirements.lock").read_text(encoding="utf-8")
    assert f"\nray=={DEFAULTS['ray']['version']}\n" in locked


@pytest.mark.parametrize("example", [LAPTOP, CPU, GPU], ids=lambda path: path.stem)
def test_what_a_step_makes_of_the_template_is_a_rayjob(example):
    call = StepCall(
        "tune",
        {"tables": "s3://shop/runs/t"},
        {"out": "s3://shop/runs/model"},
        {},
        Settings().to_dict(),
    )
    job = fill_template(template(rendered(example)), call, RaySettings())
    check_custom(job)
    assert ("clusterSelector" in job["spec"]) == (example == GPU)
    if example == GPU:
        assert job["spec"]["clusterSelector"] == {
            "ray.io/cluster": one(rendered(GPU), "RayCluster")["metadata"]["name"]
        }
        assert "ttlSecondsAfterFinished" not in job["spec"], "the standing cluster stays"


def test_each_cluster_is_closed_to_those_without_a_token():
    assert (
        cluster(rendered(CPU))["authOptions"]
        == one(rendered(GPU), "RayCluster")["spec"]["authOptions"]
        == {"mode": "token"}
    )


def test_gpus_are_the_workers():
    head, (workers,) = (
        one(rendered(GPU), "RayCluster")["spec"][part]
        for part in ("headGroupSpec", "workerGroupSpecs")
    )
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    (box,) = workers["template"]["spec"]["containers"]
    assert box["resources"]["limits"] == {"nvidia.com/gpu": 1, "cpu": "8", "memory": "96Gi"}
    assert box["image"].endswith(f":{TAG}-cuda")
    assert workers["replicas"] == workers["maxReplicas"] == 7, (
        "the eighth of the quota is for the steps"
    )
    assert "nvidia.com/gpu" not in str(cluster(rendered(CPU)))


def test_credentials_are_named_and_never_written():
    for example in (LAPTOP, CPU, GPU):
        for secret in (o for o in rendered(example) if o["kind"] == "Secret"):
            assert set(secret["stringData"]) == {"url"}
            assert "@" not in secret["stringData"]["url"]
    assert (
        one(rendered(CPU), "Secret")["stringData"]["url"]
        == "redis://demo-eager-llm-platform-redis:6379/0"
    )
    assert one(rendered(LAPTOP), "Secret")["stringData"]["url"] == "sqlite"
    assert [o for o in rendered(GPU) if o["kind"] == "Secret"] == []


def test_the_rights_are_those_that_a_step_uses():
    found = rendered(CPU)
    rules = {
        (resource, verb)
        for rule in one(found, "Role")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert rules == {
        ("rayjobs", "create"), ("rayjobs", "get"), ("rayjobs", "delete"), ("pods", "list"), ("pods/log", "get"),
        ("configmaps", "get"),
    }  # fmt: skip
    (subject,) = one(found, "RoleBinding")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "default-editor", "namespace": "shop"}


def test_the_schedule_is_a_command_that_there_is():
    found = rendered(GPU)
    for hook in ("set", "delete"):
        (box,) = one(found, "Job", f"-{hook}")["spec"]["template"]["spec"]["containers"]
        assert box["command"] == ["python3", "-m", "pipelines.cluster.submit", "recurring"]
        asked = command_parser().parse_args(["recurring", *box["args"]])
        assert asked.delete == (hook == "delete")
        assert asked.namespace == "shop"
    asked = command_parser().parse_args(
        [
            "recurring",
            *one(found, "Job", "-set")["spec"]["template"]["spec"]["containers"][0]["args"],
        ]
    )
    assert asked.version == "eager-llm-recommender-0123456789"
    assert (asked.cron, asked.source, asked.root) == (
        "0 0 2 * * *",
        "s3://shop/log",
        "s3://shop/runs",
    )
    assert str(asked.file) == "/app/pipelines/manifests/cuda/recommender.yaml"
    settings = Settings.from_dict(
        yaml.safe_load(one(found, "ConfigMap", "-schedule")["data"]["settings.yaml"])
    )
    assert (settings.ray.cluster, settings.tuning.workers) == ("rayjob", 7)
    assert [o for o in rendered(LAPTOP) if o["kind"] == "Job"] == []


@pytest.mark.parametrize("name", ["refresh", "nightly"])
def test_a_schedule_of_refreshes_goes_by_its_earlier_name_too(name):
    job = one(rendered(GPU, f"recurringRun.pipeline={name}"), "Job", "-set")
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--pipeline=refresh" in arguments
    assert "--file=/app/pipelines/manifests/cuda/refresh.yaml" in arguments


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("ray.mode=sometimes", "'job', 'standing'"),
        ("ray.version=latest", "/ray/version"),
        ("ray.workers.replicas=two", "/ray/workers/replicas"),
        ("ray.head.cpus=0", "ray.workers.replicas=0: nobody would do the work"),
        ("accelerator=cuda", "accelerator=cuda: GPUs are given to workers"),
        ("ray.workers.replicas=2", "store.accessMode=ReadWriteOnce: Ray's workers share the claim"),
        ("ray.extraEnv[0].name=EAGER_LLM_REGISTRY", "/ray/extraEnv/0/name"),
        ("rays.mode=job", "additional properties 'rays' not allowed"),
        ("pipeline.serviceAccount=", "/pipeline/serviceAccount"),
        ("store.size=much", "/store/size"),
        ("objectStore.root=s3://key:secret@host/runs", "/objectStore/root"),
        ("onlineStore.type=redis", "onlineStore.host: name the Redis, set redis.enabled=true"),
        ("onlineStore.host=redis://x", "/onlineStore/host"),
        ("redis.enabled=true", "set onlineStore.type=redis"),
        ("onlineStore.type=redis,redis.enabled=true,onlineStore.host=x", "set only one of them"),
        (
            "onlineStore.type=redis,redis.enabled=true,onlineStore.passwordSecret.name=x",
            "writes no password into a Secret",
        ),
        ("recurringRun.enabled=true", "recurringRun.source: name where the log lies"),
        ("recurringRun.cron=0 2 * * *", "/recurringRun/cron"),
        ("recurringRun.host=ml-pipeline:8888", "/recurringRun/host"),
        ("userId=0", "/userId"),
        ("image.digest=sha256:12", "/image/digest"),
    ],
)
def test_a_wrong_value_is_refused_with_a_message(assignment, message):
    with pytest.raises(helm_python.HelmError, match=re.escape(message)):
        rendered(LAPTOP, assignment)
