"""Compile the pipelines for a cluster: `kubectl apply -f pipelines/manifests`.

The version's name comes from the content, so that every change is a version of its own.
"""

import hashlib
import tempfile
from pathlib import Path

from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from eager_llm.files import whole_file
from pipelines.nightly import nightly
from pipelines.recommender import recommender

MANIFESTS = Path(__file__).with_name("manifests")
TARGET = MANIFESTS / "recommender.yaml"
TARGETS = {TARGET: recommender, MANIFESTS / "nightly.yaml": nightly}


def manifest(target: Path = TARGET) -> str:
    """Return the `Pipeline` and `PipelineVersion` objects of a manifest as YAML."""
    version = hashlib.sha256(_compile(target, "version").encode()).hexdigest()[:10]
    return _compile(target, f"{TARGETS[target].name}-{version}")


def _compile(target: Path, version: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(
            TARGETS[target],
            str(path),
            kubernetes_manifest_format=True,
            kubernetes_manifest_options=KubernetesManifestOptions(
                pipeline_name=TARGETS[target].name, pipeline_version_name=version, include_pipeline_manifest=True
            ),
        )
        return path.read_text(encoding="utf-8")


def main() -> None:
    """Write the manifests."""
    for target in TARGETS:
        with whole_file(target) as draft:
            draft.write_text(manifest(target), encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main()
