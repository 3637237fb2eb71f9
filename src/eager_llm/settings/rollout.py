"""Settings of the section `rollout`."""

from pydantic import Field

from eager_llm.core.settings_model import Section


class RolloutSettings(Section):
    """Where a better bundle goes: a Helm release, as a canary."""

    release: str = Field(
        default="",
        description=(
            "Helm release of the service; none: the bundle only takes its place in the run's folder"
        ),
    )
    namespace: str = Field(
        default="default",
        description="its namespace",
    )
    chart: str = Field(
        default="charts/eager-llm-serving",
        description="its chart: a folder, an archive or an oci:// address",
    )
    store: str = Field(
        default="",
        description=("folder or fsspec URI below which the release finds a bundle by its version"),
    )
    weight: int = Field(
        default=10,
        ge=0,
        le=100,
        description="percent of the requests that the canary takes",
    )
    timeout: int = Field(
        default=1200,
        ge=1,
        description="seconds that Helm waits for the pods",
    )
