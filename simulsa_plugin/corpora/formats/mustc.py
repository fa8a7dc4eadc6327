"""MuST-C, and what shares its form (MuST-Cinema, Multilingual TEDx): talks, a YAML list of segments, aligned lines.

`data/SPLIT/wav/ted_1.wav`, `data/SPLIT/txt/SPLIT.yaml` with a flow mapping a line (`- {duration: 3.5, offset: 16.08,
wav: ted_1.wav, …}`), and `data/SPLIT/txt/SPLIT.de` with the translation of each segment in its line. Multilingual TEDx
(openslr.org/100) says `.wav` in its YAML, and its files are `.flac`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from simulsa_plugin.corpora.lines import listed
from simulsa_plugin.corpora.segment_lists import (
    Segment,
    find_recording_or_flac,
    read_translations,
    read_yaml_segments,
)
from simulsa_plugin.corpora.spans import span_from
from simulsa_plugin.corpora.utterance import CorpusRequest, Dropped, FindAudio, Utterance, utterance_or_dropped
from simulsa_plugin.errors import DatasetError, RowError


def read_mustc(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the segments of the splits, in order. An id is the talk and the segment's number in it."""
    for split in request.splits:
        folder = _split_folder(request, split)
        table = folder / "txt" / f"{split}.yaml"
        segments = list(read_yaml_segments(table))
        translations = read_translations(folder / "txt" / f"{split}.{request.target}", segments, table)
        numbers: Counter[str] = Counter()
        for (place, segment), translation in zip(segments, translations, strict=True):
            if isinstance(segment, RowError):
                yield Dropped(place.rpartition(", ")[2], segment.reason, str(segment))
                continue
            talk = Path(segment["wav"]).stem
            identifier = f"{talk}_{numbers[talk]}"
            numbers[talk] += 1
            yield utterance_or_dropped(
                identifier,
                functools.partial(_utterance, identifier, segment, translation, place, folder / "wav", request.find),
            )


def _utterance(
    identifier: str, segment: Segment, translation: str, place: str, folder: Path, find: FindAudio
) -> Utterance:
    span = span_from(segment["offset"], segment["duration"], place)
    return Utterance(identifier, find_recording_or_flac(segment["wav"], place, find, folder), span, translation)


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
