"""The images that the steps and the service run in: the one place that names them."""

from dataclasses import dataclass
from typing import Literal

REGISTRY = "eager-llm"
TAG = "0.1.0"
# Who runs in them: nobody that a machine knows.
USER = 65532

Accelerator = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Image:
    """An image of the project.

    Attributes:
        name: what follows the registry.
        extras: of pyproject.toml, what is installed beside the library.
        parts: folders of the project that it holds, under /app as in a checkout.
        target: the stage of components/Containerfile.
    """

    name: str
    extras: tuple[str, ...]
    parts: tuple[str, ...]
    target: Literal["steps", "serving"]

    def reference(self, accelerator: Accelerator = "cpu", registry: str = REGISTRY) -> str:
        """Return the name and tag of the build for an accelerator, as a registry holds it."""
        return f"{registry}/{self.name}:{TAG}" + ("" if accelerator == "cpu" else f"-{accelerator}")


IMAGES = {
    # It also submits: the platform chart's schedule runs pipelines.cluster.submit in it.
    "data": Image(
        "python-data",
        ("data", "pipeline"),
        ("src/eager_llm", "feature_repo", "components", "pipelines"),
        "steps",
    ),
    # It also rolls bundles out: promote_bundle upgrades the serving chart's release.
    "training": Image(
        "python-training",
        ("training", "pipeline", "rollout"),
        ("src/eager_llm", "feature_repo", "charts"),
        "steps",
    ),
    "serving": Image(
        "serving", ("serving",), ("src/eager_llm", "feature_repo", "serving"), "serving"
    ),
}

PYTHON_DATA = IMAGES["data"].reference()
PYTHON_TRAINING = IMAGES["training"].reference()
SERVING = IMAGES["serving"].reference()
