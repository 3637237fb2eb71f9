"""Settings of the section `report`."""

from pydantic import Field

from eager_llm.core.settings_model import Section


class ReportSettings(Section):
    """What the report of an evaluation shows of people."""

    users: int = Field(
        default=0,
        ge=0,
        le=100,
        description=(
            "users of the test split that the report shows with their id and history; 0: it shows "
            "nobody, but what is recommended after popular items"
        ),
    )
