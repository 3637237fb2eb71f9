"""The processes that train together: this one alone, or the workers of a Ray Train job."""

import copy
from typing import Any

import torch
from torch import distributed, nn

States = tuple[dict[str, Any], dict[str, Any]]


class DistributedContext:
    """This process among those that train together.

    It is alone where torch.distributed has not been started.

    Attributes:
        rank: of this process. Process 0 is the main process: it validates, writes and prints.
        size: number of processes.
        sharded: whether the weights are sharded over the processes (FSDP), not replicated (DDP).
    """

    def __init__(self, sharded: bool = False) -> None:
        self.rank = 0
        self.size = 1
        started = distributed.is_available() and distributed.is_initialized()
        if started:
            self.rank = distributed.get_rank()
            self.size = distributed.get_world_size()
        self.sharded = sharded and started

    @property
    def is_main_process(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def training_copy(self, model: Any) -> Any:
        """Return the model to train: itself, or a copy where `wrap` is going to shard it."""
        return copy.deepcopy(model) if self.sharded else model

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module whose backward pass averages the gradients over all processes."""
        if self.sharded:
            return self._shard(module)
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module)

    def _shard(self, module: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        device = "cuda" if torch.cuda.is_available() else "cpu"
        mesh = init_device_mesh(device, (self.size,))
        for child in list(module.modules()):
            if isinstance(child, nn.ModuleList):  # the layers of the backbone
                for layer in child:
                    fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    def states(self, module: nn.Module, optimizer: Any) -> States:
        """Return the unsharded states of a module and its optimizer.

        Every process calls it; where the weights are sharded, the main process alone gets them.
        """
        if not self.sharded:
            return module.state_dict(), optimizer.state_dict()
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_state_dict(module, optimizer, options=options)

    def restore(self, module: nn.Module, optimizer: Any, states: States) -> None:
        """Load the unsharded states into a module and its optimizer."""
        module_state, optimizer_state = states
        if not self.sharded:
            module.load_state_dict(module_state)
            optimizer.load_state_dict(optimizer_state)
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        set_state_dict(
            module,
            optimizer,
            model_state_dict=module_state,
            optim_state_dict=optimizer_state,
            options=StateDictOptions(full_state_dict=True),
        )

    def all_reduce(self, values: dict[str, float]) -> dict[str, float]:
        """Return the sums over all processes, each of which names the same values."""
        if self.size == 1:
            return values
        sums = torch.tensor(list(values.values()), dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            sums = sums.cuda()
        distributed.all_reduce(sums)
        return dict(zip(values, sums.tolist(), strict=True))

    def broadcast(self, value: Any) -> Any:
        """Return the main process's value on every process; also waits for all of them."""
        if self.size == 1:
            return value
        box = [value if self.is_main_process else None]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values
