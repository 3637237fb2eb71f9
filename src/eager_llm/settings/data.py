"""Settings of the section `data`."""

from typing import Literal

from pydantic import Field

from eager_llm.core.settings_model import Section


class DataSettings(Section):
    """What is kept of the log, and how it is split."""

    min_interactions: int = Field(
        default=5,
        ge=1,
        description="k-core: every user and item keeps at least so many events",
    )
    bad_rows: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description=(
            "share of unreadable rows that an import drops into its report; with more it is refused"
        ),
    )
    event_types: list[str] = Field(
        default=[],
        description=(
            "event types that are kept, each as type=weight (view=1,purchase=5); none: all"
        ),
    )
    merge_items_by: list[Literal["title", "description", "brand", "categories"]] = Field(
        default=[],
        description="items that are equal in all of these columns become one",
    )
    clean_markup: bool = Field(
        default=True,
        description="take HTML out of texts and resolve its entities",
    )
    max_daily_events: int = Field(
        default=0,
        ge=0,
        description=("users with more events on one day (UTC) are taken for bots; 0: nobody is"),
    )
    session_gap_minutes: float = Field(
        default=0.0,
        ge=0.0,
        description="a pause that starts a new session, kept as a column; 0: none",
    )
    memory_gb: float = Field(
        default=2.0,
        ge=0.25,
        description=("memory that importing and validating may take before they spill to disk"),
    )
    workers: int = Field(
        default=0,
        ge=0,
        description=(
            "Ray workers that import, a processor and data.memory_gb each; 0 "
            "imports in this process without Ray"
        ),
    )
    shared_folder: str = Field(
        default="",
        description=(
            "folder for the workers' files, which all of them reach; none: beside the tables"
        ),
    )
    max_history: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="items of history that the model sees",
    )
    split: Literal["leave_one_out", "temporal", "refresh"] = Field(
        default="leave_one_out",
        description=(
            "leave_one_out: each user's last event is test, the one before "
            "validation; temporal: one cut in time for all users; refresh: the "
            "same cut, through what came after the log of the running bundle "
            "(leave_one_out for a first one)"
        ),
    )
    validation_share: float = Field(
        default=0.1,
        ge=0.0,
        le=0.5,
        description=("temporal and refresh split: share of (the increment) events in validation"),
    )
    test_share: float = Field(
        default=0.1,
        ge=0.0,
        le=0.5,
        description="temporal and refresh split: share of (the increment) events in test",
    )
