"""Greedy decoding with transformers' `generate`: works for every model, and is the reference for faster decoders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.llamafactory.model.attention import AttentionRecord, AudioAttention
from simulsa_plugin.llamafactory.model.kv_cache import bytes_per_token, logits_bytes
from simulsa_plugin.llamafactory.model.output_layer import fp32_product
from simulsa_plugin.llamafactory.model.special_tokens import SpecialTokens
from simulsa_plugin.model.values import Continuation, GenerationRequest

Collate = Callable[[list[list[int]], Sequence[Waveform]], dict[str, Any]]
AcceptTrimmed = Callable[[dict[str, Any]], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True, eq=False)
class PlainPrompt:
    """A prompt with the audio received so far; nothing is computed before `generate`."""

    token_ids: tuple[int, ...]
    waveform: Waveform


class PlainDecoder:
    """Generates answers with any model that LLaMA-Factory trains. Drafts are ignored.

    Args:
        model: transformers' model.
        collate: (token ids, waveforms) → left-padded inputs of the model.
        special: tokens of the template.
        accept_trimmed: context manager in which the model accepts the batches of `collate`.
        attention: of the model's decoder.
        audio_token: id of the audio placeholder in prompts.
    """

    def __init__(
        self,
        model: Any,
        collate: Collate,
        special: SpecialTokens,
        accept_trimmed: AcceptTrimmed,
        attention: AudioAttention,
        audio_token: int,
    ) -> None:
        self._model, self._collate, self.special, self._accept_trimmed = model, collate, special, accept_trimmed
        self._attention, self._audio_token = attention, audio_token
        config = model.config.get_text_config(decoder=True)
        self.bytes_per_token = bytes_per_token(config, model.dtype.itemsize)
        self.bytes_per_session = logits_bytes(config, model.dtype.itemsize)

    def encode_prompts(self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]) -> list[PlainPrompt]:
        """Pair prompts with waveforms; `generate` encodes them."""
        return [PlainPrompt(tuple(prompt), waveform) for prompt, waveform in zip(prompts, waveforms, strict=True)]

    def encoding_bytes(self, num_samples: Sequence[int]) -> int:
        """Return 0: nothing is computed before `generate`."""
        return 0

    def generate(self, prompts: Sequence[PlainPrompt], requests: Sequence[GenerationRequest]) -> list[Continuation]:
        """Generate the answer of each request about the prompt of the same index."""
        rows = [[*prompt.token_ids, *request.prefix] for prompt, request in zip(prompts, requests, strict=True)]
        batch = self._collate(rows, [prompt.waveform for prompt in prompts])
        limit = max(request.max_new_tokens for request in requests)
        needs_attention = any(request.min_audio_ahead is not None for request in requests)
        generated = self._generate(batch, limit, needs_attention=needs_attention)
        return [self._continuation(*row) for row in zip(*generated, requests, strict=True)]

    def _generate(self, batch: dict[str, Any], limit: int, *, needs_attention: bool) -> tuple[list[list[Any]], ...]:
        """Return new tokens, their probabilities, and the shares of audio after the most attended positions, by row."""
        from transformers import GenerationConfig, LogitsProcessorList

        greedy = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=limit, eos_token_id=sorted(self.special.stop),
            pad_token_id=self.special.pad,
        )  # fmt: skip
        in_fp32 = fp32_product(self._model.get_output_embeddings())
        recording = self._attention.recording(batch["input_ids"] == self._audio_token, first_position=-1)
        with (
            self._without_generation_defaults(),
            self._accept_trimmed(batch),
            in_fp32,
            recording if needs_attention else contextlib.nullcontext() as attention,
        ):
            processor = _GreedyRecorder(self.special.suppressed, attention)
            generated = self._model.generate(
                **batch, generation_config=greedy, logits_processor=LogitsProcessorList([processor])
            )
        token_ids = generated[:, batch["input_ids"].shape[1] :]
        recorded = [torch.stack(steps, dim=1) for steps in (processor.probabilities, processor.audio_ahead)]
        return token_ids.tolist(), *(one.tolist() for one in recorded)

    @contextlib.contextmanager
    def _without_generation_defaults(self) -> Iterator[None]:
        """Set aside the checkpoint's generation_config.json: `generate` fills gaps from it.

        Chat checkpoints have a repetition penalty, which greedy decoding must not apply.
        """
        from transformers import GenerationConfig

        before, self._model.generation_config = self._model.generation_config, GenerationConfig()
        try:
            yield
        finally:
            self._model.generation_config = before

    def _continuation(
        self, token_ids: list[int], probabilities: list[float], audio_ahead: list[float], request: GenerationRequest
    ) -> Continuation:
        """Cut generated tokens at the end of a request's answer."""
        length, truncated = self._find_end(token_ids, probabilities, audio_ahead, request)
        return Continuation(tuple(token_ids[:length]), truncated, tuple(probabilities[:length]))

    def _find_end(
        self, token_ids: list[int], probabilities: list[float], audio_ahead: list[float], request: GenerationRequest
    ) -> tuple[int, bool]:
        """Return the length of the answer in tokens, and whether it was truncated at the maximum."""
        for count, token_id in enumerate(token_ids[: request.max_new_tokens]):
            if token_id in self.special.stop or request.stops_before(probabilities[count], audio_ahead[count]):
                return count, False
            if request.stopping_criterion is not None and request.stopping_criterion(token_ids[: count + 1]):
                return count + 1, False
        return request.max_new_tokens, True


class _GreedyRecorder:
    """A logits processor that suppresses tokens, and records the probability of the argmax instead of all logits.

    `output_logits=True` would keep (tokens, rows, V) in fp32: 17 GB for 64 rows, 256 tokens and Gemma's V = 262,144.

    Args:
        suppressed: token ids that are not generated; probabilities are not renormalized.
        attention: of the pass that computed the logits; None where no request needs it.
    """

    def __init__(self, suppressed: Sequence[int], attention: AttentionRecord | None = None) -> None:
        self._suppressed, self._attention = list(suppressed), attention
        self.probabilities: list[torch.Tensor] = []
        self.audio_ahead: list[torch.Tensor] = []

    def __call__(self, _: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Process logits (rows, V) in fp32, of which `generate` takes the largest."""
        total = logits.logsumexp(-1)
        logits[:, self._suppressed] = -torch.inf
        self.probabilities.append(torch.exp(logits.max(-1).values - total))
        ahead = self._attention.audio_ahead()[:, -1] if self._attention else torch.ones(len(logits))
        self.audio_ahead.append(ahead)
        return logits
