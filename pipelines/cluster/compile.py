"""Compile the pipelines for a cluster: pipelines/manifests, and pipelines/manifests/cuda for GPUs.

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
from eager_llm.core.files import whole_file
from pipelines.graphs.placement import Target, compiled_for
from pipelines.graphs.recommender import recommender
from pipelines.graphs.refresh import refresh

MANIFESTS = Path(__file__).parents[1] / "manifests"
PIPELINES = {"recommender.yaml": recommender, "refresh.yaml": refresh}
TARGETS = {
    MANIFESTS / folder / name: (pipeline, target)
    for folder, target in (("", Target()), ("cuda", Target(accelerator="cuda")))
    for name, pipeline in PIPELINES.items()
}


def manifest(pipeline: GraphComponent, target: Target) -> str:
    """Return the `Pipeline` and `PipelineVersion` objects of a pipeline for a target as YAML."""
    placed = compiled_for(pipeline, target)
    version = hashlib.sha256(_compile(placed, "version").encode()).hexdigest()[:10]
    return _compile(placed, f"{placed.name}-{version}")


def _compile(pipeline: GraphComponent, version: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(
            pipeline,
            str(path),
            kubernetes_manifest_format=True,
            kubernetes_manifest_options=KubernetesManifestOptions(
                pipeline_name=pipeline.name,
                pipeline_version_name=version,
                include_pipeline_manifest=True,
            ),
        )
        return path.read_text(encoding="utf-8")


def main() -> None:
    """Write the manifests of the project, or one for a registry of one's own."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.cluster.compile", description=__doc__
    )
    parser.add_argument("--registry", default=REGISTRY, help="what stands before the images' names")
    parser.add_argument(
        "--out", type=Path, help="folder for the manifests; default: this project's own"
    )
    asked = parser.parse_args()
    if asked.registry != REGISTRY and asked.out is None:
        parser.error(
            "--registry: name a folder for these manifests with --out; the project's own stay as they are"
        )
    for file, (pipeline, target) in TARGETS.items():
        path = file if asked.out is None else asked.out / file.relative_to(MANIFESTS)
        with whole_file(path) as draft:
            draft.write_text(
                manifest(pipeline, Target("cluster", target.accelerator, asked.registry)),
                encoding="utf-8",
            )
        print(path)


if __name__ == "__main__":
    main()
