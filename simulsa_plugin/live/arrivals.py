"""When decoding steps are due as audio comes in, at the same moments as in evaluation of the finished recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simulsa_plugin.audio.samples import Waveform, seconds_to_samples
from simulsa_plugin.longform.voice_activity import (
    FRAME_SAMPLES,
    Probabilities,
    SpeechSegment,
    SpeechTracker,
    VoiceActivitySettings,
)
from simulsa_plugin.streaming.session import Arrival


@dataclass(frozen=True)
class DueArrival:
    """A step that is due.

    Attributes:
        start: sample of the stream where its utterance starts.
        arrival: what the step has.
        last: whether it is the last one of its utterance.
        pauses: of the speaker in the utterance so far, relative to its start: (start, end) in samples.
    """

    start: int
    arrival: Arrival
    last: bool = False
    pauses: tuple[tuple[int, int], ...] = ()


class StreamArrivals(Protocol):
    """Finds utterances in a stream and lists their steps."""

    @property
    def needed_from(self) -> int:
        """The first sample of the stream that an utterance may need of which no step has been due yet."""
        ...

    def push(self, waveform: Waveform, *, final: bool = False) -> list[DueArrival]:
        """Take the next audio.

        Args:
            waveform: (num_samples,) at 16 kHz, of any length, also empty.
            final: the stream ends with it. Where that shows only later, an utterance that had ended with a whole chunk
                gets one more step.

        Returns:
            the steps that are due with it, in order.
        """
        ...


class WholeStreamArrivals:
    """The whole stream is one utterance, received in chunks, as `ChunkSchedule` lists it."""

    def __init__(self, chunk_samples: int) -> None:
        self._chunk, self._received, self._next = chunk_samples, 0, chunk_samples

    @property
    def needed_from(self) -> int:
        """The stream's start: every step hears all of it."""
        return 0

    def push(self, waveform: Waveform, *, final: bool = False) -> list[DueArrival]:
        """Take the next audio; see `StreamArrivals`."""
        self._received += len(waveform)
        due: list[DueArrival] = []
        while self._next < self._received or (self._next == self._received and not final):
            due.append(DueArrival(0, Arrival(self._next, self._next)))
            self._next += self._chunk
        if final and self._received:
            due.append(DueArrival(0, Arrival(self._received, self._received), last=True))
        return due


class FrameDetector(Protocol):
    """Speech in frames of 512 samples, as `longform.silero.SpeechDetector` finds it."""

    def probabilities(self, waveform: Waveform) -> Probabilities:
        """Return the probability of speech in each frame; an incomplete last one is filled up with zeros."""
        ...


class SpeechArrivals:
    """Each stretch of speech is an utterance, received in chunks from its start, as `segment_arrivals` lists it."""

    def __init__(self, detector: FrameDetector, settings: VoiceActivitySettings, chunk_samples: int) -> None:
        """Begin a stream.

        Args:
            detector: of speech, which has heard nothing yet.
            settings: how speech segments are found.
            chunk_samples: k.
        """
        self._detector, self._tracker, self._chunk = detector, SpeechTracker(settings), chunk_samples
        self._pad = seconds_to_samples(settings.pad_ms / 1000)
        self._rest: Waveform = np.zeros(0, dtype=np.float32)  # less than a frame
        self._received = 0
        self._next: int | None = None  # sample of the stream with which the next step of the segment is due
        self._segment_received = 0

    @property
    def needed_from(self) -> int:
        """The start of a segment that has had no step; in silence, of one that would begin now."""
        if self._segment_received:
            return self._received
        start = self._tracker.start
        return max(0, self._tracker.frames * FRAME_SAMPLES - self._pad) if start is None else start

    def push(self, waveform: Waveform, *, final: bool = False) -> list[DueArrival]:
        """Take the next audio; see `StreamArrivals`."""
        self._received += len(waveform)
        audio = np.concatenate([self._rest, waveform])
        whole = len(audio) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = audio[whole:]
        due: list[DueArrival] = []
        for probability in self._detector.probabilities(audio[:whole]).tolist():
            due += self._chunks_before((self._tracker.frames + 1) * FRAME_SAMPLES)
            due += self._close(self._tracker.push(probability))
        due += self._chunks_before(self._received + (not final))
        if final:
            if len(self._rest):
                (probability,) = self._detector.probabilities(self._rest).tolist()
                due += self._close(self._tracker.push(probability))
            due += self._close(self._tracker.finish(self._received))
        return due

    def _chunks_before(self, samples: int) -> Iterator[DueArrival]:
        """Yield the steps of the open segment that are due before so many samples, as far as it has new audio."""
        tracker = self._tracker
        if tracker.start is None:
            return
        if self._next is None:
            self._next = tracker.start + self._chunk
        while self._next < samples:
            received = tracker.received(self._next)
            if tracker.detected is not None and received > self._segment_received:
                self._segment_received = received
                yield DueArrival(tracker.start, Arrival(received, self._next), pauses=tracker.pauses())
            self._next += self._chunk

    def _close(self, segment: SpeechSegment | None) -> Iterator[DueArrival]:
        if self._tracker.start is None:
            self._next, self._segment_received = None, 0
        if segment is not None:
            arrival = Arrival(len(segment), min(segment.closed, self._received))
            yield DueArrival(segment.start, arrival, last=True, pauses=segment.pauses)
