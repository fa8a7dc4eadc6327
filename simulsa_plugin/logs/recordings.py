"""Recordings of a log with the reference segments of each, from the files of segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from simulsa_plugin.errors import LogError
from simulsa_plugin.logs.segment_files import AudioSegment, find_audios
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.resegmentation import recording_name
from simulsa_plugin.segments import BEYOND_END, NO_DURATION, ReferenceSegment, check_segments, count_overlaps

_ODD_SEGMENTS = {
    "unsorted_segments": "segments are listed after a later one; the text is aligned in the order of time",
    "overlapping_segments": "segments begin before an earlier one has ended",
    BEYOND_END: "segments lie outside of their recording, as far as the log has it; they stay, with what is aligned to "
    "them",
    NO_DURATION: "segments have no duration; they have no latency",
    "recordings_without_segments": "recordings of the log have no segments, and are not scored",
}


@dataclass(frozen=True)
class Recording:
    """A recording of a log.

    Attributes:
        record: of the whole recording.
        segments: of it, in the order of the file.
        places: positions of the segments in the file.
    """

    record: EmissionRecord
    segments: tuple[ReferenceSegment, ...]
    places: tuple[int, ...]


def spans_recordings(segments: Sequence[AudioSegment]) -> bool:
    """Return whether some audio has several segments, or one that does not begin with it."""
    audios = {one.audio for one in segments}
    return len(audios) < len(segments) or any(one.segment.offset_seconds for one in segments)


def join_segments(records: Sequence[EmissionRecord], segments: Sequence[AudioSegment]) -> list[Recording]:
    """Join records with their segments; recordings are in the order of their first segment.

    Args:
        records: of recordings, named by their source.
        segments: of the file, in its order.

    Raises:
        LogError: two records have the same name or none, or a segment's audio is not clearly one of them.
    """
    named = _by_name(records)
    audios = find_audios(list(dict.fromkeys(one.audio for one in segments)), list(named))
    places: dict[str, list[int]] = {}
    for place, one in enumerate(segments):
        places.setdefault(audios[one.audio], []).append(place)
    return [
        Recording(named[name], tuple(segments[place].segment for place in found), tuple(found))
        for name, found in places.items()
    ]


def count_odd_segments(records: Sequence[EmissionRecord], recordings: Sequence[Recording]) -> dict[str, int]:
    """Count what is unusual about the segments of recordings, by kind."""
    counts = dict.fromkeys(_ODD_SEGMENTS, 0)
    counts["recordings_without_segments"] = len(records) - len(recordings)
    for one in recordings:
        offsets = [segment.offset_seconds for segment in one.segments]
        counts["unsorted_segments"] += sum(
            offset < max(offsets[:place]) for place, offset in enumerate(offsets) if place
        )
        counts["overlapping_segments"] += count_overlaps(sorted(one.segments, key=lambda each: each.offset_seconds))
        if one.record.source_length is not None:
            for skipped in check_segments(one.segments, one.record.source_length / 1000)[1]:
                if skipped.reason in counts:
                    counts[skipped.reason] += 1
    return counts


def describe_odd_segments(counts: dict[str, int]) -> Iterator[str]:
    """Yield a sentence for each kind that occurs."""
    for kind, sentence in _ODD_SEGMENTS.items():
        if counts[kind]:
            yield f"{counts[kind]} {sentence} ({kind})"


def _by_name(records: Sequence[EmissionRecord]) -> dict[str, EmissionRecord]:
    named: dict[str, EmissionRecord] = {}
    for number, record in enumerate(records, 1):
        name = recording_name(record)
        if not name:
            raise LogError(
                f"Instance {number} has no source, the name of the recording, by which its segments are found."
            )
        if name in named:
            raise LogError(
                f"Instance {number} has the source {name}, as an earlier one. With --segments, an instance is a whole "
                "recording; expected one for each."
            )
        named[name] = record
    return named
