"""Settings of the section `decoding`."""

from typing import Literal

from pydantic import Field

from eager_llm.core.settings_model import Section

Normalisation = Literal["vocabulary", "level", "allowed"]
NORMALISATIONS: tuple[Normalisation, ...] = ("vocabulary", "level", "allowed")


class DecodingSettings(Section):
    """Constrained beam search."""

    beams: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="beams; at least as many as items asked for are used",
    )
    batch: int = Field(
        default=64,
        ge=1,
        description="requests decoded at a time",
    )
    normalise: Normalisation = Field(
        default="allowed",
        description=(
            "what the probability of an item's token is taken over: vocabulary "
            "(all tokens); level (the tokens that stand at that level of the "
            "index); allowed (those that lead on to an existing item; tokens "
            "that leave no choice then cost nothing and count nothing)"
        ),
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description=(
            "what a bundle's model computes in; bfloat16 is faster where the "
            "machine has it and changes a few answers (docs/decoding.md says "
            "how many)"
        ),
    )
    adapter_strength: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        description=(
            "scale of the annealing adapter: 1 as trained, for recommendations; 0 off, for language"
        ),
    )
    prefix_cache_mb: int = Field(
        default=64,
        ge=0,
        description="memory for the prompts of returning users; 0 remembers none",
    )
