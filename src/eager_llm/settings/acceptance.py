"""Settings of the section `acceptance`."""

from pydantic import Field

from eager_llm.core.settings_model import Section


class AcceptanceSettings(Section):
    """Thresholds of the bundle's gates; they apply when it is packed, so that changing them tunes nothing anew."""

    baseline: str = Field(
        default="",
        description=(
            "bundle of an accepted run, whose metrics are held against; none: no such gate"
        ),
    )
    max_metric_drop: float = Field(
        default=0.1,
        ge=0.0,
        le=1.0,
        description="share of the accepted bundle's test metrics that may be lost",
    )
    waived: list[str] = Field(
        default=[],
        description=(
            "gates of the bundle that may fail: a person's decision, kept in "
            "the report and the manifest"
        ),
    )
