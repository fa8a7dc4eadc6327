"""NeMo manifests: a JSON object a line with audio_filepath, offset, duration, and the translation as answer or text."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.corpora.choice import choose_table
from simulsa_plugin.corpora.lines import read_objects
from simulsa_plugin.corpora.spans import span_from
from simulsa_plugin.corpora.table_columns import check_roles
from simulsa_plugin.corpora.utterance import CorpusRequest, Dropped, Utterance, utterance_or_dropped
from simulsa_plugin.errors import RowError
from simulsa_plugin.languages import language_code

_MANIFEST_ENDINGS = (".json", ".jsonl", "_manifest.json", "_manifest.jsonl")


def read_nemo(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the rows of the manifests, in order.

    Rows that name other languages than the recipe are dropped, and so are rows without a translation: multilingual
    manifests hold transcripts as well.
    """
    check_roles(request.columns, ("translation",))
    for split in request.splits or ("",):
        manifest = choose_table(request.folder, split, _MANIFEST_ENDINGS)
        for number, row in read_objects(manifest):
            if isinstance(row, RowError):
                yield Dropped(f"line {number}", row.reason, str(row))
            else:
                identifier = str(row.get("id") or _number_of(row, number))
                read_row = functools.partial(_utterance, identifier, row, number, manifest, request)
                yield utterance_or_dropped(identifier, read_row)


def _number_of(row: Mapping[str, Any], number: int) -> str:
    """Return an id for a row without one."""
    name = row.get("audio_filepath")
    return f"{Path(name).stem}-{number}" if isinstance(name, str) else f"line {number}"


def _utterance(
    identifier: str, row: Mapping[str, Any], number: int, manifest: Path, request: CorpusRequest
) -> Utterance | Dropped:
    place = f"{manifest}, line {number}"
    name = row.get("audio_filepath")
    if not isinstance(name, str):
        raise RowError("no_audio", f"{place}: no audio_filepath, which every row of a NeMo manifest has.")
    translation = _translation_column(row, request)
    languages = ("source_lang", request.source_language), ("target_lang", request.target_language)
    if any(_names_other_language(row.get(key), wanted) for key, wanted in languages):
        return Dropped(identifier, "other_language")
    if not isinstance(translation, str):
        return Dropped(identifier, "no_translation")
    return Utterance(identifier, request.find(name, place, manifest.parent), _offset_span(row, place), translation)


def _translation_column(row: Mapping[str, Any], request: CorpusRequest) -> Any:
    column = (request.columns or {}).get("translation")
    return row.get(column) if column else row.get("answer", row.get("text"))


def _offset_span(row: Mapping[str, Any], place: str) -> Span | None:
    """Return None where the row is about a whole file, whose duration says nothing new."""
    if row.get("offset") is None:
        return None
    return span_from(row["offset"], row.get("duration"), place)


def _names_other_language(language: object, wanted: str | None) -> bool:
    """Return whether both are named, and differ: `en-US` is `en`."""
    if not isinstance(language, str) or not language or wanted is None:
        return False
    return language_code(language) != language_code(wanted)
