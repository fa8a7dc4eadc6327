"""Recordings of any length as utterances to decode: the speech in them is found first, a minute of audio at a time.

Each speech segment is one utterance of the ordinary engine, whose steps lie on the recording's clock. Segments do not
depend on what is decoded, so blocks of them are decoded, resumed and shared among processes like short utterances.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from simulsa_plugin.audio.recordings import Span, audio_info, read_parts
from simulsa_plugin.audio.samples import Waveform, samples_to_seconds, seconds_to_samples
from simulsa_plugin.errors import AudioError
from simulsa_plugin.longform.silero import SpeechDetector
from simulsa_plugin.longform.voice_activity import (
    Probabilities,
    SpeechSegment,
    VoiceActivitySettings,
    find_speech,
    segment_arrivals,
)
from simulsa_plugin.model.values import Sample, UnusableRow
from simulsa_plugin.segments import ReferenceSegment, SkippedSegment, check_segments
from simulsa_plugin.streaming.session import MIN_DECODED_MS, SAMPLES_PER_MS, Arrival
from simulsa_plugin.streaming.steps import StreamSource
from simulsa_plugin.streaming.windows import SlidingWindow
from simulsa_plugin.terminal import tracked

SLICE_SECONDS = 60  # of audio in memory at once; a whole number of Silero's frames


@dataclass(frozen=True)
class Recording:
    """One row of a test set of long recordings.

    Attributes:
        sample: the row.
        num_samples: its length at 16 kHz.
        speech: segments that are decoded.
        references: segments that are scored; one for the whole recording where the row has none.
        skipped: reference segments that do not fit the recording.
        settings: how speech was found.
    """

    sample: Sample
    num_samples: int
    speech: tuple[SpeechSegment, ...] = field(repr=False)
    references: tuple[ReferenceSegment, ...] = field(repr=False)
    skipped: tuple[SkippedSegment, ...] = field(repr=False)
    settings: VoiceActivitySettings

    @property
    def row(self) -> int:
        """The row's number."""
        return self.sample.row

    @property
    def milliseconds(self) -> float:
        """Its length."""
        return self.num_samples / SAMPLES_PER_MS


@dataclass(frozen=True)
class SpeechUtterance:
    """One speech segment of a recording."""

    recording: Recording
    segment: int

    @property
    def row(self) -> int:
        """The recording's row."""
        return self.recording.sample.row

    @property
    def speech(self) -> SpeechSegment:
        """Where it lies in the recording."""
        return self.recording.speech[self.segment]


def find_recordings(
    rows: Sequence[Sample | UnusableRow], settings: VoiceActivitySettings
) -> list[Recording | UnusableRow]:
    """Find the speech in every recording.

    Returns:
        for each row a recording, or why it cannot be used: its audio, no reference segment that fits, or audio that a
        recording before it has.

    Raises:
        MissingExtraError: Silero VAD is not installed.
        StorageError: the system cannot read a recording now.
    """
    detector, seen = SpeechDetector(), set[str]()
    found: list[Recording | UnusableRow] = []
    for row in tracked(rows, len(rows), "find speech", "recording"):
        if row.audio in seen:
            found.append(_unusable(row, "repeated_recording"))
            continue
        recording = _find_recording(row, detector, settings)
        seen |= {recording.sample.audio} if isinstance(recording, Recording) else set()
        found.append(recording)
    return found


def _unusable(row: Sample | UnusableRow, reason: str) -> UnusableRow:
    return UnusableRow(row.row, reason, row.audio, row.source_id)


def utterances(recordings: Sequence[Recording | UnusableRow]) -> list[SpeechUtterance]:
    """Return the speech segments of all recordings, in order."""
    return [
        SpeechUtterance(recording, number)
        for recording in recordings
        if isinstance(recording, Recording)
        for number in range(len(recording.speech))
    ]


def load_utterances(wanted: Iterable[SpeechUtterance]) -> Iterator[StreamSource | str]:
    """Load speech segments, or the reason why one cannot be decoded; a recording is read once for consecutive ones."""
    for _, group in itertools.groupby(wanted, key=lambda utterance: utterance.row):
        part = list(group)
        waveforms = _read_segments(part[0].recording, [each.speech for each in part])
        for each, waveform in zip(part, waveforms, strict=True):
            yield waveform if isinstance(waveform, str) else _stream_source(each, waveform)


@dataclass(frozen=True)
class _Arrivals:
    """The arrivals of a speech segment's audio for a chunk in ms, None for offline; many settings share a chunk."""

    speech: SpeechSegment
    num_samples: int
    window: int
    _of_chunk: dict[int | None, list[Arrival]] = field(default_factory=dict, repr=False)

    def __call__(self, chunk_ms: int | None) -> list[Arrival]:
        if chunk_ms not in self._of_chunk:
            samples = None if chunk_ms is None else chunk_ms * SAMPLES_PER_MS
            self._of_chunk[chunk_ms] = segment_arrivals(self.speech, samples, self.num_samples, self.window)
        return self._of_chunk[chunk_ms]


def _stream_source(utterance: SpeechUtterance, waveform: Waveform) -> StreamSource:
    speech, num_samples = utterance.speech, utterance.recording.num_samples
    window = seconds_to_samples(utterance.recording.settings.window_seconds)
    arrivals = _Arrivals(speech, num_samples, window)
    return StreamSource(utterance.recording.sample.prompt, waveform, arrivals, SlidingWindow(window, speech.pauses))


def _find_recording(
    row: Sample | UnusableRow, detector: SpeechDetector, settings: VoiceActivitySettings
) -> Recording | UnusableRow:
    if isinstance(row, UnusableRow):
        return row
    try:
        probabilities, num_samples = _speech_probabilities(row.audio, detector)
    except AudioError as error:
        return _unusable(row, f"audio_{error.reason}")
    if num_samples < MIN_DECODED_MS * SAMPLES_PER_MS:
        return _unusable(row, "too_short")
    found = find_speech(probabilities, num_samples, settings)
    seconds = samples_to_seconds(num_samples)
    references, skipped = check_segments(row.segments or [ReferenceSegment(0.0, seconds, row.reference)], seconds)
    if not references:
        return _unusable(row, "no_reference_segment")
    return Recording(row, num_samples, tuple(found), references, skipped, settings)


def _speech_probabilities(path: str, detector: SpeechDetector) -> tuple[Probabilities, int]:
    """Return the probability of speech in each frame (num_frames,), and the number of samples."""
    slices = math.ceil(audio_info(path).seconds / SLICE_SECONDS)
    spans = [Span(SLICE_SECONDS * number, SLICE_SECONDS * (number + 1)) for number in range(slices - 1)]
    spans.append(Span(SLICE_SECONDS * (slices - 1)))
    found, num_samples = [], 0
    detector.reset()
    for _, waveform in read_parts(path, spans):
        if isinstance(waveform, AudioError):
            raise waveform
        found.append(detector.probabilities(waveform))
        num_samples += len(waveform)
    return np.concatenate(found), num_samples


def _read_segments(recording: Recording, speech: Sequence[SpeechSegment]) -> list[Waveform | str]:
    """Read speech segments, each exactly as long as it was found to be."""
    spans = [Span(samples_to_seconds(each.start), samples_to_seconds(each.end)) for each in speech]
    waveforms: list[Waveform | str] = [""] * len(spans)
    for index, waveform in read_parts(recording.sample.audio, spans):
        if isinstance(waveform, AudioError):
            waveforms[index] = f"audio_{waveform.reason}"
        else:
            length = len(speech[index])
            waveforms[index] = np.pad(waveform, (0, max(0, length - len(waveform))))[:length]
    return waveforms
