"""One utterance under one policy and chunk: what it has heard, shown and committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from simulsa_plugin.audio.samples import SAMPLE_RATE

SAMPLES_PER_MS = SAMPLE_RATE // 1000
SHORTEST_MS = 150  # a step that has heard less only reads; models make nothing of it, some crash
REPLACEMENT = "\ufffd"  # what a decoder shows for the first bytes of an unfinished character
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Step:
    """What a session showed after one step.

    Attributes:
        audio_ms: milliseconds of source heard.
        token_ids: y_i, everything shown.
        committed_tokens: c_i, the part that will not change.
        finished: the whole utterance has been heard.
        truncated: the limit on new tokens came before the end of turn.
        compute_ms: milliseconds that the step took; None where it was not measured.
    """

    audio_ms: float
    token_ids: tuple[int, ...]
    committed_tokens: int
    finished: bool
    truncated: bool = False
    compute_ms: float | None = None


@dataclass(frozen=True)
class Output:
    """What the model said at one step, forced prefix included.

    Attributes:
        token_ids: without the end of turn.
        decode: token ids to text, special tokens left out.
        truncated: the limit on new tokens came first.
        probabilities: of each token when it was said; a forced token keeps the one of that earlier step.
    """

    token_ids: tuple[int, ...]
    decode: Decode
    truncated: bool = False
    probabilities: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.token_ids)

    def text(self, num_tokens: int | None = None) -> str:
        """Text of the first tokens, or of all."""
        return self.decode(self.token_ids[:num_tokens])


@dataclass
class Session:
    """State of one utterance in one cell; steps at min(i·k, D).

    Attributes:
        utterance: position of the utterance in its set.
        cell: position of the cell.
        num_samples: D, at 16 kHz.
        chunk_ms: k; None hears everything at once.
        token_ids: y of the last step.
        committed: c of the last step.
        outputs: what the model said at each step, before a policy made y of it.
        probabilities: of each token of the last output when it was said.
        steps: all steps done.
    """

    utterance: int
    cell: int
    num_samples: int
    chunk_ms: int | None
    token_ids: tuple[int, ...] = ()
    committed: int = 0
    outputs: list[tuple[int, ...]] = field(default_factory=list)
    probabilities: tuple[float, ...] = ()
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
        self._add(self.token_ids, self.committed, truncated=False, compute_ms=None)

    def advance(self, output: Output, shown: int, committed: int, compute_ms: float | None = None) -> None:
        """Do a step: what the model said, how many tokens of it are shown, and how many are committed now."""
        self.outputs.append(output.token_ids)
        self.probabilities = output.probabilities
        self._add(output.token_ids[:shown], committed, truncated=output.truncated, compute_ms=compute_ms)

    def _add(self, token_ids: tuple[int, ...], committed: int, *, truncated: bool, compute_ms: float | None) -> None:
        heard, last = self.due_samples / SAMPLES_PER_MS, self.last_step_is_due
        self.token_ids, self.committed = token_ids, committed
        self.steps.append(Step(heard, token_ids, committed, last, truncated, compute_ms))
