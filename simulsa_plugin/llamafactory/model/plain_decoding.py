"""Greedy decoding through transformers' own `generate`: for every model, and what faster paths are held against."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.llamafactory.model.attention import AudioAttention, Watch
from simulsa_plugin.llamafactory.model.batched_decoding import bytes_per_token
from simulsa_plugin.llamafactory.model.output_layer import fp32_product
from simulsa_plugin.llamafactory.model.special_tokens import SpecialTokens
from simulsa_plugin.model.values import Continuation, GenerationRequest

Collate = Callable[[list[list[int]], Sequence[Waveform]], dict[str, Any]]
ShortWindow = Callable[[dict[str, Any]], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True, eq=False)
class PlainPrompt:
    """A prompt and the audio heard so far; nothing is computed before it is continued."""

    token_ids: tuple[int, ...]
    waveform: Waveform


class PlainDecoder:
    """Reads prompts and continues answers for any model that LLaMA-Factory trains. Drafts are of no use here.

    Args:
        model: transformers' model.
        collate: (token ids, waveforms) → left-padded inputs of the model.
        special: tokens of the template.
        short_window: a context in which the model takes what `collate` gives.
        attention: of the model's decoder.
        audio_token: what stands for audio in a prompt.
    """

    def __init__(
        self,
        model: Any,
        collate: Collate,
        special: SpecialTokens,
        short_window: ShortWindow,
        attention: AudioAttention,
        audio_token: int,
    ) -> None:
        self._model, self._collate, self.special, self._short_window = model, collate, special, short_window
        self._attention, self._audio_token = attention, audio_token
        self.bytes_per_token = bytes_per_token(model.config.get_text_config(decoder=True), model.dtype.itemsize)

    def encode_prompts(self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]) -> list[PlainPrompt]:
        """Keep both until they are needed."""
        return [PlainPrompt(tuple(prompt), waveform) for prompt, waveform in zip(prompts, waveforms, strict=True)]

    def encoding_bytes(self, num_samples: Sequence[int]) -> int:
        """Nothing is computed."""
        return 0

    def generate(self, prompts: Sequence[PlainPrompt], requests: Sequence[GenerationRequest]) -> list[Continuation]:
        """Continue the answer of each request about the prompt at the same place."""
        rows = [[*prompt.token_ids, *request.prefix] for prompt, request in zip(prompts, requests, strict=True)]
        batch = self._collate(rows, [prompt.waveform for prompt in prompts])
        limit = max(request.max_new_tokens for request in requests)
        generated = self._generate(
            batch, limit, watches=any(request.min_audio_ahead is not None for request in requests)
        )
        rows_and_requests = zip(*generated, requests, strict=True)
        return [self._continuation(ids, judged, unheard, one) for ids, judged, unheard, one in rows_and_requests]

    def _generate(self, batch: dict[str, Any], limit: int, *, watches: bool) -> tuple[list[list[Any]], ...]:
        """(new tokens, their probabilities, the share of the audio behind the place looked at) of each row."""
        from transformers import GenerationConfig, LogitsProcessorList

        greedy = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=limit, eos_token_id=sorted(self.special.stop),
            pad_token_id=self.special.pad,
        )  # fmt: skip
        in_fp32 = fp32_product(self._model.get_output_embeddings())
        watching = self._attention.watching(batch["input_ids"] == self._audio_token, last=True)
        with (
            self._without_generation_defaults(),
            self._short_window(batch),
            in_fp32,
            watching if watches else contextlib.nullcontext() as watch,
        ):
            chooser = _Chooser(self.special.never, watch)
            generated = self._model.generate(
                **batch, generation_config=greedy, logits_processor=LogitsProcessorList([chooser])
            )
        token_ids = generated[:, batch["input_ids"].shape[1] :]
        kept = [torch.stack(one, dim=1) for one in (chooser.probabilities, chooser.unheard)]
        return token_ids.tolist(), *(one.tolist() for one in kept)

    @contextlib.contextmanager
    def _without_generation_defaults(self) -> Iterator[None]:
        """Set aside the checkpoint's generation_config.json: `generate` fills gaps from it.

        Chat checkpoints come with a repetition penalty, which is no greedy search.
        """
        from transformers import GenerationConfig

        before, self._model.generation_config = self._model.generation_config, GenerationConfig()
        try:
            yield
        finally:
            self._model.generation_config = before

    def _continuation(
        self, token_ids: list[int], probabilities: list[float], unheard: list[float], request: GenerationRequest
    ) -> Continuation:
        """What was generated, up to where a request's answer ends."""
        length, truncated = self._end(token_ids, probabilities, unheard, request)
        return Continuation(tuple(token_ids[:length]), truncated, tuple(probabilities[:length]))

    def _end(
        self, token_ids: list[int], probabilities: list[float], unheard: list[float], request: GenerationRequest
    ) -> tuple[int, bool]:
        """(tokens of the answer, whether the limit came first)."""
        for count, token_id in enumerate(token_ids[: request.max_new_tokens]):
            if token_id in self.special.stop or request.stops_before(probabilities[count], unheard[count]):
                return count, False
            if request.stopping_criterion is not None and request.stopping_criterion(token_ids[: count + 1]):
                return count + 1, False
        return request.max_new_tokens, True


class _Chooser:
    """A logits processor that excludes tokens, and keeps the probability of the best one left instead of all logits.

    `output_logits=True` would keep (tokens, rows, V) in fp32: 17 GB for 64 rows, 256 tokens and Gemma's V = 262,144.

    Args:
        never: token ids that are not chosen; their share of the probability is not given to others.
        watch: of the pass that made the logits; None where nobody asks where the model looks.
    """

    def __init__(self, never: Sequence[int], watch: Watch | None = None) -> None:
        self._never, self._watch = list(never), watch
        self.probabilities: list[torch.Tensor] = []
        self.unheard: list[torch.Tensor] = []

    def __call__(self, _: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """(rows, V) in fp32, of which `generate` takes the largest; two numbers a row are noted."""
        total = logits.logsumexp(-1)
        logits[:, self._never] = -torch.inf
        self.probabilities.append(torch.exp(logits.max(-1).values - total))
        self.unheard.append(self._watch.unheard()[:, -1] if self._watch else torch.ones(len(logits)))
        return logits
