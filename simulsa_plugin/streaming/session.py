"""One utterance under one policy and chunk: what it has heard, shown and committed."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulsa_plugin.audio import SAMPLE_RATE
from simulsa_plugin.model import Continuation

SAMPLES_PER_MS = SAMPLE_RATE // 1000
SHORTEST_MS = 150  # a step that has heard less only reads; models make nothing of it, some crash


@dataclass(frozen=True)
class Step:
    """What a session showed after one step.

    Attributes:
        audio_ms: milliseconds of source heard.
        token_ids: y_i, everything shown.
        committed_tokens: c_i, the part that will not change.
        finished: the whole utterance has been heard.
        truncated: the limit on new tokens came before the end of turn.
    """

    audio_ms: float
    token_ids: tuple[int, ...]
    committed_tokens: int
    finished: bool
    truncated: bool = False


@dataclass
class Session:
    """State of one utterance in one cell; steps at min(i·k, D).

    Attributes:
        utterance: position of the utterance in its set.
        cell: position of the cell.
        num_samples: D, at 16 kHz.
        chunk_ms: k; None hears everything at once.
    """

    utterance: int
    cell: int
    num_samples: int
    chunk_ms: int | None
    token_ids: tuple[int, ...] = ()
    committed: int = 0
    steps: list[Step] = field(default_factory=list)

    @property
    def due_samples(self) -> int:
        """Samples heard at the next step."""
        if self.chunk_ms is None:
            return self.num_samples
        return min((len(self.steps) + 1) * self.chunk_ms * SAMPLES_PER_MS, self.num_samples)

    @property
    def last_step_is_due(self) -> bool:
        """Whether the next step hears the end."""
        return self.due_samples == self.num_samples

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return bool(self.steps) and self.steps[-1].finished

    @property
    def only_reads(self) -> bool:
        """Whether the next step has heard too little to be decoded."""
        return self.due_samples < SHORTEST_MS * SAMPLES_PER_MS

    def read(self) -> None:
        """Do a step without decoding."""
        self._add(self.token_ids, self.committed, truncated=False)

    def advance(self, prefix_length: int, continuation: Continuation, committed: int) -> None:
        """Do a step: what was forced, what the model continued it with, and what is committed now."""
        token_ids = self.token_ids[:prefix_length] + continuation.token_ids
        self._add(token_ids, committed, truncated=continuation.truncated)

    def _add(self, token_ids: tuple[int, ...], committed: int, *, truncated: bool) -> None:
        step = Step(self.due_samples / SAMPLES_PER_MS, token_ids, committed, self.last_step_is_due, truncated)
        self.token_ids, self.committed = token_ids, committed
        self.steps.append(step)
