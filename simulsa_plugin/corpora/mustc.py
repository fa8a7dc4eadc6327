"""MuST-C, and what shares its form (MuST-Cinema, Multilingual TEDx): talks, a YAML list of segments, aligned lines.

`data/SPLIT/wav/ted_1.wav`, `data/SPLIT/txt/SPLIT.yaml` with a flow mapping a line (`- {duration: 3.5, offset: 16.08,
wav: ted_1.wav, …}`), and `data/SPLIT/txt/SPLIT.de` with the translation of each segment in its line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from simulsa_plugin.corpora.lines import MAX_LINE_BYTES, listed, read_aligned, read_lines
from simulsa_plugin.corpora.spans import span_from
from simulsa_plugin.corpora.utterance import Dropped, Form, Request, Utterance
from simulsa_plugin.errors import DatasetError

_ITEM = "- "
# All scalars stay text: YAML would read 1:30 as 90, and 1_0 as 10. The C parser is seven times as fast.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read(request: Request) -> Iterator[Utterance | Dropped]:
    """The segments of the splits, in order; see `Form.read`. An id is the talk and the segment's number in it."""
    for split in request.splits:
        folder = _split_folder(request, split)
        table = folder / "txt" / f"{split}.yaml"
        segments = list(_segments(table))
        translations = read_aligned(folder / "txt" / f"{split}.{request.target}", len(segments), table)
        numbers: Counter[str] = Counter()
        for (place, segment), translation in zip(segments, translations, strict=True):
            wav, talk = segment["wav"], Path(segment["wav"]).stem
            audio = request.find(wav, place, folder / "wav")
            span = span_from(segment["offset"], segment["duration"], place)
            yield Utterance(f"{talk}_{numbers[talk]}", audio, span, translation)
            numbers[talk] += 1


def _split_folder(request: Request, split: str) -> Path:
    """`data/SPLIT` of the language pair's folder, or of the one above it."""
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


def _segments(table: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(place for messages, segment) of each item of the list.

    Items are parsed one at a time: what the whole file would need of memory, and could hide, is out of bounds.
    """
    place, item = "", ""
    for number, line in read_lines(table):
        if line.startswith(_ITEM) and item:
            yield place, _segment(item, place)
            item = ""
        if not item:
            place = f"{table}, line {number}"
        if line.strip() and not line.startswith(("#", "---")):
            item += f"{line}\n"
        if len(item) > MAX_LINE_BYTES:
            raise DatasetError(f"{place}: an item longer than {MAX_LINE_BYTES} characters, which no segment is.")
    if item:
        yield place, _segment(item, place)


def _segment(text: str, place: str) -> Mapping[str, str]:
    try:
        items: Any = yaml.load(text, Loader=_Loader)
        (segment,) = items
        if all(isinstance(segment[key], str) for key in ("wav", "offset", "duration")):
            return dict(segment)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise DatasetError(f"{place}: expected `- {{duration: …, offset: …, wav: …}}`, got {text.strip()[:80]!r}.")


FORM = Form(read, train_split="train", test_split="tst-COMMON")
