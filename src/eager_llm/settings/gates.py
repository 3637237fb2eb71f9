"""Settings of the section `gates`."""

from pydantic import Field

from eager_llm.core.settings_model import Section


class GateSettings(Section):
    """Thresholds of the data gates; a run that misses one stops before anything is trained."""

    min_user_events: int = Field(
        default=3,
        ge=1,
        description="events that every user must have after the k-core",
    )
    min_users: int = Field(
        default=10,
        ge=1,
        description="users that must be left after the k-core",
    )
    min_text_share: float = Field(
        default=0.9,
        ge=0.0,
        le=1.0,
        description=(
            "share of items with a title, description, brand or categories "
            "(checked where the semantic source is used)"
        ),
    )
    baseline: str = Field(
        default="",
        description=(
            "validated tables of an accepted run, whose sizes and distributions"
            " are held against; none: no drift gate"
        ),
    )
    size_tolerance: float = Field(
        default=0.5,
        ge=0.0,
        description=("share by which events, users and items may differ from the accepted run"),
    )
    min_catalogue_kept: float = Field(
        default=0.8,
        ge=0.0,
        le=1.0,
        description="share of the accepted run's items that must still be there",
    )
    max_drift: float = Field(
        default=0.25,
        ge=0.0,
        description=("population stability index that popularity, text and length may reach"),
    )
    waived: list[str] = Field(
        default=[],
        description=(
            "gates that may fail: a person's decision, kept in the report and the settings"
        ),
    )
