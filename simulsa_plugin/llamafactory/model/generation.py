"""A prompt with its audio, and the state of a request about it while its answer is generated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from simulsa_plugin.model.values import Continuation, GenerationRequest

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


@dataclass(eq=False)
class Generation:
    """State of one request about a prompt."""

    prompt: EncodedPrompt
    request: GenerationRequest
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
        return len(self.prompt.embeddings) + len(self.request.prefix) + len(self.new) - 1

    def continuation(self) -> Continuation:
        """Return what was generated."""
        return Continuation(tuple(self.new), self.truncated, tuple(self.probabilities))


def next_positions(rows: Iterable[Sequence[Generation]]) -> list[int]:
    """Return the position id of each row's next token, which is how many tokens it attends to before itself.

    Args:
        rows: the requests of each row, which are at the same token.
    """
    return [generation.position_id for generation, *_ in rows]
