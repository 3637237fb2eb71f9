"""Settings of the section `semantic`."""

from pydantic import Field

from eager_llm.core.settings_model import Section


class SemanticSettings(Section):
    """The text encoder whose output is the semantic embedding."""

    encoder: str = Field(
        default="tfidf-svd",
        description="tfidf-svd, or the id or path of any Hugging Face encoder",
    )
    dim: int = Field(
        default=128,
        ge=2,
        description="width of the tfidf-svd embedding (an encoder brings its own)",
    )
    batch: int = Field(
        default=64,
        ge=1,
        description="texts a step of a Hugging Face encoder",
    )
