"""Lhotse cuts (cuts.jsonl.gz) whose supervisions, or which themselves, hold a translation as a custom field.

Read with the package lhotse, from the extra of that name. Nothing is loaded through it: audio that comes from commands
or addresses is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.corpora.choice import choose_table
from simulsa_plugin.corpora.lines import read_objects
from simulsa_plugin.corpora.spans import seconds
from simulsa_plugin.corpora.table_columns import check_roles
from simulsa_plugin.corpora.utterance import AudioName, CorpusRequest, Dropped, Utterance, utterance_or_dropped
from simulsa_plugin.errors import MissingExtraError, RowError
from simulsa_plugin.segments import OVERSHOOT_SECONDS

_CUT_FILE_ENDINGS = (".jsonl.gz", ".jsonl", "_cuts.jsonl.gz", "_cuts.jsonl")
_TRANSLATION_FIELDS = ("translation", "translated_text", "tgt_text")  # of `custom`, where simulsa_columns names none
_MIXED_CUTS = ("MixedCut", "PaddingCut")
# What lhotse raises about manifests of other tools, and what they do to whoever reads them.
_STRANGE = (KeyError, TypeError, ValueError, AttributeError, AssertionError, IndexError, RecursionError)


def read_lhotse(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the supervisions of the cuts, in order.

    The id of a cut's only supervision is the cut's. Supervisions that the cut holds a part of, as windows do, are
    dropped: nobody knows which part of the translation belongs to it.
    """
    check_roles(request.columns, ("translation",))
    for split in request.splits or ("",):
        manifest = choose_table(request.folder, split, _CUT_FILE_ENDINGS, prefixes=("", "cuts_", "cuts-"))
        for number, row in read_objects(manifest):
            place = f"{manifest}, line {number}"
            try:
                yield from _whole_cut(row, place, manifest, request)
            except RowError as error:
                yield Dropped(f"line {number}", error.reason, str(error))


def _whole_cut(
    row: dict[str, Any] | RowError, place: str, manifest: Path, request: CorpusRequest
) -> list[Utterance | Dropped]:
    """Return the rows of a line. Raises RowError where it is not a cut."""
    if isinstance(row, RowError):
        raise row
    try:
        return list(_cut_rows(row, place, manifest, request))
    except _STRANGE as error:
        raise _not_a_cut(place) from error


def _not_a_cut(place: str) -> RowError:
    return RowError(
        "broken_row", f"{place}: no cut of lhotse. Give a file of cuts (CutSet.to_file), not recordings alone."
    )


def _cut_rows(row: dict[str, Any], place: str, manifest: Path, request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    if row.get("type") in _MIXED_CUTS:
        yield Dropped(str(row["id"]), "mixed_cut")
        return
    cut = _parse_cut(row, place)
    reason = _unusable(cut)
    if reason:
        yield Dropped(str(cut.id), reason)
        return
    for supervision in cut.supervisions:
        identifier = str(cut.id if len(cut.supervisions) == 1 else f"{cut.id}-{supervision.id}")
        read_row = functools.partial(_utterance, identifier, supervision, cut, place, manifest, request)
        yield utterance_or_dropped(identifier, read_row)


def _parse_cut(row: dict[str, Any], place: str) -> Any:
    try:
        from lhotse.serialization import deserialize_item
    except ImportError as error:
        raise MissingExtraError.for_package("simulsa_corpus: lhotse", "lhotse", "lhotse") from error
    cut = deserialize_item(row)
    if not hasattr(cut, "supervisions"):
        raise _not_a_cut(place)
    return cut


def _unusable(cut: Any) -> str | None:
    if not cut.supervisions:
        return "no_translation"
    if not cut.has_recording:
        return "no_recording"
    # Speed, volume and the like are made by lhotse as it loads; the rate is ours to choose.
    if any(type(transform).__name__ != "Resample" for transform in cut.recording.transforms or ()):
        return "transformed"
    return None


def _utterance(
    identifier: str, supervision: Any, cut: Any, place: str, manifest: Path, request: CorpusRequest
) -> Utterance | Dropped:
    translation = _custom_translation(supervision, cut, request)
    if translation is None:
        return Dropped(identifier, "no_translation")
    part = _supervision_span(supervision, cut, place)
    if part is None:
        return Dropped(identifier, "cut_off")
    audio = _audio_source(supervision, cut, place, manifest, request)
    if isinstance(audio, str):
        return Dropped(identifier, audio)
    path, channel = audio
    return Utterance(identifier, path, Span(*part, channel), translation)


def _supervision_span(supervision: Any, cut: Any, place: str) -> tuple[float, float] | None:
    """Return where a supervision is in the recording; None where the cut does not hold all of it.

    The only supervision of a cut is the whole cut, if their ends differ by no more than rounding does.
    """
    cut_start, cut_seconds = seconds(cut.start, "start", place), seconds(cut.duration, "duration", place)
    early = isinstance(supervision.start, (int, float)) and supervision.start < 0
    start = -seconds(-supervision.start, "start", place) if early else seconds(supervision.start, "start", place)
    end = start + seconds(supervision.duration, "duration", place)
    if start < -OVERSHOOT_SECONDS or end > cut_seconds + OVERSHOOT_SECONDS:
        return None
    whole = max(abs(start), abs(end - cut_seconds)) <= OVERSHOOT_SECONDS
    if len(cut.supervisions) == 1 and whole:
        start, end = 0.0, cut_seconds
    return cut_start + max(0.0, start), cut_start + min(cut_seconds, end)


def _audio_source(
    supervision: Any, cut: Any, place: str, manifest: Path, request: CorpusRequest
) -> tuple[AudioName, int | None] | str:
    """Return (file, which of its channels; None: all that it has), or why there is no such file."""
    channels = _channels(cut.channel)
    if len(channels) > 1 and _channels(supervision.channel) < channels:  # each side of a telephone call, say
        channels = _channels(supervision.channel)
    source = next((source for source in cut.recording.sources if channels <= set(source.channels)), None)
    if source is None:
        return "channels_in_several_files"
    if len(channels) > 1 and channels != set(source.channels):
        return "several_channels"
    if source.type != "file" or not isinstance(source.source, str):
        raise RowError(
            "audio_not_a_file",
            f"{place}: the audio of the cut {str(cut.id)[:80]!r} is a {str(source.type)[:20]!r}, not a file, and is "
            "not fetched. Write it to files (CutSet.save_audios).",
        )
    path = request.find(source.source, place, request.folder, manifest.parent)
    return path, None if channels == set(source.channels) else source.channels.index(*channels)


def _channels(channel: Any) -> set[Any]:
    return set(channel) if isinstance(channel, list) else {channel}


def _custom_translation(supervision: Any, cut: Any, request: CorpusRequest) -> str | None:
    """Return a custom field of the supervision or the cut: text, or texts by language."""
    named = (request.columns or {}).get("translation")
    for custom in (supervision.custom or {}, cut.custom or {}):
        for field in (named,) if named else _TRANSLATION_FIELDS:
            value = custom.get(field)
            if isinstance(value, Mapping):
                value = value.get(request.target)
            if isinstance(value, str):
                return value
    return None
