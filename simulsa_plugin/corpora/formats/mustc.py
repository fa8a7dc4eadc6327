"""MuST-C, and what shares its form (MuST-Cinema, Multilingual TEDx): talks, a YAML list of segments, aligned lines.

`data/SPLIT/wav/ted_1.wav`, `data/SPLIT/txt/SPLIT.yaml` with a flow mapping a line (`- {duration: 3.5, offset: 16.08,
wav: ted_1.wav, …}`), and `data/SPLIT/txt/SPLIT.de` with the translation of each segment in its line. Multilingual TEDx
(openslr.org/100) says `.wav` in its YAML, and its files are `.flac`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from simulsa_plugin.corpora.lines import listed
from simulsa_plugin.corpora.segment_lists import (
    find_recording_or_flac,
    listed_utterances,
    read_translations,
    read_yaml_segments,
)
from simulsa_plugin.corpora.utterance import AudioName, CorpusRequest, Dropped, Utterance
from simulsa_plugin.errors import DatasetError


def read_mustc(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the segments of the splits, in order. An id is the talk and the segment's number in it."""
    for split in request.splits:
        folder = _split_folder(request, split)
        table = folder / "txt" / f"{split}.yaml"
        segments = list(read_yaml_segments(table))
        translations = read_translations(folder / "txt" / f"{split}.{request.target}", segments, table)
        find = functools.partial(_find_recording, request, folder / "wav")
        yield from listed_utterances(segments, translations, find)


def _find_recording(request: CorpusRequest, folder: Path, name: str, place: str) -> AudioName:
    return find_recording_or_flac(name, place, request.find, folder)


def _split_folder(request: CorpusRequest, split: str) -> Path:
    """Find `data/SPLIT` in the language pair's folder, or in the one above it."""
    pair = f"{request.source}-{request.target}"
    candidates = [request.folder / "data" / split, request.folder / pair / "data" / split, request.folder / split]
    found = next((folder for folder in candidates if (folder / "txt" / f"{split}.yaml").exists()), None)
    if found is None:
        there = sorted({path.parent.parent.name for above in ("", pair) for path in
                        (request.folder / above / "data").glob("*/txt/*.yaml")})  # fmt: skip
        raise DatasetError(
            f"{request.folder} has no data/{split}/txt/{split}.yaml, there or in {pair}/; "
            f"splits found: {listed(there)}. Set simulsa_corpus_dir and simulsa_split."
        )
    return found
