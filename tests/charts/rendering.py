"""Rendering charts with Helm's own library; run as a script (`make goldens`), it writes the golden copies anew."""

import json
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import referencing
import yaml
from helm_python import _native

CHARTS = Path(__file__).resolve().parents[2] / "charts"
GOLDEN = Path(__file__).with_name("golden")
# Of objects that no package carries, the fields that the project uses; files name one another by $ref.
CRDS = {
    p.stem: json.loads(p.read_text(encoding="utf-8"))
    for p in Path(__file__).with_name("crds").glob("*.json")
}
_REGISTRY = referencing.Registry().with_resources(
    (f"{name}.json", referencing.jsonschema.DRAFT202012.create_resource(schema))
    for name, schema in CRDS.items()
)
# Image volumes are on by default from 1.35.
OLDEST = {"gpu-production": (1, 35)}
USUAL_VERSION = "1.35"


def versions() -> list[str]:
    """Return the versions of Kubernetes whose schemas are there, from 1.29."""
    found = {
        kubernetes_validate.utils.major_minor(version)
        for version in kubernetes_validate.utils.all_versions()
    }
    return sorted((v for v in found if number(v) >= (1, 29)), key=number)


def number(version: str) -> tuple[int, ...]:
    """Return a version as numbers, to compare by."""
    return tuple(map(int, version.split(".")))


def examples() -> list[Path]:
    """Return every example file of every chart."""
    return sorted(CHARTS.glob("*/examples/*.yaml"))


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `more` laid over it, as several value files are."""
    result = dict(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def values(example: Path, *assignments: str) -> dict[str, Any]:
    """Return an example's values, with assignments as in `--set` laid over them."""
    result = yaml.safe_load(example.read_text(encoding="utf-8"))
    for assignment in assignments:
        result = merged(result, helm_python.parse_set_string(assignment))
    return result


def render(chart: Path, given: dict[str, Any], version: str = USUAL_VERSION) -> dict[str, str]:
    """Return each template's text, as `helm template --kube-version` does.

    The SDK's public `render` has no such option; its native call does.
    """
    options = {"name": "demo", "namespace": "shop", "kube_version": f"v{version}.0"}
    with helm_python.Chart.load(chart) as loaded:
        loaded.validate_schema(given)
        answer = _native.call_string(
            "helm_render", loaded._raw(), json.dumps(given), json.dumps(options)
        )
    return json.loads(answer)


def objects(rendered: dict[str, str]) -> list[dict[str, Any]]:
    """Return the objects of rendered templates, sorted by kind and name."""
    texts = (text for name, text in rendered.items() if not name.endswith("NOTES.txt"))
    found = [one for text in texts for one in yaml.safe_load_all(text) if one]
    return sorted(found, key=lambda one: (one["kind"], one["metadata"]["name"]))


def check_custom(found: dict[str, Any]) -> None:
    """Refuse an object of a kind of `CRDS` that its schema does not allow."""
    jsonschema.Draft202012Validator(CRDS[found["kind"].lower()], registry=_REGISTRY).validate(found)


def check(found: dict[str, Any], version: str) -> None:
    """Refuse an object that a version of Kubernetes, or the schema of its kind, does not allow."""
    if found["kind"].lower() not in CRDS:
        kubernetes_validate.validate(found, version, strict=True)
        return
    check_custom(found)
    for pod in pod_specs(found):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        kubernetes_validate.validate(whole, version, strict=True)


def pod_specs(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the specs of the pods that an object stands for, also those inside of Ray's objects."""
    spec = found.get("spec", {})
    if found["kind"] == "Pod":
        return [spec]
    if found["kind"] == "RayJob":
        inner = {"kind": "RayCluster", "spec": spec.get("rayClusterSpec", {"headGroupSpec": {}})}
        return [spec["submitterPodTemplate"]["spec"], *pod_specs(inner)]
    groups = [spec.get("headGroupSpec", {}), *spec.get("workerGroupSpecs", [])]
    templates = [part["template"] for part in [spec, *groups] if "template" in part]
    return [template["spec"] for template in templates if "spec" in template]


def golden_path(example: Path) -> Path:
    """Return where an example's golden copy lies."""
    return GOLDEN / example.parents[1].name / example.name


def golden_text(example: Path) -> str:
    """Return what an example renders to, notes last."""
    rendered = render(example.parents[1], values(example))
    notes = next(text for name, text in rendered.items() if name.endswith("NOTES.txt"))
    lines = "".join(f"# {line}".rstrip() + "\n" for line in notes.strip().splitlines())
    return (
        yaml.safe_dump_all(objects(rendered), sort_keys=True, width=120, allow_unicode=True)
        + "---\n"
        + lines
    )


if __name__ == "__main__":
    for one in examples():
        golden_path(one).parent.mkdir(parents=True, exist_ok=True)
        golden_path(one).write_text(golden_text(one), encoding="utf-8")
        print(golden_path(one))
