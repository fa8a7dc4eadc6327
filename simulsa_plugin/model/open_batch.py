"""Batches that requests join while others go on (continuous batching), as in Orca (Yu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import Continuation, GenerationRequest


class OpenBatch(Protocol):
    """Requests that are answered together; others may join before all have ended."""

    def extend(
        self, prompts: Sequence[Any], requests: Sequence[GenerationRequest], unfinished: int
    ) -> dict[int, Continuation]:
        """Add requests, and generate until no more than a number of all that were added have not ended.

        Args:
            prompts: of `AudioLanguageModel.encode_prompts`, one for each request; they may repeat.
            requests: numbered in order, from those before on.
            unfinished: how many may be left; 0 answers all.

        Returns:
            answers that have not been returned before, by number.
        """
        ...


@runtime_checkable
class ContinuousModel(Protocol):
    """A model with batches that requests can join."""

    def open_batch(self) -> OpenBatch:
        """Return an empty batch; the model answers nothing else meanwhile."""
        ...


class SeparateBatches:
    """Implements `OpenBatch` for any model: whatever is added is answered at once."""

    def __init__(self, model: AudioLanguageModel) -> None:
        self._model, self._count = model, 0

    def extend(
        self, prompts: Sequence[Any], requests: Sequence[GenerationRequest], unfinished: int
    ) -> dict[int, Continuation]:
        """Answer requests; see `OpenBatch.extend`."""
        if not requests:
            return {}
        answers = dict(enumerate(self._model.generate(prompts, requests), self._count))
        self._count += len(answers)
        return answers


def open_batch(model: AudioLanguageModel) -> OpenBatch:
    """Return an empty batch of a model."""
    return model.open_batch() if isinstance(model, ContinuousModel) else SeparateBatches(model)
