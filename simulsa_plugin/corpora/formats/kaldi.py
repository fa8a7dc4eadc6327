"""Kaldi and ESPnet data folders: wav.scp, segments, and the translations in a file text.*.

`wav.scp` has a recording and its file a line; `segments` an utterance, its recording, start and end in seconds, and for
recordings of several channels which one, from 0 (see Kaldi's featbin/extract-segments.cc). Without `segments` every
recording is an utterance. Translations are `text.tc.de`, `text.de`, `text.*.de` or `text`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.corpora.lines import listed, numbered_lines
from simulsa_plugin.corpora.spans import channel_of, span_of
from simulsa_plugin.corpora.utterance import AudioName, CorpusRequest, Dropped, Utterance, utterance_or_dropped
from simulsa_plugin.errors import DatasetError, RowError

_TO_THE_END = -1.0  # as an end in `segments`: "end_time of -1 means the segment runs till the end of the WAV file"
_ARCHIVE = re.compile(r"\.ark:\d+(?:\[.*\])?$")


def read_kaldi(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the utterances of the data folders in the order of their audio, then texts without audio."""
    for folder in _data_folders(request):
        recordings = _read_recordings(folder, request)
        translations = _read_translations(_text_file(folder, request))
        unheard = dict.fromkeys(translations)
        for segment in _read_segments(folder, recordings):
            unheard.pop(segment.id, None)
            read_row = functools.partial(_utterance, segment, recordings, translations)
            yield utterance_or_dropped(segment.id, read_row)
        yield from (Dropped(identifier, "no_audio") for identifier in unheard)


@dataclass(frozen=True)
class _Segment:
    """A line of `segments`: an utterance, and its recording, start, end and perhaps channel as written there.

    Without `segments`, an utterance is its recording, and there are no other fields.
    """

    id: str
    fields: list[str]
    place: str


def _utterance(
    segment: _Segment, recordings: Mapping[str, AudioName | RowError], translations: Mapping[str, str | RowError]
) -> Utterance | Dropped:
    name, span = _recording_and_span(segment)
    recording, translation = recordings.get(name), translations.get(segment.id)
    if recording is None:
        return Dropped(segment.id, "no_recording")
    if translation is None:
        return Dropped(segment.id, "no_translation")
    if isinstance(recording, RowError):
        raise recording
    if isinstance(translation, RowError):
        raise translation
    return Utterance(segment.id, recording, span, translation)


def _data_folders(request: CorpusRequest) -> list[Path]:
    """Return a folder for each split; without splits, the corpus folder itself."""
    folders = [request.folder / split for split in request.splits] or [request.folder]
    for folder in folders:
        if not (folder / "wav.scp").exists():
            there = sorted(path.parent.name for path in request.folder.glob("*/wav.scp"))
            raise DatasetError(
                f"{folder} has no wav.scp; data folders there: {listed(there)}. "
                "Set simulsa_corpus_dir, and simulsa_split to the name of a data folder in it."
            )
    return folders


def _read_recordings(folder: Path, request: CorpusRequest) -> dict[str, AudioName | RowError]:
    """Return recording → file, or why none is read; relative names start from the corpus or the data folder."""
    recordings = dict[str, AudioName | RowError]()
    for place, name, rest in _table_entries(folder / "wav.scp"):
        path = _find_recording(rest, place, folder, request)
        before = recordings.setdefault(name, path)
        if not isinstance(before, RowError) and before != path:
            cause = f"{place}: the recording {name[:80]!r} has two files. Remove one."
            recordings[name] = RowError("two_recordings", cause)
    return recordings


def _find_recording(rest: str, place: str, folder: Path, request: CorpusRequest) -> AudioName | RowError:
    if _ARCHIVE.search(rest):
        return RowError("in_archive", f"{place}: {rest[:80]!r} lies in a Kaldi archive. Write the recordings to files.")
    try:
        return request.find(rest, place, request.folder, folder)
    except RowError as error:
        return error


def _read_segments(folder: Path, recordings: Iterable[str]) -> Iterator[_Segment]:
    table = folder / "segments"
    if table.exists():
        for place, identifier, rest in _table_entries(table):
            yield _Segment(identifier, rest.split(), place)
    else:
        yield from (_Segment(name, [name], "") for name in recordings)


def _recording_and_span(segment: _Segment) -> tuple[str, Span | None]:
    """Return the recording of an utterance, and its span in it. Raises RowError."""
    if not segment.place:
        return segment.id, None
    if len(segment.fields) not in (3, 4):
        expected = "expected an utterance, its recording, start, end and perhaps a channel"
        raise RowError("broken_row", f"{segment.place}: {expected}.")
    recording, start, end, *channel = segment.fields
    span = span_of(start, None if _is_open(end) else end, segment.place)
    return recording, replace(span, channel=channel_of(channel[0], segment.place) if channel else None)


def _is_open(end: str) -> bool:
    try:
        return float(end) == _TO_THE_END
    except ValueError:
        return False


def _text_file(folder: Path, request: CorpusRequest) -> Path:
    """Find the file with the translations: by the target language in its name, else `text`."""
    target = request.target_language
    names = [f"text.tc.{target}", f"text.{target}"] if target else []
    named = [folder / name for name in names if (folder / name).exists()]
    others = sorted(folder.glob(f"text.*.{target}")) if target else []
    found = named[:1] or others or [path for path in (folder / "text",) if path.exists()]
    if len(found) != 1:
        there = listed(sorted(path.name for path in folder.glob("text*")))
        raise DatasetError(
            f"{folder} needs one file of translations, text.{target or 'LANGUAGE'} or text; there: {there}. "
            "Set simulsa_target_language, or leave one of them."
        )
    return found[0]


def _read_translations(table: Path) -> dict[str, str | RowError]:
    translations = dict[str, str | RowError]()
    for place, identifier, text in _table_entries(table):
        before = translations.setdefault(identifier, text)
        if isinstance(before, str) and before != text:
            cause = f"{place}: the utterance {identifier[:80]!r} has two translations. Remove one."
            translations[identifier] = RowError("two_translations", cause)
    return translations


def _table_entries(table: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (place, first word, the rest) of each line."""
    for number, line in numbered_lines(table):
        first, *rest = line.split(maxsplit=1)[:2] if line.strip() else ("",)
        if first:
            yield f"{table}, line {number}", first, rest[0].strip() if rest else ""
