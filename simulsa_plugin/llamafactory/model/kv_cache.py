"""Keys and values of what was computed before, in memory that grows in steps, and how many bytes they take."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

CACHE_GROWTH = 32  # tokens by which a full cache is enlarged


class PreallocatedCacheLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer of the key-value cache that is copied once in `CACHE_GROWTH` tokens, not at every one.

    Rows are selected when the next tokens come, in the copy that makes room for them.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (rows, heads, tokens, width) to keys and values, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None
            self._rows: torch.Tensor | None = None
        length = self.keys.shape[-2]
        end = length + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            self._buffers = _enlarged(self.keys, self._rows, end), _enlarged(self.values, self._rows, end)
            self._rows = None
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, length:end] = states
        self.keys, self.values = self._buffers[0][:, :, :end], self._buffers[1][:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order; rows may repeat, and `indices` may be on another device than the layer.

        `keys` and `values` have them after the next `update`.
        """
        rows = indices.to(self.keys.device)
        self._rows = rows if self._rows is None else self._rows[rows]
        self._buffers = None

    def selected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of the selected rows."""
        return (self.keys, self.values) if self._rows is None else (self.keys[self._rows], self.values[self._rows])


def new_cache() -> Cache:
    """Return an empty cache of such layers."""
    return Cache(layer_class_to_replicate=PreallocatedCacheLayer)


def _enlarged(states: torch.Tensor, rows: torch.Tensor | None, length: int) -> torch.Tensor:
    """Copy all rows or some, with room for `length` tokens and more."""
    count, heads, tokens, width = states.shape
    buffer = states.new_empty((count if rows is None else len(rows), heads, length + CACHE_GROWTH, width))
    if rows is None:
        buffer[:, :, :tokens] = states
    else:
        torch.index_select(states, 0, rows, out=buffer[:, :, :tokens])
    return buffer


def bytes_per_token(config: Any, element_size: int) -> int:
    """Return the bytes of one token: keys and values in all layers, and its embedding in the prompt, which is kept."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int((2 * config.num_hidden_layers * heads * width + config.hidden_size) * element_size)


def logits_bytes(config: Any, element_size: int) -> int:
    """Return the bytes of one position's logits: as the model computes them, and twice in fp32 to find the largest."""
    return int(config.vocab_size * (element_size + 2 * 4))
