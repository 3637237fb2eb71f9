"""The serving chart: what its values come to, and that wrong ones are refused."""

import json
import re

import helm_python
import pytest
import yaml
from conftest import ROOT
from rendering import CHARTS, USUAL_VERSION, objects, render, values

from components.images import IMAGES, REGISTRY, TAG

SERVING = CHARTS / "eager-llm-serving"
LAPTOP, PRODUCTION, GPU, CANARY = (
    SERVING / "examples" / f"{name}.yaml"
    for name in ("laptop", "cpu-production", "gpu-production", "canary")
)
# What the service measures, and of what kind.
METRICS = {
    "eager_llm_request_seconds": "histogram",
    "eager_llm_requests_total": "counter",
    "eager_llm_events_total": "counter",
    "eager_llm_batch_size": "histogram",
    "eager_llm_beams": "histogram",
    "eager_llm_fallbacks_total": "counter",
    "eager_llm_prefix_cache_hits_total": "counter",
    "eager_llm_prefix_cache_misses_total": "counter",
    "eager_llm_queue_length": "gauge",
    "eager_llm_bundle_info": "gauge",
}
SERVICE = ROOT / "serving" / "metrics.py"


def one(found, kind, suffix=""):
    (match,) = [
        o
        for o in found
        if o["kind"] == kind and o["metadata"]["name"] == f"demo-eager-llm-serving{suffix}"
    ]
    return match


def rendered(example, *assignments, version=USUAL_VERSION):
    return objects(render(SERVING, values(example, *assignments), version))


def container(deployment):
    return deployment["spec"]["template"]["spec"]["containers"][0]


def environment(deployment):
    return {
        entry["name"]: entry.get("value", entry.get("valueFrom"))
        for entry in container(deployment)["env"]
    }


def test_names_stand_in_one_place():
    chart = yaml.safe_load((SERVING / "Chart.yaml").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((SERVING / "values.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == TAG
    assert defaults["image"]["repository"] == f"{REGISTRY}/{IMAGES['serving'].name}"
    assert container(one(rendered(LAPTOP), "Deployment"))["image"] == IMAGES["serving"].reference()
    assert container(one(rendered(LAPTOP, "accelerator=cuda"), "Deployment"))["image"] == IMAGES[
        "serving"
    ].reference("cuda")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("bundle.version=", "bundle.version: name the bundle to serve"),
        ("bundle.version=a/b", "/bundle/version"),
        ("bundle.source=ftp", "'pvc', 'uri', 'image'"),
        ("bundle.source=uri", "bundle.uri: name where the bundles lie"),
        ("bundle.uri=s3://key:secret@host/bundles", "/bundle/uri"),
        ("bundle.pvc.claimName=", "bundle.pvc.claimName: name the claim"),
        ("bundel.version=1", "additional properties 'bundel' not allowed"),
        ("replicas=0", "minimum"),
        ("replicas=2", "onlineStore.type=sqlite is a file that one pod writes"),
        ("canary.enabled=true", "canary.bundle.version: name the version"),
        ("canary.weight=100", "/canary/weight"),
        ("onlineStore.type=redis", "onlineStore.host: name the Redis, or set redis.enabled=true"),
        ("onlineStore.type=redis,onlineStore.host=redis://x", "/onlineStore/host"),
        ("redis.enabled=true", "set onlineStore.type=redis"),
        ("userId=0", "/userId"),
        ("resources.limits.memory=lots", "/resources/limits/memory"),
        ("settings.logLevel=loud", "/settings/logLevel"),
        ("settings.deadlineMs=soon", "want null or integer|want integer or null"),
        ("extraEnv[0].name=EAGER_LLM_API_KEY", "/extraEnv/0/name"),
        ("shutdown.graceSeconds=5", "shutdown.graceSeconds: must be longer"),
        ("strategy.maxSurge=0", "strategy: maxSurge and maxUnavailable cannot both be 0"),
        ("ingress.enabled=true", "ingress.hosts: name at least one host"),
        ("httpRoute.enabled=true", "httpRoute.parentRefs: name the gateway"),
        ("image.digest=sha256:12", "/image/digest"),
    ],
)
def test_a_wrong_value_is_refused_with_a_message(assignment, message):
    with pytest.raises(
        helm_python.HelmError, match=message if "|" in message else re.escape(message)
    ):
        rendered(LAPTOP, assignment)


def test_more_contradictions_are_refused():
    for example, assignment, message in [
        (CANARY, "canary.bundle.version=2026-01-31", "is what is served already"),
        (
            CANARY,
            "canary.weight=0,httpRoute.enabled=false",
            "canary.weight=0: without httpRoute.enabled",
        ),
        (CANARY, "onlineStore.host=redis.db", "set only one of them"),
        (CANARY, "features.claimName=", "features.claimName: Redis is read through Feast"),
        (PRODUCTION, "autoscaling.minReplicas=30", "is more than autoscaling.maxReplicas"),
        (GPU, "secondBundle.version=old", "an image volume holds one bundle"),
        (GPU, "autoscaling.queueLength=null", "give cpuPercent or queueLength"),
    ]:
        with pytest.raises(helm_python.HelmError, match=re.escape(message)):
            rendered(example, assignment)


def test_an_image_volume_needs_its_kubernetes():
    with pytest.raises(
        helm_python.HelmError,
        match=r"this cluster is v1\.30\.0; image volumes came with Kubernetes 1\.31",
    ):
        rendered(GPU, version="1.30")
    with pytest.raises(
        helm_python.HelmError, match=r"Before Kubernetes 1\.35 image volumes are off"
    ):
        rendered(GPU, version="1.34")
    assert rendered(GPU, "bundle.image.featureGateEnabled=true", version="1.34")
    pod = one(rendered(GPU), "Deployment")["spec"]["template"]["spec"]
    (volume,) = [v for v in pod["volumes"] if v["name"] == "bundle"]
    assert volume["image"]["reference"] == "registry.example.com/recommender/bundle:2026-01-31"


@pytest.mark.parametrize("example", [LAPTOP, PRODUCTION, GPU], ids=lambda path: path.stem)
def test_a_version_rolls_the_pods_and_nothing_else(example):
    old, new = rendered(example), rendered(example, "bundle.version=next")
    differing = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    ((before, after),) = differing
    assert before["kind"] == "Deployment"
    assert before["spec"]["selector"] == after["spec"]["selector"]
    assert after["spec"]["template"]["metadata"]["labels"]["eager-llm/bundle-version"] == "next"
    assert "next" in environment(after)["EAGER_LLM_BUNDLE"]
    # Back is the same difference the other way: the old version renders as it did.
    assert rendered(example) == old


def test_each_source_says_where_the_bundle_lies():
    assert (
        environment(one(rendered(LAPTOP), "Deployment"))["EAGER_LLM_BUNDLE"]
        == "/bundles/demo/bundle"
    )
    by_uri = environment(one(rendered(PRODUCTION), "Deployment"))
    assert by_uri["EAGER_LLM_BUNDLE"] == "s3://recommender/bundles/2026-01-31"
    assert by_uri["AWS_SECRET_ACCESS_KEY"]["secretKeyRef"]["name"] == "recommender-objects"
    assert by_uri["AWS_ENDPOINT_URL"] == "https://objects.example.com"
    assert (
        environment(one(rendered(GPU), "Deployment"))["EAGER_LLM_BUNDLE"] == "/bundles/2026-01-31"
    )


def test_redis_is_named_with_its_password_by_reference():
    found = environment(one(rendered(PRODUCTION), "Deployment"))
    assert (
        found["EAGER_LLM_ONLINE_STORE"] == "redis://:$(REDIS_PASSWORD)@redis.databases.svc:6379/0"
    )
    assert found["REDIS_PASSWORD"] == {
        "secretKeyRef": {"name": "recommender-redis", "key": "password"}
    }
    own = rendered(CANARY)
    assert environment(one(own, "Deployment"))["EAGER_LLM_ONLINE_STORE"].startswith(
        "redis://demo-eager-llm-serving-redis:"
    )
    assert one(own, "Service", "-redis")["spec"]["ports"][0]["port"] == 6379


def test_the_canary_takes_its_share_and_is_promoted():
    before = rendered(CANARY, "canary.enabled=false")
    during = rendered(CANARY)
    stable, canary = one(during, "Deployment"), one(during, "Deployment", "-canary")
    assert stable == one(before, "Deployment"), (
        "the stable track is left alone while the canary runs"
    )
    assert environment(canary)["EAGER_LLM_BUNDLE"].endswith("2026-02-07")
    refs = one(during, "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert {ref["name"].rsplit("-", 1)[1]: ref["weight"] for ref in refs} == {
        "stable": 90,
        "canary": 10,
    }
    for track, deployment in (("stable", stable), ("canary", canary)):
        selector = one(during, "Service", f"-{track}")["spec"]["selector"]
        assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
        assert selector == deployment["spec"]["selector"]["matchLabels"]
    after = rendered(CANARY, "canary.enabled=false", "bundle.version=2026-02-07")
    assert [o for o in after if o["metadata"]["name"].endswith("-canary")] == []
    assert (
        environment(one(after, "Deployment"))["EAGER_LLM_BUNDLE"]
        == environment(canary)["EAGER_LLM_BUNDLE"]
    )


@pytest.mark.parametrize(
    ("replicas", "weight", "expected"),
    [(2, 10, 1), (4, 10, 1), (9, 10, 1), (10, 25, 3), (4, 50, 4), (20, 10, 2)],
)
def test_without_a_route_pods_make_the_share(replicas, weight, expected):
    found = rendered(
        CANARY, f"replicas={replicas}", f"canary.weight={weight}", "httpRoute.enabled=false"
    )
    assert one(found, "Deployment", "-canary")["spec"]["replicas"] == expected
    both = one(found, "Service")["spec"]["selector"]
    for suffix in ("", "-canary"):
        assert (
            both.items()
            <= one(found, "Deployment", suffix)["spec"]["template"]["metadata"]["labels"].items()
        )


def test_every_selector_meets_pods_of_its_own_only():
    found = rendered(CANARY)
    pods = {
        o["metadata"]["name"]: o["spec"]["template"]["metadata"]["labels"]
        for o in found
        if "template" in o.get("spec", {})
    }
    tested = one(found, "Pod", "-test")["metadata"]["labels"]
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        spec = one(found, kind)["spec"]
        wanted = (spec.get("selector") or spec["podSelector"])["matchLabels"].items()
        assert {name for name, labels in pods.items() if wanted <= labels.items()} == {
            "demo-eager-llm-serving",
            "demo-eager-llm-serving-canary",
        }
        assert not wanted <= tested.items()
    monitor = one(rendered(PRODUCTION), "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    watched = [
        o
        for o in rendered(GPU)
        if o["kind"] == "Service" and monitor <= o["metadata"]["labels"].items()
    ]
    assert len(watched) == 1, "each pod is scraped once"


def test_under_autoscaling_a_release_never_starts_below_its_floor():
    found = rendered(PRODUCTION, "replicas=1")
    assert one(found, "Deployment")["spec"]["replicas"] == 3
    assert one(found, "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 3
    without = rendered(PRODUCTION, "replicas=2", "autoscaling.enabled=false")
    assert one(without, "Deployment")["spec"]["replicas"] == 2
    queue = one(rendered(GPU), "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]
    assert queue["metric"]["name"] in METRICS


def test_a_cuda_pod_asks_for_its_gpu():
    assert container(one(rendered(GPU), "Deployment"))["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert (
        "nvidia.com/gpu"
        not in container(one(rendered(PRODUCTION), "Deployment"))["resources"]["limits"]
    )


def test_settings_are_the_services_own_where_none_is_given():
    plain = environment(one(rendered(LAPTOP), "Deployment"))
    assert {
        "EAGER_LLM_DEADLINE_MS",
        "EAGER_LLM_QUEUE",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "EAGER_LLM_API_KEY",
    } & set(plain) == set()
    found = environment(
        one(
            rendered(
                LAPTOP,
                "settings.rate=0.5,settings.maxBodyBytes=10485760,settings.describe=false,secondBundle.version=old",
            ),
            "Deployment",
        )
    )
    assert (found["EAGER_LLM_RATE"], found["EAGER_LLM_MAX_BODY_BYTES"]) == ("0.5", "10485760")
    assert found["EAGER_LLM_DESCRIBE"] == "false"
    assert found["EAGER_LLM_SECOND_BUNDLE"] == "/bundles/demo/old"


def test_the_dashboard_asks_for_metrics_that_there_are():
    config = one(rendered(PRODUCTION), "ConfigMap", "-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    board = json.loads(config["data"]["eager-llm-serving.json"])
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [note["expr"] for note in board["annotations"]["list"]]
    asked += [
        v["query"]["query"] for v in board["templating"]["list"] if isinstance(v["query"], dict)
    ]
    parts = {
        name + end
        for name, kind in METRICS.items()
        if kind == "histogram"
        for end in ("_bucket", "_sum", "_count")
    }
    parts |= {name for name, kind in METRICS.items() if kind != "histogram"}
    seen = set()
    for expression in asked:
        names = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?=\{)", expression))
        assert names, expression
        assert names <= parts, expression
        seen |= names
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in seen} == set(METRICS), (
        "every metric has its panel"
    )


@pytest.mark.skipif(not SERVICE.is_file(), reason="the service has no metrics of its own yet")
def test_the_metrics_are_the_services():
    found = re.findall(
        r'(Histogram|Counter|Gauge)\(\s*"(eager_llm_\w+)"', SERVICE.read_text(encoding="utf-8")
    )
    assert {name + "_total" * (kind == "Counter"): kind.lower() for kind, name in found} == METRICS


def claims_of(pod):
    volumes = [volume.get("persistentVolumeClaim") for volume in pod["volumes"]]
    return [volume["claimName"] for volume in volumes if volume]


@pytest.mark.parametrize(
    "assignments",
    [
        (),
        ("bundle.pvc.claimName=other",),
        ("onlineStore.type=redis", "redis.enabled=true"),
        ("onlineStore.type=redis", "redis.enabled=true", "secondBundle.version=older"),
    ],
    ids=lambda assignments: ",".join(assignments) or "as it is",
)
def test_a_claim_is_one_volume_however_often_it_is_mounted(assignments):
    pod = one(rendered(LAPTOP, *assignments), "Deployment")["spec"]["template"]["spec"]
    claims = claims_of(pod)
    assert len(claims) == len(set(claims)), "a kubelet never mounts one claim as two volumes"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in pod["containers"][0]["volumeMounts"]:
        claim = volumes[mount["name"]].get("persistentVolumeClaim", {})
        writes = not mount.get("readOnly", False)
        assert not (writes and claim.get("readOnly", False)), f"{mount['mountPath']} is written to"


def test_the_charts_own_redis_answers_other_pods():
    own = ("onlineStore.type=redis", "redis.enabled=true")
    redis = one(rendered(LAPTOP, *own), "StatefulSet", "-redis")
    (container_,) = redis["spec"]["template"]["spec"]["containers"]
    arguments = container_["args"]
    assert arguments[arguments.index("--protected-mode") + 1] == "no"
    assert container_["readinessProbe"]["timeoutSeconds"] >= 5
    secured = rendered(LAPTOP, *own, "onlineStore.passwordSecret.name=redis")
    (container_,) = one(secured, "StatefulSet", "-redis")["spec"]["template"]["spec"]["containers"]
    assert "--protected-mode" not in container_["args"]
    assert "--requirepass" in container_["args"]
