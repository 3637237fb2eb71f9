"""Every chart: each example renders, is valid on every Kubernetes, and is its golden copy; its schema knows its values."""

import json

import helm_python
import pytest
import yaml
from rendering import (
    CHARTS,
    GOLDEN,
    OLDEST,
    USUAL_VERSION,
    check,
    examples,
    golden_path,
    golden_text,
    number,
    objects,
    pod_specs,
    render,
    values,
    versions,
)

each_example = pytest.mark.parametrize(
    "example", examples(), ids=lambda path: f"{path.parents[1].name}-{path.stem}"
)
each_chart = pytest.mark.parametrize(
    "chart", sorted(p.parent for p in CHARTS.glob("*/Chart.yaml")), ids=lambda p: p.name
)


def rendered(example, version=USUAL_VERSION):
    return objects(render(example.parents[1], values(example), version))


def with_templates(found):
    """The objects, and those that stand as text in a ConfigMap."""
    texts = [text for one in found if one["kind"] == "ConfigMap" for text in one["data"].values()]
    inner = [yaml.safe_load(text) for text in texts if text.startswith("apiVersion:")]
    for one in inner:
        one["metadata"]["name"] = "filled-in"
    return [*found, *inner]


@each_example
def test_an_example_is_its_golden_copy(example):
    assert golden_path(example).read_text(encoding="utf-8") == golden_text(example), (
        "run: make goldens"
    )


def test_no_golden_copy_is_left_over():
    assert {golden_path(example) for example in examples()} == set(GOLDEN.glob("*/*"))


@each_example
def test_an_example_is_valid_on_every_kubernetes(example):
    tried = [v for v in versions() if number(v) >= OLDEST.get(example.stem, (1, 29))]
    assert len(tried) >= (3 if example.stem in OLDEST else 7)
    for version in tried:
        for found in with_templates(rendered(example, version)):
            check(found, version)


@each_example
def test_an_example_passes_lint(example):
    report = helm_python.lint(
        example.parents[1], values(example), strict=True, kube_version=f"v{USUAL_VERSION}.0"
    )
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@each_example
def test_every_pod_is_held_tight(example):
    pods = [pod for found in with_templates(rendered(example)) for pod in pod_specs(found)]
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for box in pod["containers"]:
            assert box["securityContext"]["readOnlyRootFilesystem"]
            assert box["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not box["securityContext"]["allowPrivilegeEscalation"]


@each_example
def test_no_right_is_a_wildcard(example):
    for found in rendered(example):
        if found["kind"] in ("Role", "ClusterRole"):
            assert "*" not in json.dumps(found["rules"])
        assert found["kind"] not in ("ClusterRole", "ClusterRoleBinding")


@each_chart
def test_the_schema_names_every_value_and_no_other(chart):
    defaults = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))

    def compare(value, part, path):
        part = schema["$defs"][part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
        if not isinstance(value, dict) or "properties" not in part:
            return
        assert set(value) == set(part["properties"]) - {"global"}, path
        assert part["additionalProperties"] is False
        for name, inner in value.items():
            compare(inner, part["properties"][name], f"{path}.{name}")

    compare(defaults, schema, "")


@each_example
def test_no_pod_names_a_claim_twice(example):
    for found in with_templates(rendered(example)):
        for pod in pod_specs(found):
            volumes = [volume.get("persistentVolumeClaim") for volume in pod.get("volumes", [])]
            claims = [volume["claimName"] for volume in volumes if volume]
            assert len(claims) == len(set(claims)), found["metadata"]["name"]
