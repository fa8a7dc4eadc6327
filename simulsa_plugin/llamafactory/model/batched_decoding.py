"""Batched greedy decoding with shared prompts, token trees of prefixes and drafts, and shared continuations.

One pass takes every distinct prompt once, followed by the forced prefixes and the drafts of all requests about it as a
tree of tokens (a draft is what the previous output had after the prefix). A token of the tree is accepted as long as it
is the argmax, whichever request it comes from, and decoding goes on from the first difference. The result equals
decoding one request at a time: lossless, as in speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) with
greedy acceptance. What all prompts have before their audio is prefilled once for all.

Requests about one prompt that differ in when they stop, as those of several policies do, have the same tokens up to
there: they share a row of the cache as long as they are at the same token.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.model.attention import AttentionRecord, AudioAttention
from simulsa_plugin.llamafactory.model.audio_encoder import AudioAdapter
from simulsa_plugin.llamafactory.model.devices import execution_device
from simulsa_plugin.llamafactory.model.kv_cache import bytes_per_token, logits_bytes, new_cache
from simulsa_plugin.llamafactory.model.out_of_memory import is_out_of_memory
from simulsa_plugin.llamafactory.model.output_layer import fp32_product
from simulsa_plugin.llamafactory.model.special_tokens import SpecialTokens
from simulsa_plugin.llamafactory.model.static_step import CaptureError, StaticRows, StaticSteps, why_not_captured
from simulsa_plugin.llamafactory.model.token_tree import TokenTree, lay_out
from simulsa_plugin.llamafactory.plugin.notices import notify
from simulsa_plugin.metrics.stability import common_prefix
from simulsa_plugin.model.values import Continuation, GenerationRequest

LOGITS_AT_ONCE = 128  # positions whose logits are computed together; each has V of them
COMPACTION_SHARE = 0.75  # finished rows leave the cache when at most this share of its rows is active
DENSE_ATTENTION = ("sdpa", "eager")  # implementations that take a mask of any form
Prediction = tuple[int, float, float]  # token, its probability, share of the audio after the most attended position


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """Input embeddings of a prompt with the audio received so far.

    Attributes:
        embeddings: (num_tokens, width).
        audio: (num_tokens,), True for audio tokens.
        before_audio: token ids before the first of these.
    """

    embeddings: torch.Tensor
    audio: torch.Tensor
    before_audio: tuple[int, ...] = ()


class SharedPromptDecoder:
    """Encodes prompts and generates answers for models with an `AudioAdapter`.

    Args:
        model: transformers' model, without its LoRA wrapper, with a `config.audio_token_id`.
        adapter: of that model.
        special: tokens of the template.
        attention: of `adapter.decoder`.
    """

    def __init__(self, model: Any, adapter: AudioAdapter, special: SpecialTokens, attention: AudioAttention) -> None:
        self._adapter, self.special, self.attention = adapter, special, attention
        self._decoder, self._head = adapter.decoder, model.get_output_embeddings()
        self._embed = model.get_input_embeddings()
        self._device = execution_device(self._embed)
        self._audio_token = int(model.config.audio_token_id)
        self._suppressed = torch.tensor(special.suppressed, dtype=torch.long, device=execution_device(self._head))
        element_size = self._embed.weight.element_size()
        self.bytes_per_token = bytes_per_token(self._decoder.config, element_size)
        self.bytes_per_session = logits_bytes(model.config.get_text_config(decoder=True), element_size)
        self.static: StaticSteps | None = None  # for decode steps, where they are captured

    def why_not_captured(self) -> str | None:
        """Return why decode steps cannot be CUDA graphs; None where they can."""
        return why_not_captured(self._decoder)

    def use_static_steps(self, memory_bytes: float, *, captures: bool) -> None:
        """Decode on static buffers from now on.

        Args:
            memory_bytes: of keys and values in all; half of it is for the static buffers.
            captures: whether steps become CUDA graphs.
        """
        self.bytes_per_token = 2 * bytes_per_token(self._decoder.config, self._embed.weight.element_size())
        self.static = StaticSteps(self, memory_bytes / 2, captures=captures)

    def encode_prompts(self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]) -> list[EncodedPrompt]:
        """Encode audio in one batch, and put its embeddings in the place of the prompts' audio tokens.

        Raises:
            ModelError: a prompt has another number of audio tokens than the encoder gives.
        """
        return [
            self._merge_audio(prompt, audio)
            for prompt, audio in zip(prompts, self._adapter.embed(waveforms), strict=True)
        ]

    def encoding_bytes(self, num_samples: Sequence[int]) -> int:
        """Return the approximate peak memory of `encode_prompts` for one batch of waveforms of these lengths."""
        return self._adapter.encoding_bytes(num_samples)

    def _merge_audio(self, prompt: Sequence[int], audio: torch.Tensor) -> EncodedPrompt:
        ids = torch.tensor(prompt, device=self._device)
        is_audio = ids == self._audio_token
        if int(is_audio.sum()) != len(audio):
            raise ModelError(f"a prompt has {int(is_audio.sum())} audio tokens for {len(audio)} of the encoder")
        embeddings: torch.Tensor = self._embed(ids).clone()
        embeddings[is_audio] = audio.to(embeddings.device, embeddings.dtype)
        return EncodedPrompt(embeddings, is_audio, tuple(itertools.takewhile(self._audio_token.__ne__, prompt)))

    def generate(self, prompts: Sequence[EncodedPrompt], requests: Sequence[GenerationRequest]) -> list[Continuation]:
        """Generate the answer of each request about the prompt of the same index; prompts may repeat."""
        try:
            return self._generate(prompts, requests)
        except (RuntimeError, MemoryError) as error:
            if self.static is None or not (isinstance(error, CaptureError) or is_out_of_memory(error)):
                raise
            reason = str(error).split(". ")[0].rstrip(".")
        # Outside the handler, whose traceback keeps the tensors of the failed pass.
        self.static = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        notify(f"decoding goes on without CUDA graphs: {reason}. simulsa_cuda_graphs=false does so from the start.")
        return self._generate(prompts, requests)

    def _generate(self, prompts: Sequence[EncodedPrompt], requests: Sequence[GenerationRequest]) -> list[Continuation]:
        batch = _Batch(self, prompts, requests)
        with _dense_attention(self._decoder.config):
            batch.prefill_shared()
            with batch.recording_attention():
                batch.run_prompts()
                batch.load_static()
                while batch.active:
                    batch.decode_step()
        return [generation.continuation() for generation in batch.generations]

    def hidden_states(
        self, embeddings: torch.Tensor, mask: torch.Tensor, position_ids: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Run the language model once, (rows, tokens, width) to the same shape; the cache grows by `tokens`.

        A model that is spread over several devices ends on another one than it begins on, and each layer's cache is
        where the layer is.

        Args:
            embeddings: (rows, tokens, width).
            mask: (rows, 1, tokens, columns of the cache with these tokens), see `dense_mask`.
            position_ids: (rows, tokens).
            cache: keys and values of what came before.
        """
        hidden: torch.Tensor = self._decoder(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden.to(embeddings.device)

    def dense_mask(self, visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return a mask that transformers passes on as it is, boolean or to be added to scores of this dtype.

        Args:
            visible: (rows, tokens, columns of the cache), True where a token attends to a column.
            dtype: of embeddings.
        """
        mask = visible[:, None]
        if self._decoder.config._attn_implementation != "eager":
            return mask
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)

    def greedy_tokens(self, hidden: torch.Tensor) -> Iterator[tuple[int, float]]:
        """Yield the most probable token, except suppressed ones, and its probability for each of (positions, width)."""
        for part in torch.split(hidden, LOGITS_AT_ONCE):
            tokens, probabilities = self.most_probable(part)
            yield from zip(tokens.tolist(), probabilities.tolist(), strict=True)

    def most_probable(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `greedy_tokens` yields as tensors, (positions,) each."""
        with fp32_product(self._head):
            logits = self._head(hidden).float()
        total = logits.logsumexp(-1)
        best, tokens = logits.index_fill_(1, self._suppressed.to(logits.device), -torch.inf).max(-1)
        return tokens, torch.exp(best - total)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of text tokens."""
        embeddings: torch.Tensor = self._embed(token_ids)
        return embeddings


@contextlib.contextmanager
def _dense_attention(config: Any) -> Iterator[None]:
    """Let a model whose attention takes no dense mask, such as FlashAttention, use PyTorch's inside this context."""
    before = config._attn_implementation
    if before not in DENSE_ATTENTION:
        config._attn_implementation = DENSE_ATTENTION[0]
    try:
        yield
    finally:
        config._attn_implementation = before


@dataclass
class _Generation:
    """State of one request; `prompt_length` is in tokens."""

    request: GenerationRequest
    prompt_length: int
    new: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    ended: bool = False
    truncated: bool = False

    def append(self, prediction: Prediction, stop_ids: frozenset[int]) -> bool:
        """Append the predicted token, or end before it. Return whether generation goes on."""
        request, (token, probability, audio_ahead) = self.request, prediction
        if token in stop_ids or request.stops_before(probability, audio_ahead):
            self.ended = True
            return False
        self.new.append(token)
        self.probabilities.append(probability)
        stopped = request.stopping_criterion is not None and request.stopping_criterion(self.new)
        self.truncated = not stopped and len(self.new) == request.max_new_tokens
        self.ended = stopped or self.truncated
        return not self.ended

    @property
    def position_id(self) -> int:
        """Position id of the last generated token."""
        return self.prompt_length + len(self.request.prefix) + len(self.new) - 1

    def continuation(self) -> Continuation:
        return Continuation(tuple(self.new), self.truncated, tuple(self.probabilities))


class _PromptRow:
    """A prompt, the tree of the prefixes and drafts of all requests about it, and where each answer begins in it."""

    def __init__(self, number: int, prompt: EncodedPrompt) -> None:
        self.number, self.prompt, self.tree = number, prompt, TokenTree()
        self._generations: list[tuple[int, _Generation]] = []  # node of the prefix's last token

    def add(self, generation: _Generation) -> None:
        """Add a request about the prompt."""
        start = self.tree.add(generation.request.prefix)
        self.tree.add(generation.request.draft, start)
        self._generations.append((start, generation))

    def predicted_nodes(self) -> list[int]:
        """Return the nodes whose predictions a request may need."""
        return self.tree.after(start for start, _ in self._generations)

    def accept(
        self, predictions: Mapping[tuple[int, int], Prediction], stop_ids: frozenset[int]
    ) -> Iterable[tuple[tuple[int, int], list[_Generation]]]:
        """Append predictions to every request as long as the tree has the predicted tokens.

        Args:
            predictions: by row and node.
            stop_ids: see `_Generation.append`.

        Returns:
            row and node after which requests go on, and the requests: they have the same next token, not in the tree.
        """
        left: dict[tuple[int, int], list[_Generation]] = {}
        for node, generation in self._generations:
            while generation.append(prediction := predictions[self.number, node], stop_ids):
                child = self.tree.child(node, prediction[0])
                if child is None:
                    left.setdefault((self.number, node), []).append(generation)
                    break
                node = child
        return left.items()


class _Batch:
    """Requests decoded together: all prompts with their trees in one pass, then a token at a time."""

    def __init__(
        self, model: SharedPromptDecoder, prompts: Sequence[EncodedPrompt], requests: Sequence[GenerationRequest]
    ) -> None:
        self._model, self._device = model, prompts[0].embeddings.device
        self._rows = {one: _PromptRow(number, one) for number, one in enumerate(dict.fromkeys(prompts))}
        self.generations: list[_Generation] = []
        for prompt, request in zip(prompts, requests, strict=True):
            generation = _Generation(request, len(prompt.embeddings))
            self._rows[prompt].add(generation)
            self.generations.append(generation)
        self._cache = new_cache()
        self.active: list[tuple[int, list[_Generation]]] = []  # row of the cache, requests that are at the same token
        self._visible = torch.zeros((0, 0), dtype=torch.bool)  # (rows, columns of the cache) after the first pass
        self._shared = 0  # tokens that all prompts begin with
        self._attention: AttentionRecord | None = None
        self._static: StaticRows | None = None

    @contextlib.contextmanager
    def recording_attention(self) -> Iterator[None]:
        """Record the attention to the audio of the prompts, if a request needs it."""
        if all(generation.request.min_audio_ahead is None for generation in self.generations):
            yield
            return
        audio = torch.nn.utils.rnn.pad_sequence([prompt.audio for prompt in self._rows], batch_first=True)
        with self._model.attention.recording(audio) as self._attention:
            yield

    def prefill_shared(self) -> None:
        """Run the tokens that all prompts begin with once for all."""
        if len(self._rows) == 1:
            return
        first, *others = (prompt.before_audio for prompt in self._rows)
        self._shared = min(common_prefix(first, other) for other in others)
        if self._shared:
            columns = torch.arange(self._shared, device=self._device)[None]
            embeddings = next(iter(self._rows)).embeddings[None, : self._shared]
            self._run(embeddings, columns[:, None] <= columns[..., None], columns)
            self._select_rows([0] * len(self._rows))

    def run_prompts(self) -> None:
        """Run prompts and trees in one pass, and accept the tokens that greedy decoding would generate."""
        rows = list(self._rows.values())
        layout = lay_out([(len(row.prompt.embeddings), row.tree) for row in rows], self._shared)
        first = min(layout.roots)  # no position before it predicts anything
        if self._attention:
            self._attention.first_position = first
        hidden = self._run(
            self._embed(rows),
            torch.from_numpy(layout.visible).to(self._device),
            torch.from_numpy(layout.position_ids).to(self._device),
        )
        nodes = [(row.number, node) for row in rows for node in row.predicted_nodes()]
        positions = [(number, layout.roots[number] + node - first) for number, node in nodes]
        predictions = dict(zip(nodes, self._predictions(hidden[:, first:], positions), strict=True))
        accepted = {place: left for row in rows for place, left in row.accept(predictions, self._model.special.stop)}
        if self._attention:
            self._attention.first_position = 0
        if accepted:
            numbers = [number for number, _ in accepted]
            visible = layout.visible[numbers, [layout.roots[number] + node for number, node in accepted]]
            self._visible = torch.from_numpy(visible).to(self._device)
            self._select_rows(numbers)
        self.active = list(enumerate(accepted.values()))

    def _embed(self, rows: Sequence[_PromptRow]) -> torch.Tensor:
        """Return input embeddings of prompts and trees, (rows, tokens, width), without what is in the cache."""
        ids = torch.tensor([token for row in rows for token in row.tree.tokens], device=self._device).long()
        trees = torch.split(self._model.embed(ids), [len(row.tree.tokens) for row in rows])
        parts = [
            torch.cat([row.prompt.embeddings[self._shared :], tree]) for row, tree in zip(rows, trees, strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def load_static(self) -> None:
        """Move the cache to static buffers for decode steps, where there are any that suffice."""
        if self.active and self._attention is None and self._model.static is not None:
            self._static = self._model.static.load(self._cache.layers, self._visible)
        if self._static is not None:
            self._cache = new_cache()

    def _leave_static(self, rows: StaticRows) -> None:
        """Go on without static buffers, which have become too small."""
        for number, (keys, values) in enumerate(rows.layers):
            self._cache.update(keys, values, number)
        self._visible, self._static = rows.attended, None

    def decode_step(self) -> None:
        """Generate one token for every request that has not ended."""
        if self._static and not self._static.make_room():
            self._leave_static(self._static)
        rows = self._visible.shape[0]
        ids, position_ids = [0] * rows, [0] * rows
        for row, (generation, *_) in self.active:
            ids[row], position_ids[row] = generation.new[-1], generation.position_id
        for (_, generations), prediction in zip(self.active, self._next_predictions(ids, position_ids), strict=True):
            for generation in generations:
                generation.append(prediction, self._model.special.stop)
        self._drop_ended()

    def _next_predictions(self, ids: list[int], position_ids: list[int]) -> Iterable[Prediction]:
        """Append a token to every row, and return the predictions of the next one in active rows."""
        if self._static is not None:
            predicted = self._static.step(ids, position_ids)
            return [(*predicted[row], 1.0) for row, _ in self.active]
        self._visible = torch.cat([self._visible, self._visible.new_ones((len(ids), 1))], dim=1)
        embeddings = self._model.embed(torch.tensor(ids, device=self._device)[:, None])
        hidden = self._run(embeddings, self._visible[:, None], torch.tensor(position_ids, device=self._device)[:, None])
        return self._predictions(hidden, [(row, 0) for row, _ in self.active])

    def _run(self, embeddings: torch.Tensor, visible: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Return `SharedPromptDecoder.hidden_states` of tokens that attend to `visible` columns."""
        mask = self._model.dense_mask(visible, embeddings.dtype)
        return self._model.hidden_states(embeddings, mask, position_ids, self._cache)

    def _predictions(self, hidden: torch.Tensor, positions: Sequence[tuple[int, int]]) -> Iterator[Prediction]:
        """Yield the predictions at (row, position) of the last pass, whose output is `hidden`."""
        index = tuple(torch.tensor(positions, device=self._device).T)
        tokens = self._model.greedy_tokens(hidden[index])
        if self._attention is None:
            return ((*token, 1.0) for token in tokens)
        shares = self._attention.audio_ahead()[index].tolist()
        return ((*token, share) for token, share in zip(tokens, shares, strict=True))

    def _drop_ended(self) -> None:
        """Remove requests that have ended, and rows without any when that saves more than the copy costs."""
        left = [(row, [one for one in generations if not one.ended]) for row, generations in self.active]
        self.active = [(row, generations) for row, generations in left if generations]
        rows = [row for row, _ in self.active]
        if rows and len(rows) <= COMPACTION_SHARE * self._visible.shape[0]:
            self._visible = self._visible[torch.tensor(rows, device=self._device)]
            self._select_rows(rows)
            self.active = [(row, generations) for row, (_, generations) in enumerate(self.active)]

    def _select_rows(self, rows: Sequence[int]) -> None:
        """Keep these rows of the cache, in this order; a row from which requests go on at several tokens repeats."""
        kept = torch.tensor(rows, device=self._device)
        if self._static is None:
            self._cache.batch_select_indices(kept)
        else:
            self._static.select(kept)
        if self._attention:
            self._attention.select_rows(kept)
