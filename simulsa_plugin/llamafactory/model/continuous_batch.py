"""A batch that requests join while others go on; it is taken apart where it does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from simulsa_plugin.llamafactory.model.batched_decoding import SharedPromptDecoder
from simulsa_plugin.llamafactory.model.decode_rows import DecodeRows
from simulsa_plugin.llamafactory.model.generation import EncodedPrompt, Generation
from simulsa_plugin.llamafactory.model.out_of_memory import is_out_of_memory
from simulsa_plugin.llamafactory.model.prompt_pass import PromptPrefix
from simulsa_plugin.llamafactory.model.static_step import CaptureError
from simulsa_plugin.model.values import Continuation, GenerationRequest


class ContinuousBatch:
    """Implements `model.open_batch.OpenBatch` with the rows of one cache.

    Args:
        decoder: of the model.
        generate: answers requests in batches that fit into memory, as `Backbone.generate` does.
    """

    def __init__(
        self,
        decoder: SharedPromptDecoder,
        generate: Callable[[Sequence[EncodedPrompt], Sequence[GenerationRequest]], Sequence[Continuation]],
    ) -> None:
        self._decoder, self._generate = decoder, generate
        self._prefix, self._rows = PromptPrefix(decoder), DecodeRows(decoder)
        self._unfinished: dict[int, Generation] = {}
        self._count = 0

    @torch.inference_mode()
    def extend(
        self, prompts: Sequence[EncodedPrompt], requests: Sequence[GenerationRequest], unfinished: int
    ) -> dict[int, Continuation]:
        """Add requests and generate; see `OpenBatch.extend`.

        Raises:
            ModelError: a single session does not fit into memory.
        """
        numbers = range(self._count, self._count + len(requests))
        self._count = numbers.stop
        if any(request.min_audio_ahead is not None for request in requests):  # attention is recorded of whole batches
            left = self._answer([], [], range(0), 0)  # first, as both may not fit into memory
            return left | dict(zip(numbers, self._generate(prompts, requests), strict=True))
        return self._answer(prompts, requests, numbers, unfinished)

    def _answer(
        self,
        prompts: Sequence[EncodedPrompt],
        requests: Sequence[GenerationRequest],
        numbers: Sequence[int],
        unfinished: int,
    ) -> dict[int, Continuation]:
        """Add requests with these numbers, and decode; all start again in smaller batches where memory is short."""
        new = [Generation(*pair) for pair in zip(prompts, requests, strict=True)]
        self._unfinished.update(zip(numbers, new, strict=True))
        try:
            self._decoder.decode(new, self._rows, self._prefix, unfinished)
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, CaptureError) or is_out_of_memory(error)):
                raise
        else:
            return self._take_ended()
        # Outside the handler, whose traceback keeps the tensors of the failed pass.
        return self._start_again()

    def _take_ended(self) -> dict[int, Continuation]:
        ended = [number for number, generation in self._unfinished.items() if generation.ended]
        return {number: self._unfinished.pop(number).continuation() for number in ended}

    def _start_again(self) -> dict[int, Continuation]:
        """Answer all requests that have not ended from the start, in batches that fit into memory."""
        self._prefix, self._rows = PromptPrefix(self._decoder), DecodeRows(self._decoder)
        numbers, left = [*self._unfinished], [*self._unfinished.values()]
        self._unfinished.clear()
        answers = self._generate([one.prompt for one in left], [one.request for one in left])
        return dict(zip(numbers, answers, strict=True))
