"""The service's settings, read from environment variables that begin with EAGER_LLM_."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from eager_llm.core.errors import UserError

PREFIX = "EAGER_LLM_"
SECRETS = ("api_key",)
FIXES = {
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "choose true or false",
}
BLANK = "is set, but blank: give the key, or unset the variable to serve without one"
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class ServiceSettings(BaseSettings):
    """The service's settings; the field `queue` is the variable EAGER_LLM_QUEUE, and so on.

    A variable that is empty or blank counts as not set, but for the key: an empty Secret must not
    open the service.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, allow_inf_nan=False)

    bundle: str = Field(description="path or fsspec URI of the bundle to serve")
    second_bundle: str = Field(
        "", description="path or fsspec URI of a bundle beside the first; empty: none"
    )
    features: Path | None = Field(
        None, description="folder of the published features; empty: users cannot be looked up"
    )
    cache: Path | None = Field(
        None,
        description="folder for bundles fetched by URI; empty: the system's temporary folder",
    )
    api_key: SecretStr | None = Field(
        None, description="the key that requests must carry; empty: none"
    )
    deadline_ms: int = Field(
        1000, ge=1, le=50_000, description="after it the fallback ranking answers"
    )
    features_ms: int = Field(300, ge=1, description="after it a user's history is given up")
    queue: int = Field(128, ge=1, description="requests that may wait for the decoder")
    batch: int = Field(64, ge=1, description="requests decoded together, at most")
    rate: float = Field(
        0.0, ge=0, description="requests a second for each client, on average; 0: no bound"
    )
    max_body_bytes: int = Field(1 << 20, ge=1, description="size of a request, at most")
    describe: bool = Field(
        True,
        description="whether the model writes and searches texts; it takes a second copy of the"
        " weights",
    )
    log_level: LogLevel = "INFO"

    @classmethod
    def read(cls, **values: Any) -> "ServiceSettings":
        """Read the environment.

        Args:
            values: fields to take from here instead.

        Raises:
            UserError: values do not fit; a line each names the variable, the value and the fix.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            lines = [_fault(details) for details in error.errors()]
            raise UserError("the environment has mistakes:\n  " + "\n  ".join(lines)) from None

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Strip texts, and drop those that are empty."""
        stripped: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, str):
                value = value.strip()
            if value == "" and name in SECRETS:
                raise PydanticCustomError("blank_secret", BLANK, {"name": name})
            if value != "":
                stripped[name] = value
        if isinstance(stripped.get("log_level"), str):
            stripped["log_level"] = stripped["log_level"].upper()
        return stripped


VARIABLES = {name: f"{PREFIX}{name.upper()}" for name in ServiceSettings.model_fields}


def _fault(details: ErrorDetails) -> str:
    """Return a line on one mistake: the variable, its value, and what it may be."""
    name = str(details["loc"][0]) if details["loc"] else str(details["ctx"]["name"])
    variable = VARIABLES.get(name, name)
    if details["type"] == "missing":
        description = ServiceSettings.model_fields[name].description
        return f"{variable} is not set: give the {description}"
    message = details["msg"].replace("Input should be", "must be")
    fix = FIXES.get(details["type"], message)
    if name in SECRETS:
        return f"{variable}: {fix}"
    return f"{variable}={details['input']}: {fix}"
