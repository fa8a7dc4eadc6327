"""YAML lists of the segments of recordings, and texts that belong to them line by line, as MuST-C introduced them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from simulsa_plugin.corpora.lines import MAX_LINE_BYTES, numbered_lines, read_aligned
from simulsa_plugin.corpora.spans import span_from
from simulsa_plugin.corpora.utterance import AudioName, Dropped, FindAudio, Utterance, utterance_or_dropped
from simulsa_plugin.errors import DatasetError, RowError

Segment = Mapping[str, str]  # wav, offset, duration, and whatever else a list has; all values are text
PlacedSegment = tuple[str, Segment | RowError]  # file and line for messages, and the segment or what is wrong with it
FindRecording = Callable[[str, str], AudioName]  # its name in the list of segments, file and line → its path
_ITEM = "- "
# All scalars stay text: YAML would read 1:30 as 90, and 1_0 as 10. The C parser is seven times as fast.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_yaml_segments(table: Path) -> Iterator[PlacedSegment]:
    """Yield each item of a YAML list of segments.

    Items are parsed one at a time: what the whole file would need of memory, and could hide, is out of bounds.

    Raises:
        DatasetError: the file cannot be read, or an item is longer than 1 MiB.
    """
    place, item = "", ""
    for number, line in numbered_lines(table):
        if line.startswith(_ITEM) and item:
            yield place, _parse_segment(item, place)
            item = ""
        if not item:
            place = f"{table}, line {number}"
        if line.strip() and not line.startswith(("#", "---")):
            item += f"{line}\n"
        if len(item) > MAX_LINE_BYTES:
            raise DatasetError(f"{place}: an item longer than {MAX_LINE_BYTES} characters, which no segment is.")
    if item:
        yield place, _parse_segment(item, place)


def _parse_segment(text: str, place: str) -> Segment | RowError:
    try:
        items: Any = yaml.load(text, Loader=_Loader)
        (segment,) = items
        if all(isinstance(segment[key], str) for key in ("wav", "offset", "duration")):
            return dict(segment)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError):
        pass
    expected = "expected `- {duration: …, offset: …, wav: …}`"
    return RowError("broken_row", f"{place}: {expected}, got {text.strip()[:80]!r}.")


def read_translations(path: Path, segments: Sequence[PlacedSegment], table: Path) -> list[str]:
    """Return the translation of each segment of a list, a line each.

    Raises:
        DatasetError: the file cannot be read, or has more or fewer lines than the list has segments.
    """
    try:
        return read_aligned(path, len(segments), table)
    except DatasetError as error:
        broken = next((segment for _, segment in segments if isinstance(segment, RowError)), None)
        if broken is None:
            raise
        raise DatasetError(f"{error} {broken}") from error  # it may have swallowed the lines of others


def listed_utterances(
    segments: Sequence[PlacedSegment], translations: Sequence[str], find: FindRecording
) -> Iterator[Utterance | Dropped]:
    """Yield the utterances of a list, in order. An id is the recording and the segment's number in it.

    Args:
        segments: of the list.
        translations: of each segment.
        find: gives the path of a recording, from its name in the list, and the file and line for messages.
    """
    numbers: Counter[str] = Counter()
    for (place, segment), translation in zip(segments, translations, strict=True):
        if isinstance(segment, RowError):
            yield Dropped(place.rpartition(", ")[2], segment.reason, str(segment))
            continue
        name = PurePosixPath(segment["wav"]).stem
        identifier = f"{name}_{numbers[name]}"
        numbers[name] += 1
        row = functools.partial(_utterance, identifier, segment, translation, place, find)
        yield utterance_or_dropped(identifier, row)


def _utterance(identifier: str, segment: Segment, translation: str, place: str, find: FindRecording) -> Utterance:
    span = span_from(segment["offset"], segment["duration"], place)
    return Utterance(identifier, find(segment["wav"], place), span, translation)


def find_recording_or_flac(name: str, place: str, find: FindAudio, *folders: Path) -> AudioName:
    """Return the file of that name or, if it is missing, the FLAC file in its place; Multilingual TEDx needs that.

    Raises:
        RowError: of `find`.
    """
    path = find(name, place, *folders)
    if isinstance(path, Path) and path.suffix == ".wav" and not path.exists():
        flac = find(str(PurePosixPath(name).with_suffix(".flac")), place, *folders)
        return flac if isinstance(flac, Path) and flac.exists() else path
    return path
