import re
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from components.images import IMAGES, PYTHON_DATA, PYTHON_TRAINING
from pipelines.cluster.compile import PIPELINES, TARGETS, manifest
from pipelines.graphs.placement import (
    CLAIM,
    ENVIRONMENT,
    GPU,
    STEPS,
    THREADS_VARIABLE,
    Target,
    step_name,
)
from pipelines.graphs.refresh import refresh

FILES = pytest.mark.parametrize("file", TARGETS, ids=lambda file: f"{file.parent.name}/{file.name}")


def parts(text):
    pipeline, version = yaml.safe_load_all(text)
    spec = version["spec"]["pipelineSpec"]
    return (
        pipeline,
        version,
        spec,
        version["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"],
    )


@pytest.fixture(scope="module", params=PIPELINES.values(), ids=lambda pipeline: pipeline.name)
def compiled(request):
    _, _, spec, platform = parts(manifest(request.param, Target()))
    _, _, cuda, cuda_platform = parts(manifest(request.param, Target(accelerator="cuda")))
    return spec, platform["executors"], cuda, cuda_platform["executors"]


def steps_of(spec):
    return {
        step_name(name.removeprefix("exec-")): e["container"]
        for name, e in spec["deploymentSpec"]["executors"].items()
    }


@FILES
def test_the_committed_manifest_is_what_the_code_compiles_to(file):
    assert file.read_text(encoding="utf-8") == manifest(*TARGETS[file]), "run: make manifests"


@FILES
def test_the_manifest_holds_a_pipeline_and_a_version_of_its_own(file):
    pipeline, version, spec, _ = parts(file.read_text(encoding="utf-8"))
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"]
    assert version["metadata"]["name"].startswith(f"{pipeline['metadata']['name']}-")
    executors = spec["deploymentSpec"]["executors"]
    suffix = "" if TARGETS[file][1].accelerator == "cpu" else "-cuda"
    assert {e["container"]["image"] for e in executors.values()} == {
        PYTHON_DATA + suffix,
        PYTHON_TRAINING + suffix,
    }
    assert not any("pip install" in " ".join(e["container"]["command"]) for e in executors.values())


def test_versions_for_cpu_and_cuda_are_told_apart():
    names = {parts(file.read_text(encoding="utf-8"))[1]["metadata"]["name"] for file in TARGETS}
    assert len(names) == len(TARGETS)


def test_every_step_has_its_row_and_gets_all_of_it(compiled):
    spec, platform, *_ = compiled
    executors = spec["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        step = name.removeprefix("exec-")
        row, container, task = (
            STEPS[step_name(step)],
            executor["container"],
            spec["root"]["dag"]["tasks"][step],
        )
        assert container["resources"]["resourceMemoryLimit"] == row.memory_limit
        assert container["resources"]["resourceMemoryRequest"] == row.memory
        assert container["resources"]["resourceCpuLimit"] == row.cpu[1]
        environment = {**ENVIRONMENT, **dict(row.environment), THREADS_VARIABLE: row.cpu[1]}
        assert {e["name"]: e["value"] for e in container["env"]} == environment
        uncached = spec["pipelineInfo"]["name"] == refresh.name
        assert task["cachingOptions"].get("enableCache", False) == (row.cached and not uncached)
        assert task.get("retryPolicy", {}).get("maxRetryCount", 0) == row.retries
        assert int(platform[name]["activeDeadlineSeconds"]) == row.timeout.total_seconds()
        assert platform[name]["securityContext"] == {"runAsNonRoot": True}
        claims = [mount["constant"] for mount in platform[name].get("pvcMount", [])]
        assert claims == ([CLAIM] if row.store else [])
        assert [s["secretName"] for s in platform[name].get("secretAsEnv", [])] == [
            secret for secret, _ in row.secrets
        ]
        assert all(s["optional"] for s in platform[name].get("secretAsEnv", []))


def test_no_row_is_left_over():
    named = set().union(
        *(steps_of(parts(manifest(one, Target()))[2]) for one in PIPELINES.values())
    )
    assert named == set(STEPS)


def test_what_fails_for_good_is_not_tried_again():
    # validate_data and pack_bundle do nothing but to run gates over what is there.
    assert STEPS["validate_data"].retries == STEPS["pack_bundle"].retries == 0
    assert STEPS["tune_model"].retries > 0


def test_gpus_are_asked_for_by_the_cuda_manifest_only(compiled):
    spec, _, cuda, platform = compiled
    assert not any("accelerator" in container["resources"] for container in steps_of(spec).values())
    asked = {
        name: container["resources"]["accelerator"]["resourceType"]
        for name, container in steps_of(cuda).items()
        if "accelerator" in container["resources"]
    }
    assert asked == {name: GPU for name in steps_of(cuda) if STEPS[name].gpus}
    tolerant = {
        step_name(name.removeprefix("exec-")) for name, e in platform.items() if "tolerations" in e
    }
    assert tolerant == set(asked)


def test_a_registry_of_ones_own_gets_manifests_of_its_own(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pipelines.cluster.compile",
        "--registry",
        "registry.example.com/shop",
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    images = set(
        re.findall(
            r"image: (\S+)", (tmp_path / "cuda" / "recommender.yaml").read_text(encoding="utf-8")
        )
    )
    assert images == {
        IMAGES[name].reference("cuda", "registry.example.com/shop") for name in ("data", "training")
    }
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--out" in refused.stderr


def test_no_step_of_a_refresh_is_taken_from_an_earlier_one_and_the_last_one_promotes():
    _, _, spec, _ = parts(manifest(refresh, Target()))
    tasks = spec["root"]["dag"]["tasks"]
    assert len(tasks) == 8
    assert not any(task.get("cachingOptions") for task in tasks.values())
    depended_on = {name for task in tasks.values() for name in task.get("dependentTasks", [])}
    assert set(tasks) - depended_on == {"promote-bundle"}
