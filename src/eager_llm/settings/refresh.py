"""Settings of the section `refresh`."""

from typing import Literal

from pydantic import Field

from eager_llm.core.settings_model import Section


class RefreshSettings(Section):
    """A night: what it trains on, and the drift from which on it builds everything anew."""

    validation_share: float = Field(
        default=0.2,
        ge=0.0,
        le=0.5,
        description=("share of the night's events, the latest but the test part, in validation"),
    )
    test_share: float = Field(
        default=0.4,
        ge=0.0,
        le=0.5,
        description=("share of the night's events, the latest, that both bundles are tested on"),
    )
    epochs: int = Field(
        default=2,
        ge=1,
        description="passes of the annealing adapter over the fresh trajectories",
    )
    learning_rate: float = Field(
        default=2e-4,
        ge=0.0,
        description="AdamW's learning rate for them, falling to zero",
    )
    replay: float = Field(
        default=1.0,
        ge=0.0,
        description=("older trajectories for each fresh one, so that the adapter does not forget"),
    )
    rebuild: Literal["drift", "always", "never"] = Field(
        default="drift",
        description=(
            "when everything is built anew: drift (where a measure below is "
            "passed), always, or never"
        ),
    )
    max_new_items: float = Field(
        default=0.25,
        ge=0.0,
        description=(
            "drift: items without a place in the tree when it was built, as a "
            "share of those that it was built on"
        ),
    )
    max_shift: float = Field(
        default=0.25,
        ge=0.0,
        description=(
            "drift: population stability index of the items' popularity and of "
            "the pauses between events, since the build"
        ),
    )
    max_unfit: float = Field(
        default=0.3,
        ge=0.0,
        le=1.0,
        description="drift: share of the items that a refresh of the index would move",
    )
