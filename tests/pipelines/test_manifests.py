import pytest
import yaml

from components.images import PYTHON_DATA, PYTHON_TRAINING
from pipelines.compile import TARGET, TARGETS, manifest


@pytest.mark.parametrize("target", TARGETS, ids=lambda path: path.stem)
def test_the_committed_manifest_is_what_the_code_compiles_to(target):
    assert target.read_text(encoding="utf-8") == manifest(target), "run: make manifests"


def test_the_manifest_holds_a_pipeline_and_a_version_of_its_own():
    pipeline, version = yaml.safe_load_all(TARGET.read_text(encoding="utf-8"))
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"]
    assert version["metadata"]["name"].startswith("eager-llm-recommender-")
    spec = version["spec"]["pipelineSpec"]
    executors = spec["deploymentSpec"]["executors"]
    assert len(executors) == 7
    assert {e["container"]["image"] for e in executors.values()} == {PYTHON_DATA, PYTHON_TRAINING}
    assert not any("pip install" in " ".join(e["container"]["command"]) for e in executors.values())


def test_no_step_of_a_night_is_taken_from_an_earlier_one_and_the_last_one_promotes():
    pipeline, version = yaml.safe_load_all(TARGET.with_name("nightly.yaml").read_text(encoding="utf-8"))
    assert pipeline["metadata"]["name"] == version["spec"]["pipelineName"] == "eager-llm-nightly"
    tasks = version["spec"]["pipelineSpec"]["root"]["dag"]["tasks"]
    assert len(tasks) == 8
    assert not any(task.get("cachingOptions") for task in tasks.values())
    depended_on = {name for task in tasks.values() for name in task.get("dependentTasks", [])}
    assert set(tasks) - depended_on == {"promote-bundle"}
