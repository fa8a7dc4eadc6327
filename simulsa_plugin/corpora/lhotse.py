"""Lhotse cuts (cuts.jsonl.gz) whose supervisions, or which themselves, hold a translation as a custom field.

Read with the package lhotse, from the extra of that name. Nothing is loaded through it: audio that comes from commands
or addresses is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.corpora.choice import choose_table
from simulsa_plugin.corpora.lines import read_objects
from simulsa_plugin.corpora.spans import span_from
from simulsa_plugin.corpora.utterance import Dropped, Form, Request, Utterance
from simulsa_plugin.errors import DatasetError, MissingExtraError
from simulsa_plugin.recordings import Span

_ENDINGS = (".jsonl.gz", ".jsonl", "_cuts.jsonl.gz", "_cuts.jsonl")
_FIELDS = ("translation", "translated_text", "tgt_text")  # of `custom`, where simulsa_columns names none


def read(request: Request) -> Iterator[Utterance | Dropped]:
    """The supervisions of the cuts, in order; see `Form.read`. A cut's only supervision is the whole cut."""
    for split in request.splits or ("",):
        manifest = choose_table(request.folder, split, _ENDINGS, prefixes=("", "cuts_", "cuts-"))
        for number, row in read_objects(manifest):
            place = f"{manifest}, line {number}"
            yield from _utterances(_cut(row, place), place, manifest, request)


def _cut(row: dict[str, Any], place: str) -> Any:
    try:
        from lhotse.serialization import deserialize_item
    except ImportError as error:
        raise MissingExtraError(
            "simulsa_corpus: lhotse needs the package lhotse. Type  pip install 'simulsa-plugin[lhotse]'"
        ) from error
    try:
        cut = deserialize_item(row)
        if hasattr(cut, "supervisions"):
            return cut
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError):
        pass
    raise DatasetError(f"{place}: no cut of lhotse. Give a file of cuts (CutSet.to_file), not recordings alone.")


def _utterances(cut: Any, place: str, manifest: Path, request: Request) -> Iterator[Utterance | Dropped]:
    reason = _unusable(cut)
    if reason:
        yield Dropped(str(cut.id), reason)
        return
    audio, channel = _audio(cut, place, manifest, request)
    for supervision in cut.supervisions:
        alone = len(cut.supervisions) == 1
        identifier = str(cut.id if alone else f"{cut.id}-{supervision.id}")
        translation = _translation(supervision, cut, request)
        if translation is None:
            yield Dropped(identifier, "no_translation")
            continue
        start = cut.start + (0.0 if alone else max(0.0, supervision.start))
        duration = cut.duration if alone else supervision.duration
        span = span_from(start, duration, place)
        yield Utterance(identifier, audio, Span(span.start_seconds, span.end_seconds, channel), translation)


def _unusable(cut: Any) -> str | None:
    if type(cut).__name__ not in ("MonoCut", "MultiCut"):
        return "mixed_cut"
    if not cut.supervisions:
        return "no_translation"
    if not cut.has_recording:
        return "no_recording"
    if cut.recording.transforms:
        return "transformed"  # speed, volume …: made by lhotse as it loads
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    if not any(set(channels) <= set(source.channels) for source in cut.recording.sources):
        return "channels_in_several_files"
    if len(channels) > 1 and set(channels) != set(cut.recording.channel_ids):
        return "several_channels"
    return None


def _audio(cut: Any, place: str, manifest: Path, request: Request) -> tuple[Path, int | None]:
    """(file, which of its channels; None: all that it has)."""
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    source = next(source for source in cut.recording.sources if set(channels) <= set(source.channels))
    if source.type != "file" or not isinstance(source.source, str):
        raise DatasetError(
            f"{place}: the audio of the cut {str(cut.id)[:80]} is a {source.type}, not a file, and is not fetched. "
            "Write it to files (CutSet.save_audios)."
        )
    whole = set(channels) == set(source.channels)
    channel = None if whole else source.channels.index(channels[0])
    return request.find(source.source, place, request.folder, manifest.parent), channel


def _translation(supervision: Any, cut: Any, request: Request) -> str | None:
    """A custom field of the supervision or the cut: text, or texts by language."""
    named = (request.columns or {}).get("translation")
    for custom in (supervision.custom or {}, cut.custom or {}):
        for field in (named,) if named else _FIELDS:
            value = custom.get(field)
            if isinstance(value, Mapping):
                value = value.get(request.target)
            if isinstance(value, str):
                return value
    return None


FORM = Form(read)
