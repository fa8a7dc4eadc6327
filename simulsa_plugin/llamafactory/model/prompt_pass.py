"""The first pass of a batch: every distinct prompt once, followed by the tree of all prefixes and drafts about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import Cache

from simulsa_plugin.llamafactory.model.attention import AttentionRecord
from simulsa_plugin.llamafactory.model.generation import EncodedPrompt, Generation, Prediction, next_positions
from simulsa_plugin.llamafactory.model.kv_cache import CacheRows, PromptCacheLayer, new_cache
from simulsa_plugin.llamafactory.model.token_tree import TokenTree, lay_out
from simulsa_plugin.metrics.stability import common_prefix

if TYPE_CHECKING:
    from simulsa_plugin.llamafactory.model.batched_decoding import SharedPromptDecoder


@dataclass(frozen=True)
class Unfinished:
    """What goes on after the first pass.

    Attributes:
        rows: keys and values; one row for each token that goes on.
        generations: the requests of each row: they have the same next token.
    """

    rows: CacheRows
    generations: list[list[Generation]]


class PromptPrefix:
    """Keys and values of what prompts begin with, kept from batch to batch as long as the weights do not change."""

    def __init__(self, model: SharedPromptDecoder) -> None:
        self._model = model
        self._tokens: tuple[int, ...] = ()
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def begins_with(self, tokens: tuple[int, ...]) -> bool:
        """Return whether these tokens, one or more, are known."""
        return bool(tokens) and self._tokens[: len(tokens)] == tokens

    def repeated(self, prompt: EncodedPrompt, length: int, rows: int) -> Cache:
        """Return a cache of rows that all begin with the first tokens of a prompt."""
        if not self.begins_with(prompt.before_audio[:length]):
            self._compute(prompt, length)
        layers = [PromptCacheLayer.filled(keys, values, length) for keys, values in self._layers]
        cache = Cache(layers=layers)
        cache.batch_select_indices(torch.zeros(rows, dtype=torch.long, device=prompt.embeddings.device))
        return cache

    def _compute(self, prompt: EncodedPrompt, length: int) -> None:
        cache = new_cache(PromptCacheLayer)
        columns = torch.arange(length, device=prompt.embeddings.device)[None]
        self._model.run(prompt.embeddings[None, :length], columns[:, None] <= columns[..., None], columns, cache)
        self._tokens = prompt.before_audio[:length]
        self._layers = [(layer.keys, layer.values) for layer in cache.layers]


class PromptPass:
    """Prompts and the requests about them.

    Args:
        model: runs the pass.
        generations: requests that begin; their prompts may repeat.
    """

    def __init__(self, model: SharedPromptDecoder, generations: Sequence[Generation]) -> None:
        self._model, self._device = model, generations[0].prompt.embeddings.device
        prompts = dict.fromkeys(generation.prompt for generation in generations)
        self._rows = {prompt: _PromptRow(number, prompt) for number, prompt in enumerate(prompts)}
        for generation in generations:
            self._rows[generation.prompt].add(generation)
        self._shared = 0  # tokens that all prompts begin with
        self._cache = new_cache(PromptCacheLayer)

    @property
    def audio(self) -> torch.Tensor:
        """Where the audio tokens of the distinct prompts are, (rows, columns of the cache)."""
        return torch.nn.utils.rnn.pad_sequence([prompt.audio for prompt in self._rows], batch_first=True)

    def prefill_shared(self, prefix: PromptPrefix) -> None:
        """Run the tokens that all prompts begin with once for all, if `prefix` does not have them."""
        first, *others = self._rows
        tokens = first.before_audio
        shared = min((common_prefix(tokens, other.before_audio) for other in others), default=len(tokens))
        if prefix.begins_with(tokens[:shared]) or (others and shared):
            self._shared = shared
            self._cache = prefix.repeated(first, shared, len(self._rows))

    def run(self, attention: AttentionRecord | None = None) -> Unfinished:
        """Run prompts and trees, and accept the tokens that greedy decoding would generate.

        Args:
            attention: records this pass, if a request needs it.

        Returns:
            what goes on; it may be nothing.
        """
        prompts = list(self._rows.values())
        layout = lay_out([(len(row.prompt.embeddings), row.tree) for row in prompts], self._shared)
        first = min(layout.roots)  # no position before it predicts anything
        if attention:
            attention.first_position = first
        hidden = self._model.run(
            self._embed(prompts),
            torch.from_numpy(layout.visible).to(self._device),
            torch.from_numpy(layout.position_ids).to(self._device),
            self._cache,
        )
        nodes = [(row.number, node) for row in prompts for node in row.predicted_nodes()]
        positions = [(number, layout.roots[number] + node - first) for number, node in nodes]
        predictions = dict(zip(nodes, self._model.predictions(hidden[:, first:], positions, attention), strict=True))
        if attention:
            attention.first_position = 0
        accepted = {place: left for row in prompts for place, left in row.accept(predictions, self._model.special.stop)}
        numbers = [number for number, _ in accepted]
        visible = layout.visible[numbers, [layout.roots[number] + node for number, node in accepted]]
        rows = torch.tensor(numbers, dtype=torch.long, device=self._device)
        on_device, left = torch.from_numpy(visible).to(self._device), list(accepted.values())
        return Unfinished(CacheRows(self._cache.layers, rows, on_device, next_positions(left)), left)

    def _embed(self, rows: Sequence[_PromptRow]) -> torch.Tensor:
        """Return input embeddings of prompts and trees, (rows, tokens, width), without what is in the cache."""
        ids = torch.tensor([token for row in rows for token in row.tree.tokens], device=self._device).long()
        trees = torch.split(self._model.embed(ids), [len(row.tree.tokens) for row in rows])
        parts = [
            torch.cat([row.prompt.embeddings[self._shared :], tree]) for row, tree in zip(rows, trees, strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


class _PromptRow:
    """A prompt, the tree of the prefixes and drafts of all requests about it, and where each answer begins in it."""

    def __init__(self, number: int, prompt: EncodedPrompt) -> None:
        self.number, self.prompt, self.tree = number, prompt, TokenTree()
        self._generations: list[tuple[int, Generation]] = []  # node of the prefix's last token

    def add(self, generation: Generation) -> None:
        """Add a request about the prompt."""
        start = self.tree.add(generation.request.prefix)
        self.tree.add(generation.request.draft, start)
        self._generations.append((start, generation))

    def predicted_nodes(self) -> list[int]:
        """Return the nodes whose predictions a request may need."""
        return self.tree.after(start for start, _ in self._generations)

    def accept(
        self, predictions: Mapping[tuple[int, int], Prediction], stop_ids: frozenset[int]
    ) -> Iterable[tuple[tuple[int, int], list[Generation]]]:
        """Append predictions to every request as long as the tree has the predicted tokens.

        Args:
            predictions: by row and node.
            stop_ids: see `Generation.append`.

        Returns:
            row and node after which requests go on, and the requests: they have the same next token, not in the tree.
        """
        left: dict[tuple[int, int], list[Generation]] = {}
        for node, generation in self._generations:
            while generation.append(prediction := predictions[self.number, node], stop_ids):
                child = self.tree.child(node, prediction[0])
                if child is None:
                    left.setdefault((self.number, node), []).append(generation)
                    break
                node = child
        return left.items()
