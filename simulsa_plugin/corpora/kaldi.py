"""Kaldi and ESPnet data folders: wav.scp, segments, and the translations in a file text.*.

`wav.scp` has a recording and its file a line; `segments` an utterance, its recording, start and end in seconds, and for
recordings of several channels which one, from 0 (see Kaldi's featbin/extract-segments.cc). Without `segments` every
recording is an utterance. Translations are `text.tc.de`, `text.de`, `text.*.de` or `text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from simulsa_plugin.corpora.lines import listed, read_lines
from simulsa_plugin.corpora.spans import channel_of, span_of
from simulsa_plugin.corpora.utterance import Dropped, Form, Request, Utterance
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.recordings import Span

_TO_THE_END = -1.0  # as an end in `segments`: "end_time of -1 means the segment runs till the end of the WAV file"
_ARCHIVE = re.compile(r"\.ark:\d+(?:\[.*\])?$")


def read(request: Request) -> Iterator[Utterance | Dropped]:
    """The utterances of the data folders in the order of their audio, then texts without audio; see `Form.read`."""
    for folder in _data_folders(request):
        recordings = _recordings(folder, request)
        translations = _translations(_text_file(folder, request))
        unheard = dict.fromkeys(translations)
        for identifier, recording, span in _utterances(folder, recordings):
            translation = translations.get(identifier)
            unheard.pop(identifier, None)
            if recording not in recordings:
                yield Dropped(identifier, "no_recording")
            elif translation is None:
                yield Dropped(identifier, "no_translation")
            else:
                yield Utterance(identifier, recordings[recording], span, translation)
        yield from (Dropped(identifier, "no_audio") for identifier in unheard)


def _data_folders(request: Request) -> list[Path]:
    """A folder for each split; without splits, the corpus folder is one itself."""
    folders = [request.folder / split for split in request.splits] or [request.folder]
    for folder in folders:
        if not (folder / "wav.scp").exists():
            there = sorted(path.parent.name for path in request.folder.glob("*/wav.scp"))
            raise DatasetError(
                f"{folder} has no wav.scp; data folders there: {listed(there)}. "
                "Set simulsa_corpus_dir, and simulsa_split to the name of a data folder in it."
            )
    return folders


def _recordings(folder: Path, request: Request) -> dict[str, Path]:
    """Recording → file; relative names start from the corpus folder or from the data folder."""
    table, recordings = folder / "wav.scp", dict[str, Path]()
    for place, name, rest in _entries(table):
        if _ARCHIVE.search(rest):
            raise DatasetError(f"{place}: {rest[:80]!r} lies in a Kaldi archive. Write the recordings to files.")
        path = request.find(rest, place, request.folder, folder)
        if recordings.setdefault(name, path) != path:
            raise DatasetError(f"{place}: the recording {name[:80]!r} has two files. Remove one.")
    return recordings


def _utterances(folder: Path, recordings: dict[str, Path]) -> Iterator[tuple[str, str, Span | None]]:
    """(utterance, its recording, its place in it)."""
    table = folder / "segments"
    if not table.exists():
        yield from ((name, name, None) for name in recordings)
        return
    for place, identifier, rest in _entries(table):
        fields = rest.split()
        if len(fields) not in (3, 4):
            raise DatasetError(f"{place}: expected an utterance, its recording, start, end and perhaps a channel.")
        recording, start, end, *channel = fields
        span = span_of(start, None if _is_open(end) else end, place)
        yield identifier, recording, replace(span, channel=channel_of(channel[0], place) if channel else None)


def _is_open(end: str) -> bool:
    try:
        return float(end) == _TO_THE_END
    except ValueError:
        return False


def _text_file(folder: Path, request: Request) -> Path:
    """The file with the translations: in the target language where the names of files tell, else `text`."""
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


def _translations(table: Path) -> dict[str, str]:
    translations = dict[str, str]()
    for place, identifier, text in _entries(table):
        if translations.setdefault(identifier, text) != text:
            raise DatasetError(f"{place}: the utterance {identifier[:80]!r} has two translations. Remove one.")
    return translations


def _entries(table: Path) -> Iterator[tuple[str, str, str]]:
    """(place, first word, the rest) of each line."""
    for number, line in read_lines(table):
        first, *rest = line.split(maxsplit=1)[:2] if line.strip() else ("",)
        if first:
            yield f"{table}, line {number}", first, rest[0].strip() if rest else ""


FORM = Form(read)
