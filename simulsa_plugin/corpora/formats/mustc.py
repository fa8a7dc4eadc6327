"""MuST-C, and what shares its form (MuST-Cinema, Multilingual TEDx): talks, a YAML list of segments, aligned lines.

`data/SPLIT/wav/ted_1.wav`, `data/SPLIT/txt/SPLIT.yaml` with a flow mapping a line (`- {duration: 3.5, offset: 16.08,
wav: ted_1.wav, …}`), and `data/SPLIT/txt/SPLIT.de` with the translation of each segment in its line. Multilingual TEDx
(openslr.org/100) says `.wav` in its YAML, and its files are `.flac`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from simulsa_plugin.corpora.lines import MAX_LINE_BYTES, listed, numbered_lines, read_aligned
from simulsa_plugin.corpora.spans import span_from
from simulsa_plugin.corpora.utterance import CorpusRequest, Dropped, FindAudio, Utterance, utterance_or_dropped
from simulsa_plugin.errors import DatasetError, RowError

_ITEM = "- "
# All scalars stay text: YAML would read 1:30 as 90, and 1_0 as 10. The C parser is seven times as fast.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_mustc(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the segments of the splits, in order. An id is the talk and the segment's number in it."""
    for split in request.splits:
        folder = _split_folder(request, split)
        table = folder / "txt" / f"{split}.yaml"
        segments = list(_read_yaml_segments(table))
        translations = _aligned_translations(folder / "txt" / f"{split}.{request.target}", segments, table)
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


def _aligned_translations(
    path: Path, segments: Sequence[tuple[str, Mapping[str, str] | RowError]], table: Path
) -> list[str]:
    try:
        return read_aligned(path, len(segments), table)
    except DatasetError as error:
        broken = next((segment for _, segment in segments if isinstance(segment, RowError)), None)
        if broken is None:
            raise
        raise DatasetError(f"{error} {broken}") from error  # it may have swallowed the lines of others


def _utterance(
    identifier: str, segment: Mapping[str, str], translation: str, place: str, folder: Path, find: FindAudio
) -> Utterance:
    span = span_from(segment["offset"], segment["duration"], place)
    return Utterance(identifier, _find_recording_or_flac(segment["wav"], place, folder, find), span, translation)


def _find_recording_or_flac(name: str, place: str, folder: Path, find: FindAudio) -> Path:
    """Return the file of that name or, if it is missing, the FLAC file in its place."""
    path = find(name, place, folder)
    if path.suffix == ".wav" and not path.exists():
        flac = find(str(PurePosixPath(name).with_suffix(".flac")), place, folder)
        return flac if flac.exists() else path
    return path


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


def _read_yaml_segments(table: Path) -> Iterator[tuple[str, Mapping[str, str] | RowError]]:
    """Yield (place for messages, segment or what is wrong with it) of each item of the list.

    Items are parsed one at a time: what the whole file would need of memory, and could hide, is out of bounds.
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


def _parse_segment(text: str, place: str) -> Mapping[str, str] | RowError:
    try:
        items: Any = yaml.load(text, Loader=_Loader)
        (segment,) = items
        if all(isinstance(segment[key], str) for key in ("wav", "offset", "duration")):
            return dict(segment)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError):
        pass
    expected = "expected `- {duration: …, offset: …, wav: …}`"
    return RowError("broken_row", f"{place}: {expected}, got {text.strip()[:80]!r}.")
