"""How strongly a model's annealing adapter counts."""

from typing import Any


def set_adapter_strength(model: Any, strength: float) -> None:
    """Scale what a PEFT model's LoRA layers add; a model without any stays as it is.

    Args:
        strength: 1 as trained, 0 nothing.
    """
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for adapter in layer.active_adapters:
                layer.set_scale(adapter, strength)
