"""Compile the pipeline for a cluster: `kubectl apply -f pipelines/manifests`.

The version's name comes from the content, so that every change is a version of its own.
"""

import hashlib
import tempfile
from pathlib import Path

from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from eager_llm.files import whole_file
from pipelines.recommender import recommender

TARGET = Path(__file__).with_name("manifests") / "recommender.yaml"
NAME = "eager-llm-recommender"


def manifest() -> str:
    """Return the `Pipeline` and `PipelineVersion` objects as YAML."""
    version = hashlib.sha256(_compile("version").encode()).hexdigest()[:10]
    return _compile(f"{NAME}-{version}")


def _compile(version: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(
            recommender,
            str(path),
            kubernetes_manifest_format=True,
            kubernetes_manifest_options=KubernetesManifestOptions(
                pipeline_name=NAME, pipeline_version_name=version, include_pipeline_manifest=True
            ),
        )
        return path.read_text(encoding="utf-8")


def main() -> None:
    """Write the manifest."""
    with whole_file(TARGET) as draft:
        draft.write_text(manifest(), encoding="utf-8")
    print(TARGET)


if __name__ == "__main__":
    main()
