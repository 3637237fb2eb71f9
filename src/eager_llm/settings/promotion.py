"""Settings of the section `promotion`."""

from typing import Literal

from pydantic import Field

from eager_llm.core.settings_model import Section


class PromotionSettings(Section):
    """How much worse than the running bundle a new one may be, when chance has had its say.

    A measure's loss is taken at the far end of its confidence interval: what cannot be told from a loss beyond
    the tolerance is refused, too.
    """

    metric: Literal["recall@1", "ndcg@1", "recall@5", "ndcg@5", "recall@10", "ndcg@10"] = Field(
        default="ndcg@10",
        description="metric of the recommendations that decides",
    )
    tolerance: float = Field(
        default=0.05,
        ge=0.0,
        le=1.0,
        description="share of the running bundle's metric that may be lost",
    )
    language_tolerance: float = Field(
        default=0.05,
        ge=0.0,
        le=1.0,
        description=(
            "language that may be lost: points of right answers and overlap (of"
            " 1), share of the log perplexity"
        ),
    )
    latency_tolerance: float = Field(
        default=0.25,
        ge=0.0,
        description="share by which an answer may take longer",
    )
    confidence: float = Field(
        default=0.95,
        ge=0.5,
        le=0.999,
        description="one-sided confidence of the bounds",
    )
    resamples: int = Field(
        default=2000,
        ge=100,
        description="resamples of the paired bootstrap",
    )
    latency_requests: int = Field(
        default=40,
        ge=1,
        description="histories whose answers are timed, each by both bundles in turn",
    )
