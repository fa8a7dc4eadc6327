"""One speaker's stream: audio goes in as it arrives, decoding steps become due, and their text comes out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import overload

import numpy as np

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.live.arrivals import DueArrival, StreamArrivals
from simulsa_plugin.live.transcript import Transcript, last_shown_step
from simulsa_plugin.metrics.delays import ShownStep
from simulsa_plugin.metrics.records import LatencyUnit
from simulsa_plugin.model.values import Prompt
from simulsa_plugin.streaming.policies import Policy
from simulsa_plugin.streaming.session import SAMPLES_PER_MS, Arrival, Decode, Session
from simulsa_plugin.streaming.steps import NextStep
from simulsa_plugin.streaming.windows import SlidingWindow, slide


class LiveStream:
    """The stream of one speaker.

    `push` may be called from another thread while a step is computed; `next_step` and `complete` take turns.

    Attributes:
        transcript: the text so far.
        skipped_steps: that were late, and whose audio went into the step after them.
    """

    def __init__(
        self,
        prompt: Prompt,
        policy: Policy,
        arrivals: StreamArrivals,
        decode: Decode,
        unit: LatencyUnit,
        *,
        window_samples: int | None = None,
        skip_late: bool = False,
    ) -> None:
        """Begin a stream.

        Args:
            prompt: about each utterance.
            policy: of all utterances.
            arrivals: finds utterances and their steps.
            decode: token ids to text, special tokens left out.
            unit: word or char.
            window_samples: W, where the stream is longer than the window of the model; see `SlidingWindow`.
            skip_late: where several steps of an utterance are due, compute only the last of them. Without, the text is
                that of an evaluation with the same settings, however late it comes.
        """
        self.transcript = Transcript(unit)
        self.skipped_steps = 0
        self._prompt, self._policy, self._decode = prompt, policy, decode
        self._arrivals, self._window_samples, self._skip_late = arrivals, window_samples, skip_late
        self._audio = _AudioBuffer()
        self._due: deque[DueArrival] = deque()
        self._current: _Utterance | None = None
        self._lock = threading.Lock()

    @property
    def received_ms(self) -> float:
        """Milliseconds of audio received."""
        return self._audio.end / SAMPLES_PER_MS

    @property
    def late_ms(self) -> float:
        """Milliseconds of audio received since the first step that is due was due; 0 if none is."""
        with self._lock:
            due = self._due[0].arrival.recording_samples if self._due else self._audio.end
            return (self._audio.end - due) / SAMPLES_PER_MS

    @property
    def due_steps(self) -> int:
        """Number of steps that are due."""
        return len(self._due)

    def push(self, waveform: Waveform, *, final: bool = False) -> None:
        """Take the next audio, (num_samples,) at 16 kHz; `final` as for `StreamArrivals.push`."""
        with self._lock:
            self._audio.append(waveform)
            self._due.extend(self._arrivals.push(waveform, final=final))
            self._audio.drop_before(self._first_needed())

    def next_step(self) -> NextStep | None:
        """Return the next step that is due, for `advance_sessions`; `complete` must follow. None if there is none."""
        with self._lock:
            if not self._due:
                return None
            due = self._due.popleft()
            while self._skip_late and not due.last and self._due:
                due = self._due.popleft()
                self.skipped_steps += 1
            if self._current is None:
                self._current = _Utterance(self._prompt, due.start, self._audio, self._window_samples)
            self._current.receive(due, self._decode)
            return NextStep(self._current.session, self._current, self._policy)

    def complete(self) -> ShownStep:
        """Take the text of the step that `next_step` returned last, after it was computed; return the step."""
        if self._current is None:
            raise ValueError("complete() without next_step()")
        session = self._current.session
        step = last_shown_step(session, self._decode)
        self.transcript.update(step)
        with self._lock:
            if step.finished:
                self._current = None
            self._audio.drop_before(self._first_needed())
        return step

    def _first_needed(self) -> int:
        """Return the first sample of the stream that may still be heard."""
        starts = [one.start for one in self._due]
        current = [] if self._current is None else [self._current.start + self._current.session.window_start]
        return min([self._arrivals.needed_from, *starts[:1], *current])


class _Utterance:
    """An utterance of a stream: its session, and what its steps hear."""

    def __init__(self, prompt: Prompt, start: int, audio: _AudioBuffer, window_samples: int | None) -> None:
        self.prompt, self.start = prompt, start
        self.schedule = _GrowingSchedule()
        self.session = Session(0, 0, self.schedule)
        self.window: SlidingWindow | None = None
        self._audio, self._window_samples = audio, window_samples

    def receive(self, due: DueArrival, decode: Decode) -> None:
        """Prepare the next step."""
        self.schedule.append(due.arrival, last=due.last)
        if self._window_samples is not None:
            self.window = SlidingWindow(self._window_samples, due.pauses)
            if self.session.steps:  # here, as only now it is known what the next step hears
                slide(self.session, self.window, decode)

    def heard_by(self, session: Session) -> Waveform:
        return self._audio.part(self.start + session.window_start, self.start + session.due_samples)


class _GrowingSchedule(Sequence[Arrival]):
    """Arrivals so far; until the last one is known there is one more than can be read."""

    def __init__(self) -> None:
        self._arrivals: list[Arrival] = []
        self._complete = False

    def append(self, arrival: Arrival, *, last: bool) -> None:
        self._arrivals.append(arrival)
        self._complete = last

    def __len__(self) -> int:
        return len(self._arrivals) + (not self._complete)

    @overload
    def __getitem__(self, index: int) -> Arrival: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Arrival]: ...
    def __getitem__(self, index: int | slice) -> Arrival | Sequence[Arrival]:
        return self._arrivals[index]


class _AudioBuffer:
    """The end of a stream: what is not needed any more is dropped."""

    def __init__(self) -> None:
        self._parts: deque[Waveform] = deque()
        self._start = self.end = 0
        self._lock = threading.Lock()

    def append(self, waveform: Waveform) -> None:
        with self._lock:
            self._parts.append(waveform)
            self.end += len(waveform)

    def drop_before(self, sample: int) -> None:
        with self._lock:
            while self._parts and self._start + len(self._parts[0]) <= sample:
                self._start += len(self._parts.popleft())

    def part(self, start: int, end: int) -> Waveform:
        """Return samples of the stream, (end - start,); zeros follow its end."""
        with self._lock:
            audio = np.concatenate(self._parts)
            found = audio[start - self._start : end - self._start]
        return np.pad(found, (0, end - start - len(found)))
