"""The entry point of a Ray job: do a call of a step here, on the cluster. Started by `eager_llm.steps.distributed`."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from eager_llm.cluster.step_calls import StepCall, deliver, fetch, write_answer
from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.settings import Settings
from eager_llm.steps.distributed import STEPS


def main(arguments: list[str]) -> int:
    """Do the call, deliver what it made to where it belongs, and leave an answer.

    Returns:
        0, or 2 where the step refused its input; the answer and the log say why.
    """
    import eager_llm.steps.model  # noqa: F401  # its steps register themselves

    call = StepCall.decode(arguments[0])
    settings = Settings.from_dict(call.settings)
    step = STEPS[call.step]
    if settings.ray.shared:
        Path(settings.ray.shared).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{call.name}-", dir=settings.ray.shared or None))
    try:
        given: dict[str, Any] = {
            name: fetch(place, folder / name) for name, place in call.inputs.items()
        }
        made = {
            name: folder / "made" / name if "://" in p else Path(p)
            for name, p in call.outputs.items()
        }
        given |= made | {name: Path(place) for name, place in call.shared_folders.items()}
        say(f"step {call.step} on the Ray cluster")
        try:
            figures = step.function(
                **given, settings=settings.replace(ray=settings.ray.replace(cluster="local"))
            )
        finally:
            # A gate's report is worth reading most where the gate failed.
            for name, local in made.items():
                if local.exists():
                    deliver(local, call.outputs[name])
        write_answer(call, {"figures": figures}, folder)
        return 0
    except UserError as error:
        write_answer(call, {"error": str(error)}, folder)
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
