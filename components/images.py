"""The images that the steps and the service run in: the one module that names them."""

from dataclasses import dataclass
from typing import Literal

REGISTRY = "eager-llm"
TAG = "0.1.0"
# The user id that the processes run as: no machine has an account for it.
USER = 65532

Accelerator = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Image:
    """An image of the project.

    Attributes:
        name: what follows the registry.
        extras: of pyproject.toml, what is installed beside the library.
        folders: of the project, which the image holds under /app as a checkout does.
        target: the stage of components/Containerfile.
    """

    name: str
    extras: tuple[str, ...]
    folders: tuple[str, ...]
    target: Literal["steps", "serving"]

    def reference(self, accelerator: Accelerator = "cpu", registry: str = REGISTRY) -> str:
        """Return the name and tag of the build for an accelerator, as a registry holds it."""
        suffix = "" if accelerator == "cpu" else f"-{accelerator}"
        return f"{registry}/{self.name}:{TAG}{suffix}"


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
