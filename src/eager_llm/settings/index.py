"""Settings of the section `index`."""

from typing import Literal

from pydantic import Field

from eager_llm.core.settings_model import Section

Source = Literal["behaviour", "semantic"]
SOURCES: tuple[Source, ...] = ("behaviour", "semantic")


class IndexSettings(Section):
    """The item index: balanced hierarchical k-means for each source."""

    sources: list[Source] = Field(
        default=["semantic", "behaviour"],
        description="sources in the order of their tokens",
    )
    branching: int = Field(
        default=256,
        ge=2,
        le=65536,
        description="children of a node (k)",
    )
    iterations: int = Field(
        default=16,
        ge=1,
        description="k-means iterations at each level, on a sample of 256 items a label",
    )
    full_iterations: int = Field(
        default=4,
        ge=0,
        description="further iterations of the first level, over all items",
    )
    builder: Literal["balanced", "residual", "product"] = Field(
        default="balanced",
        description=(
            "balanced: even shares at every level (the paper); residual: "
            "residual k-means; product: product quantisation; none has "
            "collisions"
        ),
    )
    restarts: int = Field(
        default=3,
        ge=1,
        description="starts of the first level, of which the best goes on",
    )
    precision: Literal["float32", "bf16"] = Field(
        default="bf16",
        description=(
            "factors of the distances: bf16 (faster where the processor has it,"
            " trees as good), or float32"
        ),
    )
    workers: int = Field(
        default=2,
        ge=0,
        description="Ray workers; 0 builds in this process without Ray",
    )
