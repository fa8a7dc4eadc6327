"""Batched greedy decoding with shared prompt prefill, draft verification and shared continuations.

Each distinct prompt is prefilled once for all requests about it, and what all prompts have before their audio once for
all. Then one pass takes the forced prefix and the draft of each request (tokens of its previous output that were rolled
back): draft tokens are accepted as long as they are the argmax, and decoding goes on from the first difference. The
result equals decoding one request at a time: lossless, as in speculative decoding (Leviathan et al. 2023, arXiv
2211.17192) with greedy acceptance.

Requests about one prompt that differ in when they stop, as those of several policies do, have the same tokens up to
there. So they share a row of the cache: in the pass where the tokens of one begin with those of another, and afterwards
as long as they are at the same token.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.model.attention import AttentionRecord, AudioAttention
from simulsa_plugin.llamafactory.model.audio_encoder import AudioAdapter
from simulsa_plugin.llamafactory.model.devices import execution_device
from simulsa_plugin.llamafactory.model.out_of_memory import is_out_of_memory
from simulsa_plugin.llamafactory.model.output_layer import fp32_product
from simulsa_plugin.llamafactory.model.special_tokens import SpecialTokens
from simulsa_plugin.llamafactory.model.static_step import CaptureError, StaticRows, StaticSteps, why_not_captured
from simulsa_plugin.llamafactory.plugin.notices import notify
from simulsa_plugin.metrics.stability import common_prefix
from simulsa_plugin.model.values import Continuation, GenerationRequest

LOGITS_AT_ONCE = 512  # positions whose logits are computed together; each has V of them
CACHE_GROWTH = 32  # tokens by which a full cache is enlarged
COMPACTION_SHARE = 0.75  # finished rows leave the cache when at most this share of its rows is active
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
        self.bytes_per_token = bytes_per_token(self._decoder.config, self._embed.weight.element_size())
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
        if self.static is None:
            self.bytes_per_token *= 2
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
        batch.prefill()
        with batch.recording_attention():
            batch.verify_drafts()
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
        """
        hidden: torch.Tensor = self._decoder(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden.to(embeddings.device)

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


@dataclass
class _Generation:
    """State of one request; `prompt_length` is in tokens."""

    request: GenerationRequest
    prompt_length: int
    new: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    ended: bool = False
    truncated: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        """The prefix and the draft."""
        return (*self.request.prefix, *self.request.draft)

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


@dataclass
class _Sequence:
    """Tokens after a prompt; all requests that have them share a row of the cache.

    Attributes:
        prompt: number of the prompt.
        tokens: prefix and draft of the longest request; those of the others are the first of these.
        generations: the requests.
    """

    prompt: int
    tokens: tuple[int, ...]
    generations: list[_Generation]

    @property
    def predicted(self) -> slice:
        """Positions whose predictions a request needs: 0 is the prompt's last token, which predicts the first one."""
        return slice(min(len(one.request.prefix) for one in self.generations), 1 + len(self.tokens))

    def accept(self, predictions: Sequence[Prediction], stop_ids: frozenset[int]) -> dict[int, list[_Generation]]:
        """Append predictions to every request as long as the tokens agree with them.

        Args:
            predictions: at the positions `predicted`.
            stop_ids: see `_Generation.append`.

        Returns:
            number of tokens that agreed → the requests that go on from there; all of these have the same next token.
        """
        left: dict[int, list[_Generation]] = {}
        for generation in self.generations:
            position = len(generation.request.prefix)
            while generation.append(prediction := predictions[position - self.predicted.start], stop_ids):
                if position == len(self.tokens) or prediction[0] != self.tokens[position]:
                    left.setdefault(position, []).append(generation)
                    break
                position += 1
        return left


def _share_sequences(generations: Sequence[_Generation], prompts: Sequence[int]) -> list[_Sequence]:
    """Return the sequences that requests need, those of one prompt longest first."""
    by_prompt: dict[int, list[_Sequence]] = {}
    for generation, prompt in sorted(zip(generations, prompts, strict=True), key=lambda one: -len(one[0].tokens)):
        tokens, known = generation.tokens, by_prompt.setdefault(prompt, [])
        longer = next((one for one in known if one.tokens[: len(tokens)] == tokens), None)
        if longer is None:
            known.append(_Sequence(prompt, tokens, [generation]))
        else:
            longer.generations.append(generation)
    return [sequence for known in by_prompt.values() for sequence in known]


class _Batch:
    """Requests decoded together. Columns of the cache: prompts, then prefixes and drafts, then generated tokens."""

    def __init__(
        self, model: SharedPromptDecoder, prompts: Sequence[EncodedPrompt], requests: Sequence[GenerationRequest]
    ) -> None:
        self._model = model
        self._unique = list(dict.fromkeys(prompts))
        numbers = {prompt: number for number, prompt in enumerate(self._unique)}
        self.generations = [
            _Generation(request, len(prompt.embeddings)) for prompt, request in zip(prompts, requests, strict=True)
        ]
        self._sequences = _share_sequences(self.generations, [numbers[prompt] for prompt in prompts])
        self._device = prompts[0].embeddings.device
        self._prompt_rows = torch.tensor([one.prompt for one in self._sequences], device=self._device)
        self.active: list[tuple[int, list[_Generation]]] = []  # row of the cache, requests that are at the same token
        self._cache = _new_cache()
        self._mask = torch.zeros((len(self._unique), 0), dtype=torch.long, device=self._device)
        self._attention: AttentionRecord | None = None
        self._static: StaticRows | None = None

    @contextlib.contextmanager
    def recording_attention(self) -> Iterator[None]:
        """Record the attention to the audio of the prefilled prompts, if a request needs it."""
        if all(generation.request.min_audio_ahead is None for generation in self.generations):
            yield
            return
        audio = torch.nn.utils.rnn.pad_sequence([one.audio[:-1] for one in self._unique], batch_first=True)
        with self._model.attention.recording(audio[self._prompt_rows]) as self._attention:
            yield

    def _predictions(self, hidden: torch.Tensor, spans: Sequence[tuple[int, slice]]) -> Iterator[Prediction]:
        """Yield the predictions at (row, positions) spans of the last pass, whose output is `hidden`."""
        tokens = self._model.greedy_tokens(torch.cat([hidden[span] for span in spans]))
        if self._attention is None:
            return ((*token, 1.0) for token in tokens)
        audio_ahead = self._attention.audio_ahead()
        shares = torch.cat([audio_ahead[span] for span in spans]).tolist()
        return ((*token, share) for token, share in zip(tokens, shares, strict=True))

    def prefill(self) -> None:
        """Run all distinct prompts without their last tokens, and copy keys and values to the row of every sequence."""
        shared = self._prefill_shared()
        lengths = torch.tensor([len(prompt.embeddings) for prompt in self._unique], device=self._device)
        padded = torch.nn.utils.rnn.pad_sequence([one.embeddings[shared:-1] for one in self._unique], batch_first=True)
        columns = torch.arange(shared + padded.shape[1], device=self._device)
        mask = (columns < (lengths - 1)[:, None]).long()
        self._model.hidden_states(padded, mask, columns[shared:].expand(len(mask), -1), self._cache)
        self._cache.batch_select_indices(self._prompt_rows)
        self._mask = mask[self._prompt_rows]

    def _prefill_shared(self) -> int:
        """Run the tokens that all prompts begin with, once for all; return how many these are."""
        if len(self._unique) == 1:
            return 0
        first, *others = (prompt.before_audio for prompt in self._unique)
        shared = min(common_prefix(first, other) for other in others)
        if shared == 0:
            return 0
        columns = torch.arange(shared, device=self._device)[None]
        embeddings = self._unique[0].embeddings[None, :shared]
        self._model.hidden_states(embeddings, torch.ones_like(columns), columns, self._cache)
        self._cache.batch_select_indices(torch.zeros(len(self._unique), dtype=torch.long, device=self._device))
        return shared

    def verify_drafts(self) -> None:
        """Run prefixes and drafts in one pass, and accept the draft tokens that greedy decoding would generate."""
        length = 1 + max(len(sequence.tokens) for sequence in self._sequences)  # the prompt's last token comes first
        padded = [[*one.tokens, *[0] * (length - 1 - len(one.tokens))] for one in self._sequences]
        ids = torch.tensor(padded, device=self._device).reshape(len(padded), length - 1).long()
        last = torch.stack([prompt.embeddings[-1] for prompt in self._unique])[self._prompt_rows]
        embeddings = torch.cat([last[:, None], self._model.embed(ids)], dim=1)
        columns = torch.arange(length, device=self._device)
        valid = columns < torch.tensor([1 + len(one.tokens) for one in self._sequences], device=self._device)[:, None]
        starts = [one.generations[0].prompt_length - 1 for one in self._sequences]
        position_ids = torch.tensor(starts, device=self._device)[:, None] + columns
        before = self._mask.shape[1]
        self._mask = torch.cat([self._mask, valid.long()], dim=1)
        hidden = self._model.hidden_states(embeddings, self._mask, position_ids, self._cache)
        spans = [(row, sequence.predicted) for row, sequence in enumerate(self._sequences)]
        predictions = self._predictions(hidden, spans)
        accepted: list[tuple[int, int, list[_Generation]]] = []  # row, columns of the pass that are kept, requests
        for row, sequence in enumerate(self._sequences):
            of_sequence = list(itertools.islice(predictions, sequence.predicted.stop - sequence.predicted.start))
            for position, generations in sequence.accept(of_sequence, self._model.special.stop).items():
                accepted.append((row, 1 + position, generations))
        self._set_active([(row, generations) for row, _, generations in accepted])
        for (row, _), (_, kept, _) in zip(self.active, accepted, strict=True):
            self._mask[row, before + kept :] = 0

    def load_static(self) -> None:
        """Move the cache to static buffers for decode steps, where there are any that suffice."""
        if self.active and self._attention is None and self._model.static is not None:
            self._static = self._model.static.load(self._cache.layers, self._mask.bool())
        if self._static is not None:
            self._cache = _new_cache()

    def _leave_static(self, rows: StaticRows) -> None:
        """Go on without static buffers, which have become too small."""
        for number, (keys, values) in enumerate(rows.layers):
            self._cache.update(keys, values, number)
        self._mask, self._static = rows.attended.long(), None

    def decode_step(self) -> None:
        """Generate one token for every request that has not ended."""
        if self._static and not self._static.make_room():
            self._leave_static(self._static)
        rows = self._mask.shape[0]
        ids, position_ids = [0] * rows, [0] * rows
        for row, (generation, *_) in self.active:
            ids[row], position_ids[row] = generation.new[-1], generation.position_id
        for (_, generations), prediction in zip(self.active, self._next_predictions(ids, position_ids), strict=True):
            for generation in generations:
                generation.append(prediction, self._model.special.stop)
        self._set_active([(row, [one for one in generations if not one.ended]) for row, generations in self.active])

    def _next_predictions(self, ids: list[int], position_ids: list[int]) -> Iterable[Prediction]:
        """Append a token to every row, and return the predictions of the next one in active rows."""
        if self._static is not None:
            predicted = self._static.step(ids, position_ids)
            return [(*predicted[row], 1.0) for row, _ in self.active]
        rows = self._mask.shape[0]
        self._mask = torch.cat([self._mask, self._mask.new_ones((rows, 1))], dim=1)
        embeddings = self._model.embed(torch.tensor(ids, device=self._device)[:, None])
        hidden = self._model.hidden_states(
            embeddings, self._mask, torch.tensor(position_ids, device=self._device)[:, None], self._cache
        )
        return self._predictions(hidden, [(row, slice(0, 1)) for row, _ in self.active])

    def _set_active(self, active: Sequence[tuple[int, list[_Generation]]]) -> None:
        """Set which requests go on, from which row of the cache.

        Rows without any leave the cache when that saves more than the copy costs; a row from which requests go on at
        different tokens is repeated.
        """
        self.active = [(row, generations) for row, generations in active if generations]
        rows = [row for row, _ in self.active]
        if not rows or (len(rows) > COMPACTION_SHARE * self._mask.shape[0] and len(set(rows)) == len(rows)):
            return
        kept = torch.tensor(rows, device=self._device)
        if self._static is None:
            self._cache.batch_select_indices(kept)
        else:
            self._static.select(kept)
        self._mask = self._mask[kept]
        if self._attention:
            self._attention.select_rows(kept)
        self.active = [(row, generations) for row, (_, generations) in enumerate(self.active)]


class _PreallocatedCacheLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
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


def _new_cache() -> Cache:
    return Cache(layer_class_to_replicate=_PreallocatedCacheLayer)


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
    """Return the bytes of one token's keys and values in all layers of a language model, from its configuration."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * element_size)
