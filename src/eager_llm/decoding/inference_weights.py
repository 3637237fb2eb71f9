"""A tuned model made fast to decode with."""

from typing import Any

import torch
from torch import nn

from eager_llm.backbone.adapter_strength import set_adapter_strength


def optimize_for_inference(
    model: Any,
    precision: str = "float32",
    strength: float = 1.0,
) -> Any:
    """Return a tuned model made fast to decode with; it answers the same, but for rounding.

    The adapter is added to the weights in memory, unless it adapts embeddings or the output layer:
    these may be tied, and each would be changed by the other's share. On a CPU with oneDNN the
    weights are packed, and can then only be decoded with; without it they are laid out as products
    read them best.

    Args:
        precision: "float32" or "bfloat16".
        strength: of the adapter, see `set_adapter_strength`.
    """
    set_adapter_strength(model, strength)
    head = model.get_output_embeddings()
    if hasattr(model, "merge_and_unload") and type(head) is nn.Linear:
        model = model.merge_and_unload()
    model = model.to(getattr(torch, precision))
    if model.device.type == "cpu" and not hasattr(model, "merge_and_unload"):
        _lay_out(model)
    return model


def _lay_out(model: Any) -> None:
    """Pack the weights of a model's linear layers, or lay them out input by input."""
    head = model.get_output_embeddings()  # logits are computed for some of its rows only
    is_packable = PackedLinear.possible(model.dtype)
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if type(layer) is not nn.Linear or layer is head:
                continue
            if is_packable:
                setattr(module, name, PackedLinear(layer))
            elif layer.weight.dtype == torch.float32:
                # Products of few rows, as beams are, read weights that lie input by input faster.
                layer.weight.data = layer.weight.data.t().contiguous().t()


class PackedLinear(nn.Module):
    """A linear layer whose weight oneDNN has packed for the processor once, not at every call.

    What torch's own compiler makes of a frozen linear layer. On processors of other makers than
    MKL's, oneDNN is more than twice as fast in float32, too. The weight is no parameter any more:
    it cannot be trained, moved or saved.

    Args:
        rows: of the inputs, about; the packing may depend on it.
    """

    def __init__(self, layer: nn.Linear, rows: int = 128) -> None:
        super().__init__()
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.bias = layer.bias
        weight = layer.weight.detach().contiguous()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)

    @staticmethod
    def possible(dtype: torch.dtype) -> bool:
        """Return whether this build of torch and this processor have such products of a type."""
        if not torch.backends.mkldnn.is_available():
            return False
        if dtype == torch.bfloat16:
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return dtype == torch.float32

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return [..., outputs] of [..., inputs]."""
        return torch.ops.mkldnn._linear_pointwise(states, self._packed, self.bias, "none", [], "")
