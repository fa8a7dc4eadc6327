"""Files of reference segments, as simulstream and OmniSTEval read them: a YAML list, and a text of references.

An entry of the list is `{wav, offset, duration}`, in seconds; the text has one reference per entry, in its order.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from simulsa_plugin.errors import LogError
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.logs.json_rows import abbreviated, read_log_lines, reason_of, to_number
from simulsa_plugin.metrics.records import LONGEST_MS
from simulsa_plugin.segments import ReferenceSegment

SEGMENTS, REFERENCES = "segments.yaml", "references.txt"  # the names that result folders give them
AUDIO_SUFFIXES = frozenset(".aac .aif .aiff .flac .m4a .mkv .mp3 .mp4 .oga .ogg .opus .sph .wav .webm .wma".split())


@dataclass(frozen=True)
class AudioSegment:
    """An entry of the list: the name of an audio, and one of its reference segments."""

    audio: str
    segment: ReferenceSegment


def read_segments(path: Path, references: Path | None) -> list[AudioSegment]:
    """Read the segments of recordings, in the order of the file.

    Args:
        path: the YAML list.
        references: the text; None leaves the segments without references.

    Raises:
        LogError: a file cannot be read, an entry lacks a key, or the numbers of entries and references differ.
    """
    entries = [_on_entry(path, number, entry) for number, entry in enumerate(_read_list(path), 1)]
    texts: Sequence[str | None] = [None] * len(entries) if references is None else list(read_texts(references))
    if len(texts) != len(entries):
        raise LogError(
            f"There are {len(texts)} references for {len(entries)} segments; expected one for each: "
            f"{references} needs a line for every entry of {path}, in its order."
        )
    return [
        AudioSegment(audio, ReferenceSegment(offset, duration, text))
        for (audio, offset, duration), text in zip(entries, texts, strict=True)
    ]


def write_segments(
    path_yaml: Path, path_references: Path, recordings: Iterable[tuple[str, Sequence[ReferenceSegment]]]
) -> int:
    """Write the segments of recordings in the order of time, so that simulstream and OmniSTEval read them.

    Args:
        path_yaml: of the list.
        path_references: of the text.
        recordings: names of audios, and the segments of each.

    Returns:
        The number of segments.

    Raises:
        LogError: a segment has no reference.
        StorageError: a file cannot be written.
    """
    count = 0
    with replacing(path_yaml, "w") as entries, replacing(path_references, "w") as texts:
        for audio, segments in recordings:
            for segment in sorted(segments, key=lambda one: one.offset_seconds):
                if segment.reference is None:
                    raise LogError(f"{audio}: the segment at {segment.offset_seconds:g} s has no reference.")
                entry = {"wav": audio, "offset": segment.offset_seconds, "duration": segment.duration_seconds}
                entries.write(f"- {json.dumps(entry)}\n")
                texts.write(" ".join(segment.reference.splitlines()).strip() + "\n")  # one line each
                count += 1
    return count


def read_texts(path: Path, what: str = "references") -> Iterator[str]:
    r"""Yield the lines of a text file, ended by \n or \r\n only: a text may contain other separators.

    Args:
        path: of the file.
        what: the texts are, for messages.

    Raises:
        LogError: the file cannot be read or is not UTF-8.
    """
    for number, line in enumerate(read_log_lines(path, what, "Give a UTF-8 text file."), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise LogError(f"Cannot read the {what} {path}, line {number}: {error}. Give a UTF-8 text file.") from error
        yield text.removesuffix("\n").removesuffix("\r")


def find_audios(wanted: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Find the log's audio for each name in the segments; folders and suffix may differ where the match is unambiguous.

    Raises:
        LogError: an audio is not in the log, or matches several, or two match the same.
    """
    exact, by_stem = set(names), dict[str, list[str]]()
    for name in names:
        by_stem.setdefault(audio_stem(name), []).append(name)
    missing = [audio for audio in wanted if audio not in exact and audio_stem(audio) not in by_stem]
    if missing:
        raise LogError(f"The log has no audio named {missing[0]}; the segments name {len(missing)} that are not in it.")
    found, claimed = {}, dict[str, str]()
    for audio in wanted:
        found[audio] = name = audio if audio in exact else _most_similar(audio, by_stem[audio_stem(audio)])
        if claimed.setdefault(name, audio) != audio:
            raise LogError(
                f"The segments name {claimed[name]} and {audio}; the log has only {name} for both. "
                f"Name them as the log does."
            )
    return found


def audio_stem(name: str) -> str:
    """Strip folders and the suffix from the name of an audio; only suffixes of audio files are suffixes.

    >>> audio_stem("a/talk.v1.wav"), audio_stem("talk.v1")
    ('talk.v1', 'talk.v1')
    """
    path = PurePath(name)
    return path.stem if path.suffix.lower() in AUDIO_SUFFIXES else path.name


def get_seconds(key: str, row: Mapping[str, Any]) -> float:
    """Return the seconds under a key.

    Raises:
        LogError: they are no number, not finite, or negative.
    """
    seconds = to_number(key, row.get(key), "seconds")
    if not 0 <= seconds <= LONGEST_MS / 1000:
        raise LogError(f"{key} is {seconds:g}; allowed: seconds, 0 or more.")
    return seconds


def _read_list(path: Path) -> list[Any]:
    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # an invalid date is a ValueError
        reason = reason_of(error) if isinstance(error, OSError) else abbreviated(" ".join(reason_of(error).split()))
        raise LogError(
            f"Cannot read the segments {path}: {reason}. Give a YAML list of wav, offset and duration."
        ) from error
    if not isinstance(entries, list) or not entries:
        raise LogError(
            f"{path} does not hold a list; expected a YAML list of wav, offset and duration, as for simulstream."
        )
    return entries


def _on_entry(path: Path, number: int, entry: object) -> tuple[str, float, float]:
    try:
        if not isinstance(entry, dict) or not isinstance(entry.get("wav"), str):
            raise LogError(f"{abbreviated(entry)}; expected an object with wav, offset and duration.")
        return entry["wav"], get_seconds("offset", entry), get_seconds("duration", entry)
    except LogError as error:
        raise LogError(f"{path}, entry {number}: {error}") from error


def _most_similar(audio: str, names: Sequence[str]) -> str:
    similarities = [_similarity(audio, name) for name in names]
    most = max(similarities)
    best = [name for name, one in zip(names, similarities, strict=True) if one == most]
    if len(best) > 1:
        raise LogError(
            f"The segments name {audio}, which may be {best[0]} or {best[1]} of the log. Name it there as the log does."
        )
    return best[0]


def _similarity(one: str, other: str) -> tuple[int, bool]:
    """Return how many parent folders are equal, and whether the suffix is."""
    first, second = PurePath(one), PurePath(other)
    pairs = zip(reversed(first.parts[:-1]), reversed(second.parts[:-1]), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)), first.name == second.name
