"""Keys and values with room to grow, in the form that transformers takes.

Shapes: P prompts, H heads, S slots (tokens), D head width.
"""

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

# Keys and values of each layer, both [P, H, S, D].
KeysValues = list[tuple[torch.Tensor, torch.Tensor]]


class PreallocatedLayer(DynamicLayer):
    """A layer whose new tokens are written behind the old ones, not into a copy of everything.

    It keeps all tokens, also those behind a sliding window: the masks see to windows.
    """

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: object,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens, both [P, H, new, D].

        Returns:
            Keys and values of all tokens, both [P, H, S, D].
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._key_store = key_states.new_empty(0)
            self._value_store = value_states.new_empty(0)
            self._used = 0
        end = self._used + key_states.shape[2]
        self._key_store = self._write(self._key_store, key_states, end)
        self._value_store = self._write(self._value_store, value_states, end)
        self._used = end
        self.keys = self._key_store[:, :, :end]
        self.values = self._value_store[:, :, :end]
        return self.keys, self.values

    def _write(
        self,
        store: torch.Tensor,
        states: torch.Tensor,
        end: int,
    ) -> torch.Tensor:
        """Write new tokens up to slot `end`.

        Returns:
            The store, or a larger one where they do not fit.
        """
        is_full = store.numel() == 0 or store.shape[2] < end
        if is_full:
            prompts, heads, _, width = states.shape
            larger = states.new_empty(prompts, heads, 2 * end, width)
            if self._used:
                content = store[:, :, : self._used]
                larger[:, :, : self._used] = content
            store = larger
        store[:, :, self._used : end] = states
        return store


def preallocated_cache(content: KeysValues | None = None) -> Cache:
    """Return a cache of such layers, with keys and values in it."""
    cache = Cache(layer_class_to_replicate=PreallocatedLayer)
    for layer, (keys, values) in enumerate(content or []):
        cache.update(keys, values, layer)
    return cache


def keys_values(cache: Cache) -> KeysValues:
    """Return the keys and values in a cache."""
    return [(layer.keys, layer.values) for layer in cache.layers]
