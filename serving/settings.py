"""What the service is told by its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from eager_llm.core.errors import UserError
from eager_llm.features.feature_store import FOLDER_VARIABLE


@dataclass(frozen=True)
class ServiceSettings:
    """The service's settings; each is read from the environment variable in `VARIABLES`.

    Attributes:
        bundle: path or fsspec URI of the bundle.
        second_bundle: of a second one, shown beside the first on the page; empty: none.
        features: folder of the published features; empty: users cannot be looked up.
        cache: folder into which bundles are fetched by URI; empty: the system's temporary folder.
        api_key: what requests must carry; empty: none is asked for.
        deadline_ms: after which the fallback ranking answers.
        features_ms: after which a user's history is given up.
        queue: requests that may wait for the decoder.
        batch: requests decoded together, at most.
        rate: requests a second for each client, on average; 0: no bound.
        max_body_bytes: of a request.
        describe: whether texts are written and searched by the model; they take a second copy of its weights.
        log_level: of the log.
    """

    bundle: str
    second_bundle: str = ""
    features: str = ""
    cache: str = ""
    api_key: str = ""
    deadline_ms: int = 1000
    features_ms: int = 300
    queue: int = 128
    batch: int = 64
    rate: float = 0.0
    max_body_bytes: int = 1 << 20
    describe: bool = True
    log_level: str = "INFO"

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> "ServiceSettings":
        """Read the environment. Raises UserError where a value does not fit, naming the variable."""
        found: dict[str, object] = {}
        for spec in fields(cls):
            text = environment.get(VARIABLES[spec.name], "").strip()
            if text:
                found[spec.name] = _typed(VARIABLES[spec.name], spec.type, text)
        if "bundle" not in found:
            raise UserError(f"{VARIABLES['bundle']} must name the bundle to serve, by path or URI")
        return cls(**found)  # type: ignore[arg-type]

    @property
    def features_folder(self) -> Path | None:
        """The folder of the published features, or None."""
        return Path(self.features) if self.features else None


VARIABLES = {spec.name: f"EAGER_LLM_{spec.name.upper()}" for spec in fields(ServiceSettings)}
assert VARIABLES["features"] == FOLDER_VARIABLE  # noqa: S101
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def _typed(variable: str, kind: object, text: str) -> object:
    if kind is str:
        if variable == VARIABLES["log_level"] and text.upper() not in LEVELS:
            raise UserError(f"{variable}={text}: choose from {', '.join(LEVELS)}")
        return text.upper() if variable == VARIABLES["log_level"] else text
    if kind is bool:
        if text.lower() not in ("0", "1", "true", "false"):
            raise UserError(f"{variable}={text}: choose true or false")
        return text.lower() in ("1", "true")
    try:
        value = int(text) if kind is int else float(text)
    except ValueError:
        raise UserError(f"{variable}={text}: expected a number") from None
    least = 0 if variable == VARIABLES["rate"] else 1
    if not least <= value < float("inf"):
        raise UserError(f"{variable}={text}: must be at least {least}")
    return value
