"""Reference segments of a long recording: where each sentence lies, and its translation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Aligner = Literal["soft", "mwer"]  # SoftSegmenter, mwerSegmenter: which divide a translation among the segments
ALIGNERS: tuple[Aligner, ...] = get_args(Aligner)
OVERSHOOT_SECONDS = 0.5  # how far a segment may end after its recording, as in Kaldi's extract-segments
BEYOND_END, NO_DURATION, EMPTY_REFERENCE = "beyond_end", "no_duration", "empty_reference"  # reasons to skip a segment


@dataclass(frozen=True)
class ReferenceSegment:
    """A part of a recording with a reference translation.

    Attributes:
        offset_seconds: where it starts in the recording.
        duration_seconds: its length.
        reference: its translation; None where there is none.
    """

    offset_seconds: float
    duration_seconds: float
    reference: str | None

    @property
    def end_seconds(self) -> float:
        """Where it ends in the recording."""
        return self.offset_seconds + self.duration_seconds


@dataclass(frozen=True)
class SkippedSegment:
    """A reference segment that is not scored.

    Attributes:
        segment: which one.
        reason: `beyond_end`, `no_duration` or `empty_reference`.
    """

    segment: ReferenceSegment
    reason: str


def check_segments(
    segments: Iterable[ReferenceSegment], recording_seconds: float
) -> tuple[tuple[ReferenceSegment, ...], tuple[SkippedSegment, ...]]:
    """Separate the segments that can be scored from those that do not fit their recording.

    Args:
        segments: of one recording.
        recording_seconds: its length.

    Returns:
        The segments that are kept, unchanged, and those that are skipped: `beyond_end` where one ends more than half a
        second after its recording, `no_duration`, or `empty_reference`.

    >>> inside, outside = ReferenceSegment(0.0, 2.4, "Ja."), ReferenceSegment(1.0, 1.6, "Nein.")
    >>> kept, skipped = check_segments([inside, outside], recording_seconds=2.0)
    >>> kept == (inside,), [(one.segment is outside, one.reason) for one in skipped]
    (True, [(True, 'beyond_end')])
    """
    kept, skipped = [], []
    for segment in segments:
        reason = _reason_to_skip(segment, recording_seconds)
        if reason is None:
            kept.append(segment)
        else:
            skipped.append(SkippedSegment(segment, reason))
    return tuple(kept), tuple(skipped)


def _reason_to_skip(segment: ReferenceSegment, recording_seconds: float) -> str | None:
    beyond = segment.offset_seconds >= recording_seconds or segment.end_seconds > recording_seconds + OVERSHOOT_SECONDS
    if beyond:
        return BEYOND_END
    if segment.duration_seconds <= 0:
        return NO_DURATION
    return EMPTY_REFERENCE if segment.reference is not None and not segment.reference.strip() else None


def count_overlaps(segments: Iterable[ReferenceSegment]) -> int:
    """Count the segments that begin before an earlier one has ended; `segments` are in the order of their offsets.

    >>> count_overlaps([ReferenceSegment(0, 2, "a"), ReferenceSegment(1, 3, "b"), ReferenceSegment(4, 1, "c")])
    1
    """
    overlaps, end = 0, 0.0
    for segment in segments:
        overlaps += segment.offset_seconds < end
        end = max(end, segment.end_seconds)
    return overlaps
