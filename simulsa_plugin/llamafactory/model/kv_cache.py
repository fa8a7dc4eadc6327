"""Keys and values of what was computed before, in memory that grows in steps, and how many bytes they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers.cache_utils import Cache, DynamicLayer

CACHE_GROWTH = 16  # tokens by which a full cache is enlarged


class PreallocatedCacheLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer of the key-value cache that is copied once in `CACHE_GROWTH` tokens, not at every one.

    Rows are selected when the next tokens come, in the copy that makes room for them.

    Attributes:
        growth: tokens for which there is room after the next ones.
    """

    growth = CACHE_GROWTH

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
            self._buffers = (
                _enlarged(self.keys, self._rows, end + self.growth),
                _enlarged(self.values, self._rows, end + self.growth),
            )
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

    @classmethod
    def filled(cls, keys: torch.Tensor, values: torch.Tensor, length: int) -> Self:
        """Return a layer with these buffers, of which the first `length` columns are in use."""
        layer = cls()
        layer.lazy_initialization(keys, values)
        layer._buffers, layer._rows = (keys, values), None
        layer.keys, layer.values = keys[:, :, :length], values[:, :, :length]
        return layer

    def stored(self) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor | None]:
        """Return keys and values as they lie in memory, with columns that are not in use, and the selected rows."""
        return self._buffers or (self.keys, self.values), self._rows


class PromptCacheLayer(PreallocatedCacheLayer):
    """A layer that has no room to spare: prompts are joined to the rows of others, see `join_rows`."""

    growth = 0


def new_cache(layer_class: type[PreallocatedCacheLayer] = PreallocatedCacheLayer) -> Cache:
    """Return an empty cache of such layers."""
    return Cache(layer_class_to_replicate=layer_class)


@dataclass(frozen=True)
class CacheRows:
    """Rows of a cache.

    Attributes:
        layers: of the cache: `PreallocatedCacheLayer`, or keys and values, (rows, heads, columns, width) each.
        numbers: of the rows, (n,); they may repeat.
        visible: (n, columns), True where the next token of a row attends to.
        lengths: how many columns that are.
    """

    layers: list[Any]
    numbers: torch.Tensor
    visible: torch.Tensor
    lengths: Sequence[int]


def join_rows(parts: Sequence[CacheRows]) -> tuple[Cache, torch.Tensor]:
    """Join rows of several caches, in each row only the columns that are visible; the layers of the parts are emptied.

    Returns:
        the cache, with room for `CACHE_GROWTH` tokens, and where a row attends, (rows, columns).
    """
    width = max(max(part.lengths) for part in parts)
    columns = [_visible_first(part.visible, width + CACHE_GROWTH) for part in parts]
    cache = new_cache()
    for _ in range(len(parts[0].layers)):
        stored = [_stored(part.layers.pop(0)) for part in parts]  # one layer at a time is in memory twice
        numbers = [
            part.numbers if rows is None else rows[part.numbers.to(rows.device)]
            for part, (_, rows) in zip(parts, stored, strict=True)
        ]
        keys, values = (
            _gather(states, numbers, columns, width + CACHE_GROWTH)
            for states in zip(*(states for states, _ in stored), strict=True)
        )
        cache.layers.append(PreallocatedCacheLayer.filled(keys, values, width))
    lengths = torch.tensor([length for part in parts for length in part.lengths], device=columns[0].device)
    return cache, torch.arange(width, device=lengths.device) < lengths[:, None]


def _stored(layer: Any) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor | None]:
    return (layer, None) if isinstance(layer, tuple) else layer.stored()


def _visible_first(visible: torch.Tensor, count: int) -> torch.Tensor:
    """Return the columns of each row, (rows, count): the visible ones in order, and then any."""
    order = visible.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    return torch.nn.functional.pad(order, (0, count - order.shape[1]))


def _gather(
    states: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor], columns: Sequence[torch.Tensor], length: int
) -> torch.Tensor:
    """Copy rows and columns of several (rows, heads, tokens, width) into one (rows, heads, length, width)."""
    _, heads, _, width = states[0].shape
    joined = states[0].new_empty((sum(map(len, numbers)), heads, length, width))
    head = torch.arange(heads, device=joined.device)[:, None]
    for part, source, rows, chosen in zip(
        torch.split(joined, [len(rows) for rows in numbers]), states, numbers, columns, strict=True
    ):
        row = rows.to(joined.device)[:, None, None]
        place = (row * heads + head) * source.shape[2] + chosen.to(joined.device)[:, None]
        torch.index_select(source.reshape(-1, width), 0, place.flatten(), out=part.view(-1, width))
    return joined


def _enlarged(states: torch.Tensor, rows: torch.Tensor | None, length: int) -> torch.Tensor:
    """Copy all rows or some, with room for `length` tokens."""
    count, heads, tokens, width = states.shape
    buffer = states.new_empty((count if rows is None else len(rows), heads, length, width))
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
