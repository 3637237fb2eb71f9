"""Compile the pipelines for a cluster: pipelines/manifests, and pipelines/manifests/cuda for GPUs.

Overlays apply them: `kubectl apply -k pipelines/overlays/cpu`, or laptop, or gpu.

A version's name comes from its content, so that every change is a version of its own.
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
TARGETS: dict[Path, tuple[GraphComponent, Target]] = {}
for _name, _pipeline in PIPELINES.items():
    TARGETS[MANIFESTS / _name] = (_pipeline, Target())
    TARGETS[MANIFESTS / "cuda" / _name] = (_pipeline, Target(accelerator="cuda"))


def manifest(pipeline: GraphComponent, target: Target) -> str:
    """Return the `Pipeline` and `PipelineVersion` objects of a pipeline for a target as YAML."""
    placed = compiled_for(pipeline, target)
    version = hashlib.sha256(_compile(placed, "version").encode()).hexdigest()[:10]
    return _compile(placed, f"{placed.name}-{version}")


def _compile(pipeline: GraphComponent, version: str) -> str:
    options = KubernetesManifestOptions(
        pipeline_name=pipeline.name, pipeline_version_name=version, include_pipeline_manifest=True
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(
            pipeline,
            str(path),
            kubernetes_manifest_format=True,
            kubernetes_manifest_options=options,
        )
        return path.read_text(encoding="utf-8")


def main() -> None:
    """Write the manifests of the project, or those for a registry of one's own."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.cluster.compile", description=__doc__
    )
    parser.add_argument("--registry", default=REGISTRY, help="prefix of the images' names")
    parser.add_argument(
        "--out", type=Path, help="folder for the manifests; default: this project's own"
    )
    options = parser.parse_args()
    if options.registry != REGISTRY and options.out is None:
        parser.error(
            "--registry: name a folder for these manifests with --out; the project's own stay as "
            "they are"
        )
    out = options.out or MANIFESTS
    for file, (pipeline, target) in TARGETS.items():
        path = out / file.relative_to(MANIFESTS)
        text = manifest(pipeline, Target("cluster", target.accelerator, options.registry))
        with whole_file(path) as draft:
            draft.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
