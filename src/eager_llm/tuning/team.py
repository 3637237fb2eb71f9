"""The processes that tune together: this one alone, or the workers of a Ray Train job."""

from typing import Any

import torch
from torch import nn


class Team:
    """This process among those that tune together; alone where torch.distributed has not been started.

    Attributes:
        rank: 0 leads: it validates, writes and speaks.
        size: processes.
    """

    def __init__(self) -> None:
        joined = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if joined else 0
        self.size = torch.distributed.get_world_size() if joined else 1

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module whose backward pass averages the gradients over the team."""
        if self.size == 1:
            return module
        # A batch without an answer leaves the projectors unused.
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)

    def add(self, values: dict[str, float]) -> dict[str, float]:
        """Return the sums over all processes, which name the same values."""
        if self.size == 1:
            return values
        sums = torch.tensor(list(values.values()), dtype=torch.float64)
        if torch.distributed.get_backend() == "nccl":
            sums = sums.cuda()
        torch.distributed.all_reduce(sums)
        return dict(zip(values, sums.tolist(), strict=True))

    def share(self, value: Any) -> Any:
        """Return the leader's value on every process; also waits for all."""
        if self.size == 1:
            return value
        box = [value if self.leads else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found
