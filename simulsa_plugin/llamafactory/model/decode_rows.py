"""Decode steps: the rows of all unfinished requests get one token at a time; new rows join while others go on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from simulsa_plugin.llamafactory.model.attention import AttentionRecord
from simulsa_plugin.llamafactory.model.generation import Generation, Prediction, next_positions
from simulsa_plugin.llamafactory.model.kv_cache import CacheRows, join_rows, new_cache
from simulsa_plugin.llamafactory.model.prompt_pass import Unfinished
from simulsa_plugin.llamafactory.model.static_step import StaticRows

if TYPE_CHECKING:
    from simulsa_plugin.llamafactory.model.batched_decoding import SharedPromptDecoder

COMPACTION_SHARE = 0.75  # finished rows leave the cache when at most this share of its rows is active


class DecodeRows:
    """Rows of the cache, of which each has the requests that are at the same token after the same prompt.

    Args:
        model: runs the steps.
    """

    def __init__(self, model: SharedPromptDecoder) -> None:
        self._model = model
        self._attention: AttentionRecord | None = None
        self._cache = new_cache()
        self._active: list[tuple[int, list[Generation]]] = []  # row of the cache, its requests
        self._visible = torch.zeros((0, 0), dtype=torch.bool)  # (rows, columns of the cache)
        self._static: StaticRows | None = None

    @property
    def unfinished(self) -> int:
        """The number of requests that go on."""
        return sum(len(generations) for _, generations in self._active)

    def join(self, new: Unfinished, attention: AttentionRecord | None = None) -> None:
        """Add rows to those that go on.

        Args:
            new: the rows.
            attention: records the steps, if a request needs it; then there are no other rows.
        """
        self._attention = attention
        if not new.generations:
            return
        parts = [*self._going_on(), new.rows]
        generations = [*(of_row for _, of_row in self._active), *new.generations]
        self._cache, self._visible = join_rows(parts)
        if self._attention:
            self._attention.select_rows(new.rows.numbers, self._visible.shape[1])
        self._active = list(enumerate(generations))
        self._load_static()

    def _going_on(self) -> Iterable[CacheRows]:
        """Yield the active rows, if there are any."""
        if self._active:
            visible = self._visible if self._static is None else self._static.attended
            layers = self._cache.layers if self._static is None else self._static.layers
            rows = [row for row, _ in self._active]
            numbers = torch.tensor(rows, device=visible.device)
            yield CacheRows(layers, numbers, visible[numbers], next_positions(of_row for _, of_row in self._active))

    def _load_static(self) -> None:
        """Move the cache to static buffers, where there are any that suffice."""
        self._static = None
        if self._attention is None and self._model.static is not None:
            self._static = self._model.static.load(self._cache.layers, self._visible)
        if self._static is not None:
            self._cache = new_cache()

    def _leave_static(self, rows: StaticRows) -> None:
        """Go on without static buffers, which have become too small."""
        for number, (keys, values) in enumerate(rows.layers):
            self._cache.update(keys, values, number)
        self._visible, self._static = rows.attended, None

    def step(self) -> None:
        """Generate one token for every request that has not ended."""
        if self._static and not self._static.make_room():
            self._leave_static(self._static)
        rows = self._visible.shape[0]
        ids, position_ids = [0] * rows, [0] * rows
        for row, (generation, *_) in self._active:
            ids[row], position_ids[row] = generation.new[-1], generation.position_id
        for (_, generations), prediction in zip(self._active, self._predict(ids, position_ids), strict=True):
            for generation in generations:
                generation.append(prediction, self._model.special.stop)
        self._drop_ended()

    def _predict(self, ids: list[int], position_ids: list[int]) -> Iterable[Prediction]:
        """Append a token to every row, and return the predictions of the next one in active rows."""
        if self._static is not None:
            predicted = self._static.step(ids, position_ids)
            return [(*predicted[row], 1.0) for row, _ in self._active]
        self._visible = torch.cat([self._visible, self._visible.new_ones((len(ids), 1))], dim=1)
        device = self._visible.device
        embeddings = self._model.embed(torch.tensor(ids, device=device)[:, None])
        positions = torch.tensor(position_ids, device=device)[:, None]
        hidden = self._model.run(embeddings, self._visible[:, None], positions, self._cache)
        return self._model.predictions(hidden, [(row, 0) for row, _ in self._active], self._attention)

    def _drop_ended(self) -> None:
        """Remove requests that have ended, and rows without any when that saves more than the copy costs."""
        left = [(row, [one for one in generations if not one.ended]) for row, generations in self._active]
        self._active = [(row, generations) for row, generations in left if generations]
        rows = [row for row, _ in self._active]
        if not rows:
            self._cache, self._static = new_cache(), None
        elif len(rows) <= COMPACTION_SHARE * self._visible.shape[0]:
            self._keep(rows)
            self._active = [(row, generations) for row, (_, generations) in enumerate(self._active)]

    def _keep(self, rows: Sequence[int]) -> None:
        """Keep these rows of the cache, in this order."""
        kept = torch.tensor(rows, device=self._visible.device)
        self._visible = self._visible[kept]
        if self._static is None:
            self._cache.batch_select_indices(kept)
        else:
            self._static.select(kept)
        if self._attention:
            self._attention.select_rows(kept)
