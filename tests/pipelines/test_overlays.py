"""Each overlay builds with `kubectl kustomize`, is valid, and grants no more than is meant."""

import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "charts"))
from rendering import check, versions

from pipelines.cluster.compile import MANIFESTS, PIPELINES, TARGETS
from pipelines.cluster.versions import version_name

OVERLAYS = {"laptop": "kubeflow", "cpu": "eager-llm", "gpu": "eager-llm"}
needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed"
)


def built(folder):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_and_is_valid_on_every_kubernetes(overlay):
    found = built(ROOT / "pipelines" / "overlays" / overlay)
    for version in versions():
        for one in found:
            check(one, version)
    scoped = [one for one in found if one["kind"] != "Namespace"]
    assert {one["metadata"]["namespace"] for one in scoped} == {OVERLAYS[overlay]}
    (submitter,) = [one for one in found if one["kind"] == "RoleBinding"]
    assert submitter["subjects"][0]["namespace"] == OVERLAYS[overlay]
    names = [one["metadata"]["name"] for one in found if one["kind"] == "PipelineVersion"]
    folder = MANIFESTS / "cuda" if overlay == "gpu" else MANIFESTS
    assert sorted(names) == sorted(version_name(folder / name) for name in PIPELINES)
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)


@needs_kubectl
def test_quotas_stand_in_the_namespace_of_the_projects_own_only():
    def quota(overlay):
        found = [
            one
            for one in built(ROOT / "pipelines" / "overlays" / overlay)
            if one["kind"] == "ResourceQuota"
        ]
        return found[0]["spec"]["hard"] if found else None

    assert quota("laptop") is None
    assert (quota("cpu")["requests.nvidia.com/gpu"], quota("gpu")["requests.nvidia.com/gpu"]) == (
        "0",
        "8",
    )


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_may_change_a_version_or_anything_by_a_wildcard(overlay):
    rules = [
        rule
        for one in built(ROOT / "pipelines" / "overlays" / overlay)
        if one["kind"] == "Role"
        for rule in one["rules"]
    ]
    assert rules
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"update", "patch", "delete", "deletecollection"} & set(rule["verbs"])


def test_every_compiled_manifest_is_part_of_an_overlay():
    for folder in {MANIFESTS, *(file.parent for file in TARGETS)}:
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))[
            "resources"
        ]
        assert sorted(listed) == sorted(
            p.name for p in folder.glob("*.yaml") if p.name != "kustomization.yaml"
        )
