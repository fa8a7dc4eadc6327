"""State of one utterance decoded under one policy and chunk: audio received, tokens shown and committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from simulsa_plugin.audio.samples import SAMPLE_RATE

SAMPLES_PER_MS = SAMPLE_RATE // 1000
MIN_DECODED_MS = 150  # steps with less audio are not decoded: models produce nothing useful, some crash
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Step:
    """Display of a session after one step.

    Attributes:
        audio_ms: milliseconds of source received.
        token_ids: y_i, everything shown.
        committed_tokens: c_i, the part that will not change.
        finished: the whole utterance has been received.
        truncated: generation stopped at the maximum number of new tokens, before the end of turn.
        compute_ms: milliseconds of computation; None where it was not measured.
    """

    audio_ms: float
    token_ids: tuple[int, ...]
    committed_tokens: int
    finished: bool
    truncated: bool = False
    compute_ms: float | None = None


@dataclass(frozen=True)
class Output:
    """Output of the model at one step, forced prefix included.

    Attributes:
        token_ids: without the end of turn.
        decode: token ids to text, special tokens left out.
        truncated: generation stopped at the maximum number of new tokens.
        probabilities: of each token when it was generated; a forced token keeps the one of that earlier step.
    """

    token_ids: tuple[int, ...]
    decode: Decode
    truncated: bool = False
    probabilities: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.token_ids)

    def text(self, num_tokens: int | None = None) -> str:
        """Detokenize the first `num_tokens`, or all."""
        return self.decode(self.token_ids[:num_tokens])


@dataclass(frozen=True)
class Arrival:
    """Audio that one step has, for an utterance that is part of a longer recording.

    Attributes:
        samples: of the utterance received; they never fall from step to step.
        recording_samples: of the recording received; they give the time of the step.
    """

    samples: int
    recording_samples: int


@dataclass
class Session:
    """State of one utterance under one setting; its steps are at min(i·k, D), or at `arrivals`.

    Attributes:
        utterance: index of the utterance.
        setting: index of the setting.
        num_samples: D, at 16 kHz.
        chunk_ms: k; None receives all audio at once.
        arrivals: of all steps, where the utterance is part of a recording; the last one has all of its samples.
        token_ids: y of the last step, what is shown.
        committed: c of the last step, in tokens.
        outputs: tokens of the model at each decoded step, before the policy selected y.
        probabilities: of each token of the last output when it was generated.
        steps: completed steps.
    """

    utterance: int
    setting: int
    num_samples: int
    chunk_ms: int | None
    arrivals: Sequence[Arrival] | None = None
    token_ids: tuple[int, ...] = ()
    committed: int = 0
    outputs: list[tuple[int, ...]] = field(default_factory=list)
    probabilities: tuple[float, ...] = ()
    steps: list[Step] = field(default_factory=list)

    @property
    def due_samples(self) -> int:
        """Samples received by the next step."""
        if self.arrivals is not None:
            return self.arrivals[len(self.steps)].samples
        if self.chunk_ms is None:
            return self.num_samples
        return min((len(self.steps) + 1) * self.chunk_ms * SAMPLES_PER_MS, self.num_samples)

    @property
    def last_step_is_due(self) -> bool:
        """Whether the next step receives the end of the audio."""
        if self.arrivals is not None:
            return len(self.steps) + 1 == len(self.arrivals)
        return self.due_samples == self.num_samples

    @property
    def finished(self) -> bool:
        """Whether the last step is completed."""
        return bool(self.steps) and self.steps[-1].finished

    @property
    def too_short_to_decode(self) -> bool:
        """Whether the next step has too little audio to be decoded (READ without WRITE)."""
        return self.due_samples < MIN_DECODED_MS * SAMPLES_PER_MS

    @property
    def _due_recording_samples(self) -> int:
        if self.arrivals is None:
            return self.due_samples
        return self.arrivals[len(self.steps)].recording_samples

    def advance_without_decoding(self) -> None:
        """Complete a step whose audio is too short to be decoded."""
        self._append_step(self.token_ids, self.committed, truncated=False, compute_ms=None)

    def advance(self, output: Output, shown: int, committed: int, compute_ms: float | None = None) -> None:
        """Complete a step.

        Args:
            output: of the model.
            shown: number of its tokens that are shown.
            committed: number of its tokens that are committed, earlier ones included.
            compute_ms: milliseconds of computation, where measured.
        """
        self.outputs.append(output.token_ids)
        self.probabilities = output.probabilities
        self._append_step(output.token_ids[:shown], committed, truncated=output.truncated, compute_ms=compute_ms)

    def _append_step(
        self, token_ids: tuple[int, ...], committed: int, *, truncated: bool, compute_ms: float | None
    ) -> None:
        audio_ms, last = self._due_recording_samples / SAMPLES_PER_MS, self.last_step_is_due
        self.token_ids, self.committed = token_ids, committed
        self.steps.append(Step(audio_ms, token_ids, committed, last, truncated, compute_ms))
