"""State of one utterance decoded under one policy and chunk: audio received, tokens shown and committed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import overload

from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.metrics.stability import common_prefix

SAMPLES_PER_MS = SAMPLE_RATE // 1000
MIN_DECODED_MS = 150  # steps with less audio are not decoded: models produce nothing useful, some crash
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Step:
    """Display of a session after one step.

    Attributes:
        audio_ms: milliseconds of source received.
        token_ids: y_i, everything shown; of a recording that is decoded in windows, in the current window.
        committed_tokens: c_i, the part that will not change.
        finished: the whole utterance has been received.
        truncated: generation stopped at the maximum number of new tokens, before the end of turn.
        compute_ms: milliseconds of computation; None where it was not measured.
        window: number of the window, from 0.
        looping: the model repeated itself, and its output was cut.
    """

    audio_ms: float
    token_ids: tuple[int, ...]
    committed_tokens: int
    finished: bool
    truncated: bool = False
    compute_ms: float | None = None
    window: int = 0
    looping: bool = False


@dataclass(frozen=True)
class Output:
    """Output of the model at one step, forced prefix included.

    Attributes:
        token_ids: without the end of turn.
        decode: token ids to text, special tokens left out.
        truncated: generation stopped at the maximum number of new tokens.
        probabilities: of each token when it was generated; a forced token keeps the one of that earlier step.
        looping: the model repeated itself, and the repetitions were removed.
    """

    token_ids: tuple[int, ...]
    decode: Decode
    truncated: bool = False
    probabilities: tuple[float, ...] = ()
    looping: bool = False

    def __len__(self) -> int:
        return len(self.token_ids)

    def text(self, num_tokens: int | None = None) -> str:
        """Detokenize the first `num_tokens`, or all."""
        return self.decode(self.token_ids[:num_tokens])


@dataclass(frozen=True)
class Arrival:
    """Audio that one step has.

    Attributes:
        samples: of the utterance received; they never fall from step to step.
        recording_samples: of the recording received; they give the time of the step.
        ends_window: everything is committed at this step, and the next one hears only what comes after it. The last
            step does so in any case.
    """

    samples: int
    recording_samples: int
    ends_window: bool = False


@dataclass(frozen=True)
class ChunkSchedule(Sequence[Arrival]):
    """Arrivals of an utterance that is a recording of its own: at min(i·k, D).

    Attributes:
        num_samples: D, at 16 kHz.
        chunk_ms: k; None receives all audio at once.
    """

    num_samples: int
    chunk_ms: int | None

    def __len__(self) -> int:
        return 1 if self.chunk_ms is None else max(1, -(-self.num_samples // (self.chunk_ms * SAMPLES_PER_MS)))

    @overload
    def __getitem__(self, index: int) -> Arrival: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Arrival]: ...
    def __getitem__(self, index: int | slice) -> Arrival | Sequence[Arrival]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        samples = self.num_samples
        if self.chunk_ms is not None:
            samples = min((number + 1) * self.chunk_ms * SAMPLES_PER_MS, samples)
        return Arrival(samples, samples)


@dataclass
class Session:
    """State of one utterance under one setting.

    A long utterance is decoded in windows: audio leaves at the start of the window, and takes the tokens about it with
    it. `token_ids`, `outputs` and `probabilities` are those of the current window.

    Attributes:
        utterance: index of the utterance.
        setting: index of the setting.
        schedule: what has arrived at each step; the last one has the whole utterance.
        token_ids: y of the last step, what is shown.
        committed: c of the last step, in tokens.
        outputs: tokens of the model at each decoded step, before the policy selected y.
        probabilities: of each token of the last output when it was generated.
        steps: completed steps.
        shown_since: of each shown token, the samples received when it was first shown with all those before it.
        window_start: samples of the utterance that have left the window.
        left_token_ids: tokens that have left with them, for each window that has ended.
        forced: tokens about audio at the start of the window, of which a part has left: they are always forced.
    """

    utterance: int
    setting: int
    schedule: Sequence[Arrival]
    token_ids: tuple[int, ...] = ()
    committed: int = 0
    outputs: list[tuple[int, ...]] = field(default_factory=list)
    probabilities: tuple[float, ...] = ()
    steps: list[Step] = field(default_factory=list)
    shown_since: list[int] = field(default_factory=list)
    window_start: int = 0
    left_token_ids: list[tuple[int, ...]] = field(default_factory=list)
    forced: int = 0
    # Kept until the next step: a queue of sessions asks for it again and again.
    _due: Arrival | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def due(self) -> Arrival:
        """What will have arrived by the next step."""
        if self._due is None:
            self._due = self.schedule[len(self.steps)]
        return self._due

    @property
    def due_samples(self) -> int:
        """Samples received by the next step."""
        return self.due.samples

    @property
    def window_samples(self) -> int:
        """Samples that the next step hears."""
        return self.due_samples - self.window_start

    @property
    def num_samples(self) -> int:
        """Samples of the utterance."""
        return self.schedule[-1].samples

    @property
    def step_share(self) -> float:
        """One step as a share of all."""
        return 1 / len(self.schedule)

    @property
    def commits_all(self) -> bool:
        """Whether the next step is the last of the utterance, or of a window."""
        return len(self.steps) + 1 == len(self.schedule) or self.due.ends_window

    @property
    def finished(self) -> bool:
        """Whether the last step is completed."""
        return bool(self.steps) and self.steps[-1].finished

    @property
    def too_short_to_decode(self) -> bool:
        """Whether the next step has too little audio to be decoded (READ without WRITE)."""
        return self.window_samples < MIN_DECODED_MS * SAMPLES_PER_MS

    def advance_without_decoding(self) -> None:
        """Complete a step whose audio is too short to be decoded."""
        self._append_step(self.token_ids, self.committed)

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
        self._append_step(output.token_ids[:shown], committed, output, compute_ms)

    def begin_window(self, start: int, left: int, forced: int) -> None:
        """Let audio leave, and the tokens about it.

        Args:
            start: samples of the utterance that have left then.
            left: number of tokens that leave, from the first on.
            forced: number of tokens that do not change any more, those that leave included.
        """
        gone = self.token_ids[:left]
        self.left_token_ids.append(gone)
        self.window_start = start
        self.forced = forced - left
        self.token_ids, self.committed = self.token_ids[left:], max(self.committed, forced) - left
        self.probabilities, self.shown_since = self.probabilities[left:], self.shown_since[left:]
        # An earlier output that began otherwise says nothing about the tokens that stay.
        same = list(itertools.takewhile(lambda output: output[:left] == gone, reversed(self.outputs)))
        self.outputs = [output[left:] for output in reversed(same)]

    def _append_step(
        self, token_ids: tuple[int, ...], committed: int, output: Output | None = None, compute_ms: float | None = None
    ) -> None:
        step = Step(
            self.due.recording_samples / SAMPLES_PER_MS,
            token_ids,
            committed,
            len(self.steps) + 1 == len(self.schedule),
            output is not None and output.truncated,
            compute_ms,
            len(self.left_token_ids),
            output is not None and output.looping,
        )
        kept = common_prefix(self.token_ids, token_ids)
        self.shown_since = self.shown_since[:kept] + [self.due_samples] * (len(token_ids) - kept)
        self.token_ids, self.committed = token_ids, committed
        self.steps.append(step)
        self._due = None
