"""Voice activity detection as a system has it while it listens: nothing depends on audio that has not arrived.

Silero VAD gives the probability of speech for each frame of 32 ms. A segment is detected once enough frames are speech,
and closed once silence has lasted; both moments are kept apart from where the segment starts and ends, so that a step
of decoding at time t uses what was known at t. Source: Silero VAD 6.2 (`VADIterator`, `get_speech_timestamps`), whose
thresholds, padding and shortest speech these are. It closes a segment after 100 ms of silence; here that is longer, and
becomes shorter as the segment grows, so that none exceeds the model's window.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulsa_plugin.audio.samples import samples_to_seconds, seconds_to_samples
from simulsa_plugin.settings import check_range
from simulsa_plugin.streaming.session import Arrival

FRAME_SAMPLES = 512  # the one frame length that Silero VAD takes at 16 kHz
LONGEST_SLIDING_SECONDS = 300.0
SLIDING_PAUSE_MS = 160  # the closure of a plosive is shorter
PAUSE_FRAMES = 2  # a window may start in a pause of at least these
HYSTERESIS = 0.15  # speech goes on until the probability is this much below the threshold, as in Silero VAD

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class VoiceActivitySettings:
    """How speech segments are found.

    Attributes:
        threshold: probability of speech from which a frame is speech.
        min_speech_ms: speech needed before a segment is detected.
        min_silence_ms: silence that closes a short segment; the longer it is, the less silence is needed.
        pad_ms: audio kept before the first and after the last frame of speech.
        window_seconds: W, the longest audio that is decoded at once; a segment so long closes at the first pause.
        slides: longer segments are decoded in sliding windows; else they are cut at W.
    """

    threshold: float = 0.5
    min_speech_ms: float = 250
    min_silence_ms: float = 300
    pad_ms: float = 30
    window_seconds: float = 30.0
    slides: bool = False

    def __post_init__(self) -> None:
        """Check ranges. Raises UsageError."""
        check_range("simulsa_vad_threshold", self.threshold, above=0, maximum=1)
        check_range("simulsa_vad_min_speech_ms", self.min_speech_ms, above=0)
        check_range("simulsa_vad_min_silence_ms", self.min_silence_ms, above=0)
        check_range("simulsa_vad_pad_ms", self.pad_ms, minimum=0)
        check_range("simulsa_window_seconds", self.window_seconds, above=(self.pad_ms + self.min_silence_ms) / 1000)

    @property
    def max_seconds(self) -> float:
        """Longest segment: more would not fit into the window, or into memory."""
        return max(LONGEST_SLIDING_SECONDS, self.window_seconds) if self.slides else self.window_seconds

    @property
    def min_pause_ms(self) -> float:
        """Shortest silence that closes a segment of any length."""
        return SLIDING_PAUSE_MS if self.slides else samples_to_seconds(FRAME_SAMPLES) * 1000


@dataclass(frozen=True)
class SpeechSegment:
    """One stretch of speech in a recording, in samples at 16 kHz, half-open.

    Attributes:
        start: first sample.
        end: after the last sample.
        detected: samples of the recording that must have arrived before the segment is known to exist.
        closed: samples that must have arrived before its end is known.
        first_frame: frames of the recording at which the segment became a candidate.
        ends_of_speech: at index i, where speech ended last, padding included, as known after first_frame + i frames.
        pauses: within the segment, relative to its start: (start, end) in samples.
    """

    start: int
    end: int
    detected: int
    closed: int
    first_frame: int
    ends_of_speech: npt.NDArray[np.int64] = field(repr=False, compare=False)
    pauses: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return self.end - self.start

    def received(self, samples: int) -> int:
        """Return the samples of the segment that a system has when `samples` of the recording have arrived.

        Silence after the last speech is left out, so that this never falls and ends with the segment's length.
        """
        if samples >= self.closed:
            return self.end - self.start
        frames = samples // FRAME_SAMPLES - self.first_frame
        if frames < 0:
            return 0
        known = self.ends_of_speech[min(frames, len(self.ends_of_speech) - 1)]
        return int(max(0, min(samples, known, self.end) - self.start))


def find_speech(probabilities: Probabilities, num_samples: int, settings: VoiceActivitySettings) -> list[SpeechSegment]:
    """Find the speech segments of a recording.

    Args:
        probabilities: of speech (num_frames,), see `SpeechDetector`.
        num_samples: of the recording.
        settings: thresholds and lengths.

    Returns:
        segments in order; they do not overlap, and none is longer than `max_seconds`.
    """
    tracker = SpeechTracker(settings)
    closed = [tracker.push(probability) for probability in probabilities.tolist()]
    return [segment for segment in (*closed, tracker.finish(num_samples)) if segment is not None]


class SpeechTracker:
    """The states of `find_speech`, one frame after another: silence, a candidate, a segment.

    Attributes:
        frames: that have been pushed.
        start: first sample of the candidate or segment; None in silence.
        detected: samples that had arrived when the candidate became a segment; None before.
    """

    def __init__(self, settings: VoiceActivitySettings) -> None:
        self.frames = 0
        self.start: int | None = None
        self.detected: int | None = None
        low = min(settings.threshold, max(settings.threshold - HYSTERESIS, 0.01))
        self._threshold, self._low_threshold = float(np.float32(settings.threshold)), float(np.float32(low))
        self._pad = seconds_to_samples(settings.pad_ms / 1000)
        self._min_speech = max(1, round(seconds_to_samples(settings.min_speech_ms / 1000) / FRAME_SAMPLES))
        self._min_silence = seconds_to_samples(settings.min_silence_ms / 1000)
        self._min_pause = seconds_to_samples(settings.min_pause_ms / 1000)
        self._window = seconds_to_samples(settings.window_seconds)
        self._longest = seconds_to_samples(settings.max_seconds)
        self._free = 0  # first sample that no earlier segment has
        self._end_of_speech = self._pad
        self._is_speech: deque[bool] = deque(maxlen=self._pad // FRAME_SAMPLES + 1)  # of frames before the candidate
        self._first_frame = 0
        self._ends: list[int] = []
        self._frames_of_segment: list[bool] = []  # from the frame of `start` on
        self._speech_frames = self._silence_frames = 0

    def push(self, probability: float) -> SpeechSegment | None:
        """Take the probability of speech in the next frame, and return the segment that closes with it."""
        starts, goes_on = probability >= self._threshold, probability >= self._low_threshold
        self.frames += 1
        now = self.frames * FRAME_SAMPLES
        if goes_on:
            self._end_of_speech = now + self._pad
        if self.start is None and starts:
            self._begin_candidate()
        if self.start is None:
            self._is_speech.append(goes_on)
            return None
        self._ends.append(self._end_of_speech)
        self._frames_of_segment.append(goes_on)
        self._speech_frames += starts
        self._silence_frames = 0 if goes_on else self._silence_frames + 1
        if self.detected is None and self._speech_frames >= self._min_speech:
            self.detected = now
        length = now - self.start
        too_long = length + FRAME_SAMPLES > self._longest
        if too_long or self._silence_frames * FRAME_SAMPLES >= self._closing_silence(length):
            return self._close(min(now, self._end_of_speech), now)
        return None

    def finish(self, num_samples: int) -> SpeechSegment | None:
        """Return the segment that the end of a recording of this length closes."""
        return self._close(min(num_samples, self._end_of_speech), num_samples)

    def received(self, samples: int) -> int:
        """Return what `SpeechSegment.received` will say of the segment, once it is detected.

        Args:
            samples: of the recording; none of its frames is missing.
        """
        return 0 if self.start is None else max(0, min(samples, self._end_of_speech) - self.start)

    def pauses(self) -> tuple[tuple[int, int], ...]:
        """Return the pauses of the segment so far, relative to its start: (start, end) in samples."""
        return () if self.start is None else self._pauses(self.start, self.frames * FRAME_SAMPLES)

    def _begin_candidate(self) -> None:
        frame = self.frames - 1
        self.start = max(self._free, frame * FRAME_SAMPLES - self._pad)
        self._first_frame, self._ends = self.frames, []
        before = frame - self.start // FRAME_SAMPLES
        self._frames_of_segment = list(self._is_speech)[len(self._is_speech) - before :]
        self._speech_frames = self._silence_frames = 0

    def _close(self, end: int, closed: int) -> SpeechSegment | None:
        """End the candidate or segment; return a segment."""
        start, detected = self.start, self.detected
        self.start = self.detected = None
        segment = None
        if start is not None:
            self._is_speech.extend(self._frames_of_segment)
            if detected is not None:
                ends, pauses = np.array(self._ends, dtype=np.int64), self._pauses(start, end)
                segment = SpeechSegment(start, end, detected, closed, self._first_frame, ends, pauses)
                self._free = end
        return segment

    def _pauses(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        first = start // FRAME_SAMPLES
        frames = self._frames_of_segment[: -(-end // FRAME_SAMPLES) - first]
        speech = np.array([True, *frames, True], dtype=np.int8)
        begins, ends = np.flatnonzero(np.diff(speech) == -1), np.flatnonzero(np.diff(speech) == 1)
        return tuple(
            (max(0, int(first + begin) * FRAME_SAMPLES - start), min(end, int(first + until) * FRAME_SAMPLES) - start)
            for begin, until in zip(begins, ends, strict=True)
            if until - begin >= PAUSE_FRAMES
        )

    def _closing_silence(self, length: int) -> float:
        """Return the samples of silence that close a segment of this length: fewer the longer it is."""
        return max(self._min_pause, self._min_silence * (1 - length / self._window))


def segment_arrivals(
    segment: SpeechSegment, chunk_samples: int | None, num_samples: int, window_samples: int | None = None
) -> list[Arrival]:
    """List the arrivals of a segment's audio: in chunks from its start once it is detected, the last when it is closed.

    Args:
        segment: of the recording.
        chunk_samples: k; None for offline, where all audio arrives at the end of the recording.
        num_samples: of the recording.
        window_samples: W; offline, a longer segment is decoded in parts. None for segments that fit.

    Returns:
        one for every step that brings new audio, and one for when the segment's end is known.
    """
    if chunk_samples is None:
        ends = _window_ends(segment, window_samples or len(segment))
        return [Arrival(end, num_samples, ends_window=end < len(segment)) for end in ends]
    arrivals: list[Arrival] = []
    for now in range(segment.start + chunk_samples, min(segment.closed, num_samples), chunk_samples):
        received = segment.received(now)
        if now >= segment.detected and received > (arrivals[-1].samples if arrivals else 0):
            arrivals.append(Arrival(received, now))
    return [*arrivals, Arrival(len(segment), min(segment.closed, num_samples))]


def _window_ends(segment: SpeechSegment, window_samples: int) -> list[int]:
    """Return where a segment is cut so that no part exceeds the window: in the longest pauses of second halves."""
    ends: list[int] = []
    start = 0
    while len(segment) - start > window_samples:
        first, last = start + window_samples // 2, start + window_samples
        inside = [(max(begin, first), min(end, last)) for begin, end in segment.pauses if begin < last and end > first]
        begin, end = max(inside, key=lambda pause: (pause[1] - pause[0], pause), default=(last, last))
        start = (begin + end) // 2
        ends.append(start)
    return [*ends, len(segment)]
