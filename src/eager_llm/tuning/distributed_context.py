"""The processes that tune together: this one alone, or the workers of a Ray Train job."""

import copy
from typing import Any

import torch
from torch import nn


class DistributedContext:
    """This process among those that tune together; alone where torch.distributed has not been started.

    Attributes:
        rank: 0 leads: it validates, writes and speaks.
        size: processes.
        sharded: whether the weights are spread over the processes (FSDP) rather than repeated (DDP).
    """

    def __init__(self, sharded: bool = False) -> None:
        joined = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if joined else 0
        self.size = torch.distributed.get_world_size() if joined else 1
        self.sharded = sharded and joined

    @property
    def is_main_process(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module whose backward pass averages the gradients over the team."""
        if self.sharded:
            return self._spread(module)
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module)

    def training_copy(self, model: Any) -> Any:
        """Return the model that is trained: the model itself, or a copy to be spread, layer by layer, by `wrap`."""
        return copy.deepcopy(model) if self.sharded else model

    def _spread(self, module: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (self.size,))
        for part in list(module.modules()):
            if isinstance(part, nn.ModuleList):  # the layers of the backbone
                for layer in part:
                    fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    def states(self, module: nn.Module, optimizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the whole states of a module and its optimizer; all processes ask, only the leader is told."""
        if not self.sharded:
            return module.state_dict(), optimizer.state_dict()
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        return get_state_dict(
            module, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )

    def restore(
        self, module: nn.Module, optimizer: Any, states: tuple[dict[str, Any], dict[str, Any]]
    ) -> None:
        """Give a module and its optimizer the whole states."""
        if not self.sharded:
            module.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        options = StateDictOptions(full_state_dict=True)
        set_state_dict(
            module,
            optimizer,
            model_state_dict=states[0],
            optim_state_dict=states[1],
            options=options,
        )

    def all_reduce(self, values: dict[str, float]) -> dict[str, float]:
        """Return the sums over all processes, which name the same values."""
        if self.size == 1:
            return values
        sums = torch.tensor(list(values.values()), dtype=torch.float64)
        if torch.distributed.get_backend() == "nccl":
            sums = sums.cuda()
        torch.distributed.all_reduce(sums)
        return dict(zip(values, sums.tolist(), strict=True))

    def broadcast(self, value: Any) -> Any:
        """Return the leader's value on every process; also waits for all."""
        if self.size == 1:
            return value
        box = [value if self.is_main_process else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found
