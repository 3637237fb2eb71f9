"""Settings of the section `backbone`."""

from typing import Literal

from pydantic import Field

from eager_llm.core.settings_model import Section


class BackboneSettings(Section):
    """The language model that is tuned."""

    model: str = Field(
        default="small-llama",
        description="small-llama (made on the spot), or the id or path of any causal LM",
    )
    layers: int = Field(
        default=3,
        ge=1,
        description="small-llama: layers",
    )
    hidden: int = Field(
        default=128,
        ge=8,
        description="small-llama: width",
    )
    heads: int = Field(
        default=4,
        ge=1,
        description="small-llama: attention heads",
    )
    vocabulary: int = Field(
        default=2000,
        ge=300,
        description="small-llama: text tokens of the tokenizer trained on the catalogue",
    )
    new_tokens: Literal["noise", "centroids"] = Field(
        default="noise",
        description=(
            "where the index tokens' embeddings start: noise, or their centroids in the item index"
        ),
    )
