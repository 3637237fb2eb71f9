import yaml

from components.images import PYTHON_DATA, PYTHON_TRAINING
from pipelines.compile import TARGET, manifest


def test_the_committed_manifest_is_what_the_code_compiles_to():
    assert TARGET.read_text(encoding="utf-8") == manifest(), "run: make manifests"


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
