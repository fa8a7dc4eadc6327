"""Segments of long recordings put together again: one row for each recording, with its reference segments."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.corpora.utterance import AudioName, Dropped, Utterance
from simulsa_plugin.segments import ReferenceSegment, check_segments, count_overlaps

_DECIMALS = 9  # of durations, which are differences: more would be rounding errors of these


@dataclass(frozen=True)
class Recording:
    """A recording and the segments of it that a corpus translates.

    Attributes:
        whole: all of its audio, or all of one channel; its id is the file's name. The translation is empty.
        segments: by start, those that start together as the corpus has them.
    """

    whole: Utterance
    segments: tuple[Utterance, ...]


@dataclass(frozen=True)
class PlacedRecording:
    """A recording whose length is known.

    Attributes:
        segments: those that can be scored.
        dropped: the others.
    """

    segments: tuple[ReferenceSegment, ...]
    dropped: tuple[Dropped, ...]

    @property
    def reference(self) -> str:
        """The references, joined by spaces."""
        return " ".join(str(segment.reference) for segment in self.segments)

    @property
    def overlaps(self) -> int:
        """How many segments begin before an earlier one has ended."""
        return count_overlaps(self.segments)

    def rows(self) -> list[dict[str, Any]]:
        """Return the segments as the column `segments` has them, seconds."""
        return [
            {
                "offset": segment.offset_seconds,
                "duration": segment.duration_seconds,
                "reference": segment.reference,
            }
            for segment in self.segments
        ]


def gather_recordings(utterances: Iterable[Utterance]) -> list[Recording]:
    """Put the utterances of each recording together; recordings in the order of their first utterances."""
    groups: dict[tuple[AudioName, int | None], list[Utterance]] = {}
    for utterance in utterances:
        channel = utterance.span.channel if utterance.span else None
        audio = utterance.audio if isinstance(utterance.audio, str) else Path(str(utterance.audio))
        groups.setdefault((audio, channel), []).append(utterance)
    names = _names([(Path(audio), channel) for audio, channel in groups])
    return [
        Recording(
            Utterance(name, audio, None if channel is None else Span(0.0, None, channel), ""),
            tuple(sorted(segments, key=_start)),
        )
        for name, ((audio, channel), segments) in zip(names, groups.items(), strict=True)
    ]


def place_segments(recording: Recording, seconds: float) -> PlacedRecording:
    """Return which segments of a recording can be scored; a segment without an end goes to the recording's end.

    Args:
        recording: with its segments.
        seconds: its length.
    """
    kept: list[ReferenceSegment] = []
    dropped: list[Dropped] = []
    for utterance in recording.segments:
        segment = _reference_segment(utterance, seconds)
        fitting, skipped = check_segments([segment], seconds)
        kept += fitting
        dropped += [Dropped(utterance.id, one.reason, _cause(segment, seconds)) for one in skipped]
    return PlacedRecording(tuple(kept), tuple(dropped))


def _reference_segment(utterance: Utterance, seconds: float) -> ReferenceSegment:
    start = _start(utterance)
    end = utterance.span.end_seconds if utterance.span else None
    duration = round(max(0.0, (seconds if end is None else end) - start), _DECIMALS)
    return ReferenceSegment(start, duration, utterance.translation)


def _start(utterance: Utterance) -> float:
    return utterance.span.start_seconds if utterance.span else 0.0


def _cause(segment: ReferenceSegment, seconds: float) -> str:
    end = f"{segment.end_seconds:.3f}" if math.isfinite(segment.end_seconds) else "?"
    return f"it lies from {segment.offset_seconds:.3f} to {end} s of a recording of {seconds:.3f} s."


def _names(groups: Sequence[tuple[Path, int | None]]) -> list[str]:
    """Return a name for each recording: that of its file, or as much of its path as tells it from others."""
    stems: dict[str, list[Path]] = {}
    for audio, _ in groups:
        stems.setdefault(audio.stem, []).append(audio)
    names = []
    for audio, channel in groups:
        alike = stems[audio.stem]
        name = audio.stem
        if len(set(alike)) > 1:
            name = os.path.relpath(audio, os.path.commonpath([path.parent for path in alike]))
        names.append(f"{name}_channel{channel}" if channel is not None and len(alike) > len(set(alike)) else name)
    return names
