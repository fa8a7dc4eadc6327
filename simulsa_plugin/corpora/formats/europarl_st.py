"""Europarl-ST: m4a recordings, a list of segments, aligned lines.

`en/audios/NAME.m4a`, and in `en/de/SPLIT/` the files `segments.lst` (`NAME start end` in seconds a line), `segments.en`
and `segments.de`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from simulsa_plugin.corpora.lines import listed, numbered_lines, read_aligned
from simulsa_plugin.corpora.spans import span_of
from simulsa_plugin.corpora.utterance import CorpusRequest, Dropped, FindAudio, Utterance, utterance_or_dropped
from simulsa_plugin.errors import DatasetError, RowError

_SEGMENTS = "segments.lst"


def read_europarl_st(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the segments of the splits, in order. An id is the recording and the segment's number in it."""
    source = _source_folder(request)
    for split in request.splits:
        folder = source / request.target / split
        table = folder / _SEGMENTS
        if not table.exists():
            there = listed(path.parent.name for path in sorted(folder.parent.glob(f"*/{_SEGMENTS}")))
            raise DatasetError(f"{folder} has no {_SEGMENTS}; splits there: {there}. Set simulsa_split.")
        segments = [(number, line.split()) for number, line in numbered_lines(table) if line.strip()]
        translations = read_aligned(folder / f"segments.{request.target}", len(segments), table)
        numbers: Counter[str] = Counter()
        for (number, fields), translation in zip(segments, translations, strict=True):
            place = f"{table}, line {number}"
            name = fields[0]
            identifier = f"{name}_{numbers[name]}"
            numbers[name] += 1
            read_row = functools.partial(_utterance, identifier, fields, translation, place, source, request.find)
            yield utterance_or_dropped(identifier, read_row)


def _utterance(
    identifier: str, fields: list[str], translation: str, place: str, source: Path, find: FindAudio
) -> Utterance:
    if len(fields) != 3:
        expected = "expected a recording, its start and its end"
        raise RowError("broken_row", f"{place}: {expected}, got {len(fields)} fields.")
    name, start, end = fields
    return Utterance(
        identifier, find(_file_name(name), place, source / "audios"), span_of(start, end, place), translation
    )


def _source_folder(request: CorpusRequest) -> Path:
    """Find the folder of the source language, in the corpus or in one of its version folders."""
    above = [request.folder, *sorted(request.folder.glob("v*"))]
    candidates = [folder / request.source for folder in above] + [request.folder]
    found = [folder for folder in candidates if any((folder / request.target).glob(f"*/{_SEGMENTS}"))]
    if len(found) != 1:
        there = listed(folder.relative_to(request.folder) for folder in found)
        raise DatasetError(
            f"{request.folder} needs one folder {request.source}/{request.target}/; there: {there}. "
            "Give the folder that holds the language folders (v1.1) as simulsa_corpus_dir."
        )
    return found[0]


def _file_name(name: str) -> str:
    """Add the ending to the name of a recording: they are listed without it, and hold dots."""
    return name if name.endswith((".m4a", ".wav", ".flac")) else f"{name}.m4a"
