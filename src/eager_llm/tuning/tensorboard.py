"""TensorBoard's event files, where the setting asks for them."""

from pathlib import Path
from types import TracebackType
from typing import Any

from eager_llm.core.errors import UserError


class EventWriter:
    """Writes figures by step.

    Args:
        folder: of the event files; None writes nothing.
        step: the next step; events of a killed job from this step on are dropped.

    Raises:
        UserError: the tensorboard package is missing.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tuning.tensorboard needs a package: pip install 'eager-llm[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Write the figures of a step."""
        if self._writer is None:
            return
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
