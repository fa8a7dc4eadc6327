"""Decode steps on static buffers, which a GPU replays as CUDA graphs.

One decode step of a large model is hundreds of small kernels. Launched one by one from Python they take longer than the
GPU needs to read the weights; a CUDA graph launches all of them at once, but only with the shapes and addresses it was
captured with. So for decode steps the keys and values of a batch are copied into buffers of a few sizes.

Prompts differ in length from batch to batch, and rows end one by one: rows are rounded up to two sizes per doubling,
columns to four. Each size has a graph, captured once the size has been used a few times. Rows and columns that are not
needed are computed and masked: a decode step takes about as long as reading the weights, whatever the number of rows.
All sizes share one memory for keys and values, as only one batch is decoded at a time. transformers' `StaticCache` has
neither: it allocates every size anew, and advances its position when it is written, so that a step could not be
repeated for the capture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

WARM_UP_RUNS = 3  # of a step before it is captured: kernels are loaded and chosen, and rare sizes stay uncaptured
MIN_COLUMNS = 64


class CaptureError(RuntimeError):
    """A step cannot be captured as a CUDA graph."""


class Model(Protocol):
    """What a step needs of `batched_decoding.SharedPromptDecoder`."""

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of text tokens."""
        ...

    def hidden_states(
        self, embeddings: torch.Tensor, mask: torch.Tensor, position_ids: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Run the language model once."""
        ...

    def most_probable(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and probabilities, each (positions,)."""
        ...


def rounded(count: int, significant_bits: int) -> int:
    """Round up to a number of significant bits: with two at most half more, with three at most a quarter.

    >>> [rounded(count, 2) for count in (1, 3, 5, 9, 17)]
    [1, 3, 6, 12, 24]
    >>> [rounded(count, 3) for count in (7, 9, 17, 257, 321)]
    [7, 10, 20, 320, 384]
    """
    unit: int = 1 << max(0, (count - 1).bit_length() - significant_bits)
    return -(-count // unit) * unit


def why_not_captured(decoder: Any) -> str | None:
    """Return why decode steps of transformers' language model cannot be CUDA graphs; None where they can."""
    config = decoder.config
    devices = {str(weight.device) for weight in decoder.parameters()}
    if len(devices) > 1 or any(getattr(module, "_hf_hook", None) for module in decoder.modules()):
        return "it is spread over several devices or quantized"
    if not next(iter(devices)).startswith("cuda"):
        return "it is not on a GPU"
    if not getattr(decoder, "_can_compile_fullgraph", False):
        return f"{type(decoder).__name__} does not declare that it can be compiled as one graph"
    if getattr(config, "num_experts", None):
        return "it is a mixture of experts, whose kernels depend on the tokens"
    if set(getattr(config, "layer_types", ())) - {"full_attention"}:
        return "it has layers with a sliding window"
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") != "default":
        return "its rotary embedding depends on the length"
    return None


class CapturedStep:
    """Runs a function over static buffers; on a GPU, as a CUDA graph from the `WARM_UP_RUNS`-th run on.

    Args:
        step: takes nothing, and returns tensors that are valid until the next run.
        pool: of `torch.cuda.graph_pool_handle()`, shared by graphs that never run at once; None never captures.
    """

    def __init__(self, step: Callable[[], tuple[torch.Tensor, ...]], pool: Any = None) -> None:
        self._step, self._pool = step, pool
        self._runs = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: tuple[torch.Tensor, ...] = ()

    @property
    def is_captured(self) -> bool:
        """Whether runs replay a graph."""
        return self._graph is not None

    def __call__(self) -> tuple[torch.Tensor, ...]:
        """Run once.

        Raises:
            CaptureError: the function does something that a CUDA graph cannot.
        """
        if self._pool is not None and not self.is_captured and self._runs == WARM_UP_RUNS:
            self._capture()
        self._runs += 1
        if self._graph is None:
            return self._step()
        self._graph.replay()
        return self._result

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                self._result = self._step()
        except RuntimeError as error:
            raise CaptureError(str(error)) from error
        self._graph = graph


class _StaticLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """Keys and values (rows, heads, columns, width) of a layer; a token is written to the same column in all rows."""

    is_compileable = True

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, column: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self._column = keys, values, column
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the buffers are there."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (rows, heads, 1, width) to the current column, and return all columns."""
        self.keys.index_copy_(2, self._column, key_states)
        self.values.index_copy_(2, self._column, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of the mask."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        """Return the number of columns."""
        return self.keys.shape[2]

    def get_max_cache_shape(self) -> int:
        """Return the number of columns."""
        return self.keys.shape[2]


class _Buffers:
    """Static inputs and cache of decode steps of (rows, columns).

    Attributes:
        ids, position_ids: of the token that every row gets next, (rows, 1).
        column: of the cache, to which the token is written, (1,).
        mask: (rows, 1, 1, columns), 0 where a row attends and the least number elsewhere.
        layers: keys and values.
        run: decodes one token in every row; returns tokens and probabilities, (rows,).
    """

    def __init__(self, model: Model, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], pool: Any) -> None:
        keys = layers[0][0]
        rows, _, columns, _ = keys.shape
        self.rows, self.columns = rows, columns
        self.ids = torch.zeros((rows, 1), dtype=torch.long, device=keys.device)
        self.position_ids = torch.zeros_like(self.ids)
        self.column = torch.zeros(1, dtype=torch.long, device=keys.device)
        self._hidden = torch.finfo(keys.dtype).min
        self.mask = torch.full((rows, 1, 1, columns), self._hidden, dtype=keys.dtype, device=keys.device)
        self.layers = [_StaticLayer(*pair, self.column) for pair in layers]
        self._model, self._cache = model, Cache(layers=self.layers)
        self.run = CapturedStep(self._step, pool)

    def _step(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.mask.index_fill_(-1, self.column, 0)
        embeddings = self._model.embed(self.ids)
        hidden = self._model.hidden_states(embeddings, self.mask, self.position_ids, self._cache)
        return self._model.most_probable(hidden[:, 0])

    def attended(self, rows: int, columns: int) -> torch.Tensor:
        """Return the first rows and columns of the mask as (rows, columns), True where a row attends."""
        return self.mask[:rows, 0, 0, :columns] == 0

    def attend(self, attended: torch.Tensor) -> None:
        """Set the mask from `attended`, and hide everything else."""
        rows, columns = attended.shape
        self.mask.fill_(self._hidden)
        self.mask[:rows, 0, 0, :columns].masked_fill_(attended, 0)


class CacheLayer(Protocol):
    """A layer of the cache that a batch comes from."""

    keys: torch.Tensor

    def selected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of all rows of the batch, (rows, heads, columns, width)."""
        ...


class StaticSteps:
    """Static buffers for the decode steps of one model, for one batch at a time.

    Args:
        model: see `Model`.
        max_bytes: of keys and values; a batch that needs more is not decoded here.
        captures: whether steps become CUDA graphs.
    """

    def __init__(self, model: Model, max_bytes: float, *, captures: bool) -> None:
        self._model, self._max_bytes = model, max_bytes
        self._pool = torch.cuda.graph_pool_handle() if captures else None
        self._memory: list[tuple[torch.Tensor, torch.Tensor]] = []  # keys and values of each layer, (numbers,)
        self._sizes: dict[tuple[int, int], _Buffers] = {}

    @property
    def num_sizes(self) -> int:
        """Number of sizes that were used."""
        return len(self._sizes)

    @property
    def num_captured(self) -> int:
        """Number of sizes that have a graph."""
        return sum(buffers.run.is_captured for buffers in self._sizes.values())

    def load(self, layers: Sequence[CacheLayer], attended: torch.Tensor) -> StaticRows | None:
        """Copy a batch.

        Args:
            layers: of its cache.
            attended: (rows, columns), True where a row attends.

        Returns:
            the batch; None where it needs too much memory, or layers differ in shape.
        """
        if len({(one.keys.shape, one.keys.dtype, one.keys.device) for one in layers}) > 1:
            return None
        rows, columns = attended.shape
        buffers = self.buffers(rows, columns + 1, layers)
        return None if buffers is None else StaticRows(self, buffers, (one.selected() for one in layers), attended)

    def buffers(self, rows: int, columns: int, like: Sequence[CacheLayer]) -> _Buffers | None:
        """Return buffers for a batch of this size with layers like these; None where it needs too much memory."""
        size = rounded(rows, 2), rounded(max(columns, MIN_COLUMNS), 3)
        if size not in self._sizes:
            _, heads, _, width = like[0].keys.shape
            shape = torch.Size((size[0], heads, size[1], width))
            if not self._allocate(shape.numel(), like):
                return None
            used = slice(shape.numel())
            views = [(keys[used].view(shape), values[used].view(shape)) for keys, values in self._memory]
            self._sizes[size] = _Buffers(self._model, views, self._pool)
        return self._sizes[size]

    def _allocate(self, numbers: int, like: Sequence[CacheLayer]) -> bool:
        """Give every layer room for so many numbers in its keys, and as many in its values, if that is allowed."""
        if self._memory and self._memory[0][0].numel() >= numbers:
            return True
        allowed = int(self._max_bytes / (2 * len(like) * like[0].keys.element_size()))
        if numbers > allowed:
            return False
        self.release()
        # Twice as much as needed, as graphs are lost when memory grows. Zeros, as what is masked must be finite.
        numbers = min(allowed, 2 * numbers)
        self._memory = [(one.keys.new_zeros(numbers), one.keys.new_zeros(numbers)) for one in like]
        return True

    def release(self) -> None:
        """Free all memory, that of graphs included."""
        self._sizes.clear()
        self._memory.clear()


class StaticRows:
    """A batch in the static buffers.

    Args:
        steps: owner of the buffers.
        buffers: of a size that fits.
        layers: keys and values of each layer, (rows, heads, columns, width).
        attended: see `StaticSteps.load`.
    """

    def __init__(
        self,
        steps: StaticSteps,
        buffers: _Buffers,
        layers: Iterable[tuple[torch.Tensor, torch.Tensor]],
        attended: torch.Tensor,
    ) -> None:
        self._steps = steps
        self._fill(buffers, layers, attended)

    def _fill(
        self, buffers: _Buffers, layers: Iterable[tuple[torch.Tensor, torch.Tensor]], attended: torch.Tensor
    ) -> None:
        rows, columns = self._shape = attended.shape
        for layer, (keys, values) in zip(buffers.layers, layers, strict=True):
            layer.keys[:rows, :, :columns] = keys
            layer.values[:rows, :, :columns] = values
        buffers.attend(attended)
        self._buffers = buffers

    @property
    def layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer, (rows, heads, columns, width), in the static buffers."""
        rows, columns = self._shape
        return [(one.keys[:rows, :, :columns], one.values[:rows, :, :columns]) for one in self._buffers.layers]

    @property
    def attended(self) -> torch.Tensor:
        """Where rows attend, (rows, columns)."""
        return self._buffers.attended(*self._shape)

    def make_room(self) -> bool:
        """Move to larger buffers where these are full; return whether there is room for another token."""
        rows, columns = self._shape
        if columns < self._buffers.columns:
            return True
        larger = self._steps.buffers(rows, columns + 1, self._buffers.layers)
        if larger is not None:
            self._move(larger, torch.arange(rows, device=larger.mask.device))
        return larger is not None

    def step(self, ids: Sequence[int], position_ids: Sequence[int]) -> list[tuple[int, float]]:
        """Append a token to every row, and return the most probable next one with its probability.

        Raises:
            CaptureError: see `CapturedStep`.
        """
        (rows, columns), buffers = self._shape, self._buffers
        buffers.ids[:rows, 0] = torch.tensor(ids, device=buffers.ids.device)
        buffers.position_ids[:rows, 0] = torch.tensor(position_ids, device=buffers.ids.device)
        buffers.column.fill_(columns)
        tokens, probabilities = buffers.run()
        self._shape = torch.Size((rows, columns + 1))
        return list(zip(tokens[:rows].tolist(), probabilities[:rows].tolist(), strict=True))

    def select(self, kept: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        fitting = self._steps.buffers(len(kept), self._shape[1], self._buffers.layers)
        self._move(fitting or self._buffers, kept)

    def _move(self, buffers: _Buffers, kept: torch.Tensor) -> None:
        # Sizes share their memory: each layer is read whole before it is written.
        layers = ((keys[kept], values[kept]) for keys, values in self.layers)
        self._fill(buffers, layers, self.attended[kept])
