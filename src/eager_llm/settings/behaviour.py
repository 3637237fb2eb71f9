"""Settings of the section `behaviour`."""

from pydantic import Field

from eager_llm.core.settings_model import Section


class BehaviourSettings(Section):
    """The Deep Interest Network whose item table is the behaviour embedding."""

    dim: int = Field(
        default=64,
        ge=2,
        description="width of the item embedding",
    )
    epochs: int = Field(
        default=4,
        ge=1,
        description="passes over the training part",
    )
    batch: int = Field(
        default=512,
        ge=1,
        description="examples a step",
    )
    negatives: int = Field(
        default=32,
        ge=1,
        description="sampled negative items a step, shared by the batch",
    )
    learning_rate: float = Field(
        default=2e-3,
        ge=0.0,
        description="Adam's learning rate",
    )
    warm_start: bool = Field(
        default=True,
        description="start the item table from the training part's co-occurrence counts",
    )
