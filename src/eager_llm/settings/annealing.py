"""Settings of the section `annealing`."""

from pydantic import Field

from eager_llm.core.settings_model import Section


class AnnealingSettings(Section):
    """Stage 2: the annealing adapter, LoRA on every linear layer, `seqrec` only."""

    epochs: int = Field(
        default=1,
        ge=0,
        description="passes over the trajectories; 0 leaves the stage out",
    )
    learning_rate: float = Field(
        default=2e-4,
        ge=0.0,
        description="AdamW's learning rate, falling to zero",
    )
    rank: int = Field(
        default=8,
        ge=1,
        description="LoRA's r",
    )
    alpha: int = Field(
        default=32,
        ge=1,
        description="LoRA's alpha",
    )
    dropout: float = Field(
        default=0.05,
        ge=0.0,
        le=1.0,
        description="LoRA's dropout",
    )
