"""Keys and values with room to grow, in the form that transformers takes."""

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

# Keys and values of each layer, [prompts, heads, tokens, head width].
KeysValues = list[tuple[torch.Tensor, torch.Tensor]]


class RoomyLayer(DynamicLayer):
    """A layer whose new tokens are written behind the old ones, instead of into a copy of everything.

    It keeps all tokens, also those behind a sliding window: the masks see to windows.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens [prompts, heads, new, head width]; return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._stores = [table.new_empty(0) for table in (key_states, value_states)]
            self._used = 0
        end = self._used + key_states.shape[2]
        for number, new in enumerate((key_states, value_states)):
            if self._stores[number].numel() == 0 or self._stores[number].shape[2] < end:
                self._stores[number] = self._larger(self._stores[number], new, end)
            self._stores[number][:, :, self._used : end] = new
        self._used = end
        self.keys, self.values = (store[:, :, :end] for store in self._stores)
        return self.keys, self.values

    def _larger(self, store: torch.Tensor, new: torch.Tensor, needed: int) -> torch.Tensor:
        count, heads, _, width = new.shape
        larger = new.new_empty(count, heads, 2 * needed, width)
        if self._used:
            larger[:, :, : self._used] = store[:, :, : self._used]
        return larger


def roomy_cache(read: KeysValues | None = None) -> Cache:
    """Return a cache of such layers, holding what was read."""
    cache = Cache(layer_class_to_replicate=RoomyLayer)
    for layer, (keys, values) in enumerate(read or []):
        cache.update(keys, values, layer)
    return cache


def keys_values(cache: Cache) -> KeysValues:
    """Return what a cache holds."""
    return [(layer.keys, layer.values) for layer in cache.layers]
