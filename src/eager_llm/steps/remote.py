"""The entry point of a Ray job: do a call of a step here, on the cluster.

`eager_llm.steps.distributed` starts it.
"""

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
    """Do the call, deliver its outputs to where they belong, and leave an answer.

    Args:
        arguments: the encoded call.

    Returns:
        0, or 2 where the step refused its input; the answer and the log say why.
    """
    # These two register their steps.
    import eager_llm.steps.build_index
    import eager_llm.steps.tune_model  # noqa: F401

    call = StepCall.decode(arguments[0])
    settings = Settings.from_dict(call.settings)
    if settings.ray.shared:
        Path(settings.ray.shared).mkdir(parents=True, exist_ok=True)
    parent = settings.ray.shared or None
    scratch = Path(tempfile.mkdtemp(prefix=f".{call.name}-", dir=parent))
    try:
        figures = _run(call, settings, scratch)
        write_answer(call, {"figures": figures}, scratch)
        return 0
    except UserError as error:
        write_answer(call, {"error": str(error)}, scratch)
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(call: StepCall, settings: Settings, scratch: Path) -> dict[str, float]:
    """Fetch the inputs, run the step, and deliver its outputs, also where it failed."""
    inputs: dict[str, Any] = {}
    for name, uri in call.inputs.items():
        inputs[name] = fetch(uri, scratch / name)
    outputs: dict[str, Path] = {}
    for name, uri in call.outputs.items():
        is_remote = "://" in uri
        outputs[name] = scratch / "outputs" / name if is_remote else Path(uri)
    folders: dict[str, Path] = {}
    for name, folder in call.shared_folders.items():
        folders[name] = Path(folder)
    on_this_machine = settings.ray.replace(cluster="local")
    say(f"step {call.step} on the Ray cluster")
    try:
        return STEPS[call.step].function(
            **inputs,
            **outputs,
            **folders,
            settings=settings.replace(ray=on_this_machine),
        )
    finally:
        # A gate's report is worth reading most where the gate failed.
        for name, path in outputs.items():
            if path.exists():
                deliver(path, call.outputs[name])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
