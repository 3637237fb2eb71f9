"""Where the parts outside the library lie: pipelines, serving and the feature repository."""

import os
from pathlib import Path

from eager_llm.core.errors import UserError

HOME_VARIABLE = "EAGER_LLM_HOME"


def project_home() -> Path:
    """Return the folder with `pipelines`, `serving` and `feature_repo`.

    It is EAGER_LLM_HOME, or the checkout that this library was installed from in place.

    Raises:
        UserError: neither is such a folder.
    """
    named = os.environ.get(HOME_VARIABLE)
    home = Path(named) if named else Path(__file__).resolve().parents[3]
    if not all((home / part).is_dir() for part in ("pipelines", "serving", "feature_repo")):
        raise UserError(
            f"{home}: holds no pipelines, serving and feature_repo; work in a checkout of the project, "
            f"or set {HOME_VARIABLE} to one"
        )
    return home
