"""Settings of the section `ray`."""

from pydantic import Field

from eager_llm.core.settings_model import Section


class RaySettings(Section):
    """Where index building and tuning run; no part of what comes out."""

    cluster: str = Field(
        default="local",
        description=(
            "local: Ray on this machine, as far as workers ask for it; "
            "http://host:8265: a standing cluster, by the address of its "
            "dashboard; rayjob: a cluster of the step's own, made by KubeRay"
        ),
    )
    template: str = Field(
        default="eager-llm-ray",
        description="rayjob: ConfigMap of the namespace with the job that is filled in",
    )
    shared: str = Field(
        default="",
        description=(
            "folder that every pod of the Ray cluster reaches, for what workers"
            " read and where a lost one goes on; none: the cluster has one "
            "machine"
        ),
    )
    start_minutes: float = Field(
        default=20.0,
        ge=0.01,
        description="time in which the cluster must be there and the job running",
    )
    hours: float = Field(
        default=48.0,
        ge=0.01,
        description="time after which a job is ended",
    )
    away_minutes: float = Field(
        default=5.0,
        ge=0.01,
        description="time for which the API that tells of the job may be out of reach",
    )
    poll_seconds: float = Field(
        default=3.0,
        ge=0.01,
        description="time between two looks at the job",
    )
