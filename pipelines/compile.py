"""Compile the pipeline for a cluster: pipelines/manifests, and pipelines/manifests/cuda for GPUs.

Overlays apply them: `kubectl apply -k pipelines/overlays/cpu`, or laptop, or gpu.

The version's name comes from the content, so that every change is a version of its own.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.graph_component import GraphComponent

from components.images import REGISTRY
from eager_llm.files import whole_file
from pipelines.placement import Target, compiled_for
from pipelines.recommender import recommender

MANIFESTS = Path(__file__).with_name("manifests")
NAME = "eager-llm-recommender"
TARGETS = {
    MANIFESTS / "recommender.yaml": Target(),
    MANIFESTS / "cuda" / "recommender.yaml": Target(accelerator="cuda"),
}


def manifest(target: Target) -> str:
    """Return the `Pipeline` and `PipelineVersion` objects for a target as YAML."""
    pipeline = compiled_for(recommender, target)
    version = hashlib.sha256(_compile(pipeline, "version").encode()).hexdigest()[:10]
    return _compile(pipeline, f"{NAME}-{version}")


def _compile(pipeline: GraphComponent, version: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(
            pipeline,
            str(path),
            kubernetes_manifest_format=True,
            kubernetes_manifest_options=KubernetesManifestOptions(
                pipeline_name=NAME, pipeline_version_name=version, include_pipeline_manifest=True
            ),
        )
        return path.read_text(encoding="utf-8")


def main() -> None:
    """Write the manifests of the project, or one for a registry of one's own."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description=__doc__)
    parser.add_argument("--registry", default=REGISTRY, help="what stands before the images' names")
    parser.add_argument("--out", type=Path, help="folder for the manifests; default: this project's own")
    asked = parser.parse_args()
    if asked.registry != REGISTRY and asked.out is None:
        parser.error("--registry: name a folder for these manifests with --out; the project's own stay as they are")
    for file, target in TARGETS.items():
        path = file if asked.out is None else asked.out / file.relative_to(MANIFESTS)
        with whole_file(path) as draft:
            draft.write_text(manifest(Target("cluster", target.accelerator, asked.registry)), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
