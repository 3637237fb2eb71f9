"""Where the parts outside the library lie: pipelines, serving, the feature repository, charts."""

import os
from pathlib import Path

from eager_llm.core.errors import UserError

HOME_VARIABLE = "EAGER_LLM_HOME"
PARTS = ("pipelines", "serving", "feature_repo")
# Where the wheel holds them.
_IN_WHEEL = "_project"


def project_home() -> Path:
    """Return the folder with `pipelines`, `serving`, `feature_repo` and `charts`.

    It is the folder that EAGER_LLM_HOME names; or the checkout that this library belongs to; or, in
    an installed wheel, a folder of the library.

    Raises:
        UserError: none of them holds the parts.
    """
    override = os.environ.get(HOME_VARIABLE)
    if override:
        home = Path(override)
        if not _holds_parts(home):
            raise UserError(
                f"{HOME_VARIABLE} = {home}: holds no {' and '.join(PARTS)}; name a checkout of the "
                "project, or unset it"
            )
        return home
    library = Path(__file__).resolve().parents[1]
    checkout = library.parents[1]
    for home in (checkout, library / _IN_WHEEL):
        if _holds_parts(home):
            return home
    raise UserError(
        f"{library}: neither a checkout nor a whole wheel: {', '.join(PARTS)} are missing; install "
        f"the project again, or set {HOME_VARIABLE} to a checkout"
    )


def _holds_parts(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in PARTS)
