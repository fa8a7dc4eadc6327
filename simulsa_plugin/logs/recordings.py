"""Recordings of a log with the reference segments of each, from the files of segments."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from simulsa_plugin.errors import LogError
from simulsa_plugin.logs.segment_files import AudioSegment, find_audios
from simulsa_plugin.metrics.delays import ShownStep, split_units
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
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


def join_sessions(
    records: Iterable[EmissionRecord], sessions: Iterable[tuple[str, Sequence[ShownStep]]], unit: LatencyUnit
) -> Iterator[tuple[EmissionRecord, list[Sequence[ShownStep]]]]:
    """Join records of recordings with the steps of their sessions, one session for each speech segment.

    A recording in which no speech was found is empty and has no steps.

    Args:
        records: of a cell, in order.
        sessions: ids of recordings and steps, in that order.
        unit: word or char.

    Raises:
        LogError: the steps are not those of the records.
    """
    grouped = itertools.groupby(sessions, key=lambda session: session[0])
    decoded = ([steps for _, steps in group] for _, group in grouped)
    waiting = next(decoded, None)
    for record in records:
        found: list[Sequence[ShownStep]] = []
        if waiting is not None and (record.delays or not _count_final(waiting, unit)):
            found, waiting = waiting, next(decoded, None)
        if _count_final(found, unit) != len(record.delays):
            raise LogError(
                f"Instance {record.index} has {len(record.delays)} delays for {_count_final(found, unit)} units of its "
                "steps. Give the --unit that the cell was scored with, or run `simulsa-eval run` again."
            )
        yield record, found


def _count_final(sessions: Sequence[Sequence[ShownStep]], unit: LatencyUnit) -> int:
    return sum(len(split_units(steps[-1].shown, unit)) for steps in sessions)


def unique_names(audios: Sequence[str]) -> dict[str, str]:
    """Return a file name for each audio, by whose stem simulstream and OmniSTEval tell it from the others.

    >>> unique_names(["a/one.wav", "b/two.flac"]), unique_names(["a/one.wav", "b/one.wav"])
    ({'a/one.wav': 'one.wav', 'b/two.flac': 'two.flac'}, {'a/one.wav': '00000000.wav', 'b/one.wav': '00000001.wav'})
    """
    names = [PurePath(audio).name for audio in audios]
    if len({PurePath(name).stem for name in names}) == len(audios) and all(names):
        return dict(zip(audios, names, strict=True))
    return {audio: f"{number:08d}.wav" for number, audio in enumerate(audios)}


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
