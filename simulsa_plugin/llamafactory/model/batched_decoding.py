"""Greedy decoding of many answers at once: prompts are read once, drafts are checked as they are read.

A prompt is read once for all answers about it. Each answer's forced prefix and its draft, what the session said before
and took back, then go through the model in one pass: as long as the model would have said the draft's next token anyway
it is taken over, and decoding goes on from the first difference. The result is that of decoding alone: lossless, as in
speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) with greedy acceptance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.model.attention import AudioAttention, Watch
from simulsa_plugin.llamafactory.model.audio_encoder import AudioAdapter
from simulsa_plugin.llamafactory.model.devices import execution_device
from simulsa_plugin.llamafactory.model.output_layer import fp32_product
from simulsa_plugin.llamafactory.model.special_tokens import SpecialTokens
from simulsa_plugin.model.values import Continuation, GenerationRequest

LOGITS_AT_ONCE = 512  # positions; a row of logits is as wide as the vocabulary
GROWTH = 32  # tokens by which a full cache grows
Choice = tuple[int, float, float]  # token, its probability, share of the audio behind the place looked at
KEPT_SHARE = 0.75  # rows that are still decoded move together when they are no more than this share


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt about the audio heard so far, as the language model reads it.

    Attributes:
        embeddings: (num_tokens, width).
        audio: (num_tokens,), True where there is audio.
    """

    embeddings: torch.Tensor
    audio: torch.Tensor


class SharedPromptDecoder:
    """Reads prompts and continues answers for a model whose audio an adapter embeds.

    Args:
        model: transformers' model, less its LoRA wrapping, with a `config.audio_token_id`.
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
        self.bytes_per_token = bytes_per_token(self._decoder.config, self._embed.weight.element_size())

    def encode_prompts(self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]) -> list[EncodedPrompt]:
        """Encode audio in one batch, and put it where the prompts' audio tokens stand.

        Raises:
            ModelError: a prompt has another number of audio tokens than the audio.
        """
        return [
            self._merge(prompt, audio) for prompt, audio in zip(prompts, self._adapter.embed(waveforms), strict=True)
        ]

    def encoding_bytes(self, num_samples: Sequence[int]) -> int:
        """What `read` occupies at most, about, for waveforms of these lengths."""
        return self._adapter.bytes_to_embed(num_samples)

    def _merge(self, prompt: Sequence[int], audio: torch.Tensor) -> EncodedPrompt:
        ids = torch.tensor(prompt, device=self._device)
        places = ids == self._audio_token
        if int(places.sum()) != len(audio):
            raise ModelError(f"a prompt has {int(places.sum())} audio tokens for {len(audio)} of the encoder")
        embeddings: torch.Tensor = self._embed(ids).clone()
        embeddings[places] = audio.to(embeddings.device, embeddings.dtype)
        return EncodedPrompt(embeddings, places)

    def generate(self, prompts: Sequence[EncodedPrompt], requests: Sequence[GenerationRequest]) -> list[Continuation]:
        """Continue the answer of each request about the prompt at the same place; prompts may repeat."""
        batch = _Batch(self, prompts, requests)
        batch.prefill()
        with batch.watching():
            batch.verify_drafts()
            while batch.active:
                batch.decode_step()
        return [answer.continuation() for answer in batch.answers]

    def hidden(self, embeddings: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, cache: Cache) -> torch.Tensor:
        """One pass of the language model: (rows, tokens, width) to the same; the cache grows by `tokens`.

        A model that is spread over several devices ends on another one than it begins on, and each layer's cache is
        where the layer is.
        """
        hidden: torch.Tensor = self._decoder(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return hidden.to(embeddings.device)

    def choose(self, hidden: torch.Tensor) -> Iterator[tuple[int, float]]:
        """(most probable token, its probability) at each of (positions, width)."""
        for part in torch.split(hidden, LOGITS_AT_ONCE):
            with fp32_product(self._head):
                logits = self._head(part).float()
            total = logits.logsumexp(-1)
            logits[:, list(self.special.never)] = -torch.inf
            best, token = logits.max(-1)
            yield from zip(token.tolist(), torch.exp(best - total).tolist(), strict=True)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of text tokens."""
        embeddings: torch.Tensor = self._embed(token_ids)
        return embeddings


@dataclass
class _Answer:
    """One request on its way; `prompt` counts the prompt's tokens, `row` is its place in the cache."""

    request: GenerationRequest
    prompt: int
    row: int
    new: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    ended: bool = False
    truncated: bool = False

    def takes(self, choice: Choice, stop_ids: frozenset[int]) -> bool:
        """Take the next token, or end before it; whether decoding goes on."""
        request, (token, probability, unheard) = self.request, choice
        if token in stop_ids or request.stops_before(probability, unheard):
            self.ended = True
            return False
        self.new.append(token)
        self.probabilities.append(probability)
        enough = request.stopping_criterion is not None and request.stopping_criterion(self.new)
        self.truncated = not enough and len(self.new) == request.max_new_tokens
        self.ended = enough or self.truncated
        return not self.ended

    @property
    def place(self) -> int:
        """Position of the token that was said last."""
        return self.prompt + len(self.request.prefix) + len(self.new) - 1

    def continuation(self) -> Continuation:
        return Continuation(tuple(self.new), self.truncated, tuple(self.probabilities))


class _Batch:
    """Answers that are decoded together. Columns of the cache: prompts, then prefixes and drafts, then what is said."""

    def __init__(
        self, model: SharedPromptDecoder, prompts: Sequence[EncodedPrompt], requests: Sequence[GenerationRequest]
    ) -> None:
        self._model = model
        self._unique = list(dict.fromkeys(prompts))
        numbers = {prompt: number for number, prompt in enumerate(self._unique)}
        self._prompt_rows = [numbers[prompt] for prompt in prompts]
        self.answers = [
            _Answer(request, len(prompt.embeddings), row)
            for row, (prompt, request) in enumerate(zip(prompts, requests, strict=True))
        ]
        self.active = list(self.answers)
        self._cache = Cache(layer_class_to_replicate=_RoomyLayer)
        self._device = prompts[0].embeddings.device
        self._mask = torch.zeros((len(requests), 0), dtype=torch.long, device=self._device)
        self._watch: Watch | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """See where the model looks in the prompts that have been read, if a request asks for it."""
        if all(answer.request.min_audio_ahead is None for answer in self.answers):
            yield
            return
        audio = torch.nn.utils.rnn.pad_sequence([one.audio[:-1] for one in self._unique], batch_first=True)
        rows = torch.tensor(self._prompt_rows, device=self._device)
        with self._model.attention.watching(audio[rows]) as self._watch:
            yield

    def _choices(self, hidden: torch.Tensor, places: Sequence[tuple[int, slice]]) -> Iterator[Choice]:
        """What the model says at places, (row, positions) of the last pass, whose output is `hidden`."""
        chosen = self._model.choose(torch.cat([hidden[place] for place in places]))
        if self._watch is None:
            return ((*choice, 1.0) for choice in chosen)
        unheard = self._watch.unheard()
        behind = torch.cat([unheard[place] for place in places]).tolist()
        return ((*choice, share) for choice, share in zip(chosen, behind, strict=True))

    def verify_drafts(self) -> None:
        """Read prefixes and drafts after the prompts, and take over what the model would have said."""
        last = self._last
        texts = [[*answer.request.prefix, *answer.request.draft] for answer in self.answers]
        length = 1 + max(map(len, texts))
        ids = torch.tensor([text + [0] * (length - 1 - len(text)) for text in texts], device=self._device)
        ids = ids.reshape(len(texts), length - 1).long()
        embeddings = torch.cat([last[:, None], self._model.embed(ids)], dim=1)
        columns = torch.arange(length, device=self._device)
        valid = columns < torch.tensor([1 + len(text) for text in texts], device=self._device)[:, None]
        start = torch.tensor([answer.prompt - 1 for answer in self.answers], device=self._device)[:, None]
        before = self._mask.shape[1]
        self._mask = torch.cat([self._mask, valid.long()], dim=1)
        hidden = self._model.hidden(embeddings, self._mask, start + columns, self._cache)
        choices = self._choices(hidden, [self._guessed(answer) for answer in self.answers])
        for answer in self.answers:
            kept = 1 + len(answer.request.prefix) + self._accept(answer, choices)
            self._mask[answer.row, before + kept :] = 0
        self._let_go()

    def prefill(self) -> None:
        """Read all prompts but for their last tokens."""
        lengths = torch.tensor([len(prompt.embeddings) for prompt in self._unique], device=self._device)
        padded = torch.nn.utils.rnn.pad_sequence([one.embeddings[:-1] for one in self._unique], batch_first=True)
        columns = torch.arange(padded.shape[1], device=self._device)
        mask = (columns < (lengths - 1)[:, None]).long()
        self._model.hidden(padded, mask, columns.expand(len(mask), -1), self._cache)
        rows = torch.tensor(self._prompt_rows, device=self._device)
        self._cache.batch_select_indices(rows)
        self._mask = mask[rows]
        self._last = torch.stack([one.embeddings[-1] for one in self._unique])[rows]

    def _guessed(self, answer: _Answer) -> tuple[int, slice]:
        """The places that predict the first new token and those after each token of the draft."""
        first = len(answer.request.prefix)
        return answer.row, slice(first, first + 1 + len(answer.request.draft))

    def _accept(self, answer: _Answer, choices: Iterator[Choice]) -> int:
        """Take tokens as long as the draft agrees; how many of the draft's are right."""
        right, going = 0, True
        for guess in (*answer.request.draft, None):
            choice = next(choices)
            if going and answer.takes(choice, self._model.special.stop) and choice[0] == guess:
                right += 1
            else:
                going = False
        return right

    def decode_step(self) -> None:
        """One token more for every answer that has not ended."""
        width = self._mask.shape[0]
        ids, places = [0] * width, [0] * width
        for answer in self.active:
            ids[answer.row], places[answer.row] = answer.new[-1], answer.place
        self._mask = torch.cat([self._mask, self._mask.new_ones((width, 1))], dim=1)
        embeddings = self._model.embed(torch.tensor(ids, device=self._device)[:, None])
        hidden = self._model.hidden(
            embeddings, self._mask, torch.tensor(places, device=self._device)[:, None], self._cache
        )
        last = [(answer.row, slice(0, 1)) for answer in self.active]
        for answer, choice in zip(self.active, self._choices(hidden, last), strict=True):
            answer.takes(choice, self._model.special.stop)
        self._let_go()

    def _let_go(self) -> None:
        """Forget answers that have ended; their rows leave the cache when that is worth the copying."""
        self.active = [answer for answer in self.active if not answer.ended]
        if not 0 < len(self.active) <= KEPT_SHARE * self._mask.shape[0]:
            return
        rows = torch.tensor([answer.row for answer in self.active], device=self._device)
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]
        if self._watch:
            self._watch.select(rows)
        for row, answer in enumerate(self.active):
            answer.row = row


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer of the cache that copies itself once in `GROWTH` tokens, not at every one."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (rows, heads, tokens, width) to keys and values, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self._room: tuple[torch.Tensor, torch.Tensor] | None = None
        length = self.keys.shape[-2]
        end = length + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < end:
            self._room = _with_room(self.keys, end), _with_room(self.values, end)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, length:end] = states
        self.keys, self.values = self._room[0][:, :, :end], self._room[1][:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order; rows may repeat, and `indices` may be on another device than the layer."""
        rows = indices.to(self.keys.device)
        self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        self._room = None


def _with_room(states: torch.Tensor, length: int) -> torch.Tensor:
    rows, heads, tokens, width = states.shape
    room = states.new_empty((rows, heads, length + GROWTH, width))
    room[:, :, :tokens] = states
    return room


def bytes_per_token(config: Any, element_size: int) -> int:
    """Keys and values of one token in all layers of a language model, from its configuration."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * element_size)
