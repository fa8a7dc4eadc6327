"""A raw corpus, from its folder to a dataset that LLaMA-Factory trains on.

read → cut → write → register
"""

from __future__ import annotations

import os
import posixpath
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.checks import MISSING
from simulsa_plugin.corpora.corpus_layout import CorpusLayout
from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.corpora.formats.registry import FORMATS
from simulsa_plugin.corpora.listing import Listing, list_utterances, refuse_nothing
from simulsa_plugin.corpora.parts import are_whole
from simulsa_plugin.corpora.paths import AudioFinder
from simulsa_plugin.corpora.placement import Placed, place_audio
from simulsa_plugin.corpora.prompts import TranslationPrompt
from simulsa_plugin.corpora.utterance import CorpusRequest, Dropped, Utterance
from simulsa_plugin.corpora.whole_recordings import PlacedRecording, gather_recordings, place_segments
from simulsa_plugin.errors import DatasetError, StorageError
from simulsa_plugin.files.atomic import (
    UNFINISHED,
    make_folder,
    make_own_folder,
    refuse_link,
    remove_durably,
    remove_leftovers,
)
from simulsa_plugin.files.audio_folder import is_inside, metadata_row, name_inside
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY, registered_datasets
from simulsa_plugin.files.json_files import read_jsonl, write_jsonl
from simulsa_plugin.files.locks import LOCK, locked
from simulsa_plugin.files.ownership import add_datasets
from simulsa_plugin.run_configuration import (
    changed_keys,
    read_sealed_configuration,
    versions,
)
from simulsa_plugin.tables import list_counts

LONG_SECONDS = 30.0  # Whisper's window, and so that of most audio models: they do not hear what comes after it
OVER_MAX = "over_max_seconds"
NO_SEGMENTS = "no_segments"  # a recording none of whose segments can be used
CHECKSUMS = "crc32"  # in the manifest: file in the output folder → CRC-32


@dataclass(frozen=True)
class PreparedCorpus:
    """A dataset made from a corpus.

    Attributes:
        name: in dataset_info.json of the output folder.
        folder: what was dropped and counted.
        manifest: of the folder.
        warnings: what the user should know, a line each.
    """

    name: str
    folder: Path
    manifest: dict[str, Any]
    warnings: tuple[str, ...] = ()


def prepare(
    settings: CorpusSettings,
    splits: Sequence[str],
    prompt: TranslationPrompt,
    out: Path,
    name: str,
    *,
    wait: bool = False,
    new_prompt: bool = False,
    portable: bool = False,
) -> PreparedCorpus:
    """Make a corpus a dataset of LLaMA-Factory in `out`, or find that it is one already.

    Started again after a stop, it goes on, and ends with the same bytes.

    Args:
        settings: which corpus.
        splits: of it; see `splits_for`.
        prompt: what the user's turn says in every row.
        out: folder that gets `NAME.jsonl`, `NAME_corpus/` and an entry in `dataset_info.json`.
        name: of the dataset.
        wait: wait for another process that is making it, instead of refusing.
        new_prompt: rows with another prompt are rewritten, as nothing was derived from them; their audio stays.
        portable: what is written into `out` is named relative to it, so that it can be moved.

    Raises:
        UsageError: the recipe lacks a key that this corpus needs.
        DatasetError: the corpus is not in its format, is hostile, or has nothing to use.
        StorageError: `out` cannot be written, is in use, or holds other work under this name.
    """
    layout = CorpusLayout(out.absolute(), name)
    _refuse_foreign(layout)
    make_folder(layout.out)
    make_own_folder(layout.folder)
    with locked(layout.folder, wait=wait):
        manifest, warnings = _prepare_locked(settings, splits, prompt, layout, new_prompt, portable)
    rows = layout.rows.name if portable else str(layout.rows)
    add_datasets(layout.out, {name: {"file_name": rows, **SHAREGPT_ENTRY}})
    return PreparedCorpus(name, layout.folder, manifest, tuple(warnings))


def splits_for(settings: CorpusSettings, *, evaluation: bool) -> tuple[str, ...]:
    """Return the splits that a command takes: the recipe's, or the format's own for training or testing."""
    if settings.corpus is None:
        return ()
    form = FORMATS[settings.corpus]
    named = (settings.eval_split or settings.split) if evaluation else settings.split
    usual = form.test_split if evaluation else form.train_split
    return named or ((usual,) if usual else ())


def dry_run_corpus(
    settings: CorpusSettings, splits: Sequence[str], prompt: TranslationPrompt, out: Path, name: str
) -> list[str]:
    """Describe what `prepare` would do; nothing where all is done. Nothing is written, no audio is opened.

    Raises:
        SimulsaError: as `prepare` before it opens any audio.
    """
    layout = CorpusLayout(out.absolute(), name)
    _refuse_foreign(layout)
    configuration = _describe_preparation(settings, splits, prompt, layout)
    _refuse_other_configuration(layout, configuration)
    there = _is_finished(layout) and layout.name in registered_datasets(layout.out)
    if there and settings.address:  # see `_prepare_locked`
        return []
    listing = read_corpus(settings, splits, layout, writes=False)
    _refuse_other_configuration(layout, _with_content(configuration, listing))
    if there:
        return []
    dropped = Counter(row.reason for row in listing.dropped)
    return [
        f"{name}: would first read {settings.corpus}, {listing.rows} rows, into {layout.out}: "
        f"{_describe_listing(listing, settings.corpus_whole)}; dropped: {list_counts(dropped)}",
        "  which of the audio can be used, and what would be cut of it, is known when it has been read",
    ]


def _describe_listing(listing: Listing, whole: bool) -> str:
    count = len(listing.utterances)
    files = len({utterance.audio for utterance in listing.utterances})
    if whole:
        return f"{len(gather_recordings(listing.utterances))} whole recordings with {count} reference segments"
    parts = sum(utterance.span is not None for utterance in listing.utterances)
    return f"{count} utterances in {files} audio files, {parts} of them parts of longer ones"


def read_corpus(
    settings: CorpusSettings, splits: Sequence[str], layout: CorpusLayout, *, writes: bool = True
) -> Listing:
    """List the utterances of a corpus without opening audio; `writes` as in `list_utterances`.

    Raises:
        UsageError: the recipe lacks a key that this corpus needs.
        DatasetError: the corpus is not in its format, is hostile, or has nothing to use.
    """
    addresses = [one for one in (settings.audio_address, _folder_of(settings.address)) if one]
    finder = AudioFinder(settings.folder, settings.audio_folder, addresses)
    request = CorpusRequest(
        settings.folder,
        tuple(splits),
        finder.find,
        settings.source_language,
        settings.target_language,
        settings.columns,
        settings.references_file,
        settings.recordings_file,
        settings.address,
        settings.audio_in_place or settings.address is not None,
    )
    listing = list_utterances(FORMATS[str(settings.corpus)].read(request), layout, writes=writes)
    refuse_nothing(listing, settings.place)
    return listing


def _prepare_locked(
    settings: CorpusSettings,
    splits: Sequence[str],
    prompt: TranslationPrompt,
    layout: CorpusLayout,
    new_prompt: bool,
    portable: bool,
) -> tuple[dict[str, Any], list[str]]:
    _remove_leftovers(layout)
    configuration = _describe_preparation(settings, splits, prompt, layout)
    if new_prompt:
        _give_up_other_prompt(layout, configuration)
    _refuse_other_configuration(layout, configuration)
    if settings.address and _is_finished(layout):  # to list a store again may take as long as the first time
        remove_durably(layout.started)
        return layout.run.recorded(), []
    listing = read_corpus(settings, splits, layout, writes=False)
    configuration = _with_content(configuration, listing)
    _refuse_other_configuration(layout, configuration)
    warnings: list[str] = []
    if not _is_finished(layout):
        if layout.manifest.exists():
            warnings.append(f"files of {layout.folder} were missing or damaged, and were made again.")
        layout.run.begin(configuration)
        if any(layout.audio in row.audio.parents for row in listing.utterances if isinstance(row.audio, Path)):
            listing = read_corpus(settings, splits, layout)  # again, to write the audio that is inside its tables
        _write_dataset(settings, prompt, layout, listing, configuration, portable)
    remove_durably(layout.started)
    return layout.run.recorded(), warnings


def _folder_of(address: str | None) -> str | None:
    """Return the address itself, or that of the folder around a table or a shard."""
    if address is None or not posixpath.splitext(address)[1]:
        return address
    return posixpath.dirname(address)


def _no_audio_error(settings: CorpusSettings, dropped: Sequence[Mapping[str, Any]]) -> DatasetError:
    """Return the error for a corpus of which no audio can be used, with the first path that is missing."""
    reasons = ", ".join(sorted({row["reason"] for row in dropped}))
    missing = next((row["audio"] for row in dropped if row["reason"] == MISSING), None)
    step = (
        "Correct these files, or choose another split."
        if missing is None
        else f"There is no {missing}. Set simulsa_audio_dir to the folder from which the corpus names its audio."
    )
    return DatasetError(f"No audio of {settings.place} can be used: {reasons}. {step}")


def _write_dataset(
    settings: CorpusSettings,
    prompt: TranslationPrompt,
    layout: CorpusLayout,
    listing: Listing,
    configuration: Mapping[str, Any],
    portable: bool,
) -> None:
    """Place the audio, and write the files of the dataset; the manifest comes last."""
    content = (_whole_recordings if settings.corpus_whole else _utterances)(settings, prompt, layout, listing)
    if not content.counts[_rows_are(settings)]:
        if not layout.audio.exists():
            remove_durably(layout.started)  # it produced nothing: other settings may use the folder
        raise _no_audio_error(settings, content.dropped)
    dropped = [*map(_dropped_row, listing.dropped), *content.dropped]
    write_jsonl(layout.dropped, (_portable_dropped(row, layout) for row in dropped) if portable else dropped)
    write_jsonl(layout.rows, (_portable(row, layout) for row in content.rows) if portable else content.rows)
    _write_metadata(layout)
    manifest = {**configuration, "versions": versions("simulsa-plugin", "soundfile", "scipy", "av")}
    manifest["counts"] = {**content.counts, "renormalized": listing.renormalized}
    manifest["dropped"] = dict(sorted(Counter(row["reason"] for row in dropped).items()))
    files = [layout.rows, layout.dropped, *(path for path in (layout.parts, layout.metadata) if path.exists())]
    manifest[CHECKSUMS] = {str(path.relative_to(layout.out)): _crc32(path) for path in files}
    layout.run.finish(manifest)


def _write_metadata(layout: CorpusLayout) -> None:
    """Write metadata.jsonl where all the audio is inside the folder; elsewhere nobody else could find it."""
    rows = read_jsonl(layout.rows)
    if not all(is_inside(_absolute(row["audios"][0], layout), layout.folder) for row in rows):
        remove_durably(layout.metadata)
        return
    write_jsonl(
        layout.metadata,
        (metadata_row(_absolute(row.pop("audios")[0], layout), layout.folder, row) for row in read_jsonl(layout.rows)),
    )


def _portable(row: dict[str, Any], layout: CorpusLayout) -> dict[str, Any]:
    """Return a row whose audio, if it lies in the output folder, is named relative to it."""
    return {**row, "audios": [name_inside(audio, layout.out) for audio in row["audios"]]}


def _portable_dropped(row: dict[str, Any], layout: CorpusLayout) -> dict[str, Any]:
    """Return a dropped row, likewise."""
    return {**row, "audio": name_inside(row["audio"], layout.out)} if "audio" in row else row


def _absolute(audio: str, layout: CorpusLayout) -> str:
    return audio if "://" in audio else os.path.join(layout.out, audio)


@dataclass(frozen=True)
class _Content:
    """What a dataset holds: its rows, what was dropped when its audio was read, and counts for the manifest."""

    rows: Iterable[dict[str, Any]]
    dropped: list[dict[str, Any]]
    counts: dict[str, Any]


def _utterances(
    settings: CorpusSettings, prompt: TranslationPrompt, layout: CorpusLayout, listing: Listing
) -> _Content:
    """Return a row for each utterance; parts of recordings are cut out."""
    placed = _place(settings, layout, listing.utterances)
    usable = [(row, audio) for row, audio in zip(listing.utterances, placed, strict=True) if audio.audio]
    dropped = [
        {"id": row.id, "reason": audio.reason, "audio": str(row.audio)}
        for row, audio in zip(listing.utterances, placed, strict=True)
        if not audio.audio
    ]
    rows = (_row(utterance.id, audio, prompt, utterance.translation) for utterance, audio in usable)
    counts = {
        "utterances": len(usable),
        "hours": _hours(audio for _, audio in usable),
        "over_30_seconds": sum((audio.seconds or 0.0) > LONG_SECONDS for _, audio in usable),
    }
    return _Content(rows, dropped, counts)


def _whole_recordings(
    settings: CorpusSettings, prompt: TranslationPrompt, layout: CorpusLayout, listing: Listing
) -> _Content:
    """Return a row for each recording, with its reference segments; nothing is cut."""
    recordings = gather_recordings(listing.utterances)
    placed = _place(settings, layout, [recording.whole for recording in recordings])
    rows: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    used: list[tuple[Placed, PlacedRecording]] = []
    for recording, audio in zip(recordings, placed, strict=True):
        found = place_segments(recording, audio.seconds or 0.0) if audio.audio else None
        dropped += map(_dropped_row, found.dropped if found else ())
        if not found or not found.segments:
            reason = audio.reason or NO_SEGMENTS
            dropped.append({"id": recording.whole.id, "reason": reason, "audio": str(recording.whole.audio)})
            continue
        used.append((audio, found))
        rows.append({**_row(recording.whole.id, audio, prompt, found.reference), "segments": found.rows()})
    counts = {
        "recordings": len(used),
        "segments": sum(len(found.segments) for _, found in used),
        "overlapping_segments": sum(found.overlaps for _, found in used),
        "hours": _hours(audio for audio, _ in used),
    }
    return _Content(rows, dropped, counts)


def _rows_are(settings: CorpusSettings) -> str:
    return "recordings" if settings.corpus_whole else "utterances"


def _place(settings: CorpusSettings, layout: CorpusLayout, utterances: Sequence[Utterance]) -> list[Placed]:
    opens = settings.corpus_whole or settings.corpus_max_seconds is not None
    placed = place_audio(utterances, layout, settings.corpus_workers, opens_references=opens)
    return _drop_longer(settings.corpus_max_seconds, placed)


def _dropped_row(row: Dropped) -> dict[str, Any]:
    return {"id": row.id, "reason": row.reason, **({"cause": row.cause} if row.cause else {})}


def _hours(placed: Iterable[Placed]) -> float | None:
    """Return the length of all audio; None where some of it was not opened."""
    seconds = [audio.seconds for audio in placed]
    return None if None in seconds else round(sum(one or 0.0 for one in seconds) / 3600, 3)


def _is_finished(layout: CorpusLayout) -> bool:
    """Return whether all files exist with the content that was written."""
    manifest = _read_record(layout.manifest)
    if not manifest or not layout.rows.exists():
        return False
    checksums = manifest.get(CHECKSUMS, {})  # none in those of older versions
    return all(_crc32(layout.out / name) == checksum for name, checksum in checksums.items()) and are_whole(layout)


def _read_record(path: Path) -> dict[str, Any]:
    """Read a record of a run; empty where it is missing or damaged, and all that follows from it is made again."""
    try:
        return read_sealed_configuration(path) if path.exists() else {}
    except StorageError:
        return {}


def _recorded(layout: CorpusLayout) -> dict[str, Any]:
    return _read_record(layout.manifest) or _read_record(layout.started)


def _crc32(path: Path) -> str | None:
    """Compute the checksum of a file; None where it is missing."""
    crc = 0
    try:
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                crc = zlib.crc32(block, crc)
    except OSError:
        return None
    return f"{crc:08x}"


def _remove_leftovers(layout: CorpusLayout) -> None:
    """Remove what killed runs left; leftovers among the audio are removed where it is placed."""
    remove_leftovers(layout.folder)
    remove_leftovers(layout.out, layout.rows.name)


def _describe_preparation(
    settings: CorpusSettings, splits: Sequence[str], prompt: TranslationPrompt, layout: CorpusLayout
) -> dict[str, Any]:
    """Return what decides the rows; runs with the same configuration and content write the same files."""
    keys = settings.as_keys()
    for key in ("simulsa_split", "simulsa_eval_split", "simulsa_dev_split", "simulsa_prompt", "simulsa_corpus_workers"):
        del keys[key]  # they stand below as they came out, or change no byte
    keys["simulsa_corpus_dir"] = settings.place
    keys["simulsa_audio_dir"] = settings.audio_address or (settings.audio_folder and str(settings.audio_folder))
    for key in ("simulsa_corpus_whole", "simulsa_audio_in_place"):
        keys[key] = keys[key] or None  # manifests of older versions have none
    keys["simulsa_references"] = settings.references_file and str(settings.references_file)
    keys["simulsa_recordings"] = settings.recordings_file and str(settings.recordings_file)
    return {
        "dataset": layout.name,
        "splits": list(splits),
        "prompt": prompt.text,
        "system": prompt.system,
        "settings": keys,
    }


def _with_content(configuration: Mapping[str, Any], listing: Listing) -> dict[str, Any]:
    return {**configuration, "rows": listing.rows, "content": listing.digest}


def _refuse_foreign(layout: CorpusLayout) -> None:
    """Raise StorageError where files are in the way that no run made, or whose corpus is not known."""
    entry = registered_datasets(layout.out).get(layout.name)
    ours = entry is None or (isinstance(entry, dict) and entry.get("file_name") in (str(layout.rows), layout.rows.name))
    for path in (layout.folder, layout.audio, layout.rows):
        refuse_link(path)
    there = [path for path in layout.folder.glob("*") if path.name != LOCK and not path.name.endswith(UNFINISHED)]
    known = layout.started.exists() or layout.manifest.exists()  # after the look: others may be beginning
    if not ours or (not known and layout.rows.exists()):
        raise StorageError(
            f"{layout.out} has a dataset {layout.name} that was not made from this corpus. "
            "Choose another --out, or another name with dataset=NAME."
        )
    if not known and layout.audio.exists():
        raise StorageError(
            f"{layout.audio} holds audio, and nothing beside it says of which corpus. "
            f"Remove {layout.folder}, or choose another --out, or another name with dataset=NAME."
        )
    if not known and there:
        raise StorageError(
            f"{there[0]} was not made by this command, and stays as it is. "
            "Choose another --out, or another name with dataset=NAME, or move it away."
        )


def _give_up_other_prompt(layout: CorpusLayout, configuration: Mapping[str, Any]) -> None:
    """Record that rows with another prompt are to be written with this one; nothing else may differ."""
    before = _recorded(layout)
    changed = {key for key, _, _ in changed_keys(before, configuration)}
    if before and changed and changed <= {"prompt", "system"}:
        known: dict[str, Any] = {key: before[key] for key in ("rows", "content") if key in before}
        layout.run.begin({**configuration, **known})
        remove_durably(layout.manifest)


def _refuse_other_configuration(layout: CorpusLayout, configuration: Mapping[str, Any]) -> None:
    next_step = "Choose another --out, or another name with dataset=NAME, or remove that folder."
    layout.run.refuse_other(_recorded(layout), configuration, next_step)


def _drop_longer(max_seconds: float | None, placed: list[Placed]) -> list[Placed]:
    return [
        Placed(None, reason=OVER_MAX) if max_seconds is not None and (audio.seconds or 0.0) > max_seconds else audio
        for audio in placed
    ]


def _row(identifier: str, placed: Placed, prompt: TranslationPrompt, reference: str) -> dict[str, Any]:
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    turns = [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": reference}]
    return {"id": identifier, "messages": [*system, *turns], "audios": [str(placed.audio)]}


def corpus_summary(prepared: PreparedCorpus) -> list[str]:
    """Describe a prepared corpus, for a terminal."""
    manifest, counts = prepared.manifest, prepared.manifest["counts"]
    splits = ", ".join(manifest["splits"])
    lines = [
        f"{prepared.name}: {_contents(counts)}, {_length(counts['hours'])}, "
        f"from {manifest['settings']['simulsa_corpus']}{f' ({splits})' if splits else ''}; {manifest['rows']} rows read"
    ]
    if manifest["dropped"]:
        lines.append(f"  dropped: {list_counts(manifest['dropped'])}; listed in {prepared.folder / 'dropped.jsonl'}")
    if counts.get("overlapping_segments"):
        lines.append(
            f"  segments that begin before an earlier one has ended: {counts['overlapping_segments']}; they stay"
        )
    if counts.get("over_30_seconds"):
        lines.append(
            f"  longer than {LONG_SECONDS:.0f} s: {counts['over_30_seconds']}; many models do not hear the rest, "
            "and train on the whole translation. simulsa_corpus_max_seconds=30 drops them"
        )
    return lines


def _contents(counts: Mapping[str, Any]) -> str:
    if "recordings" in counts:
        return f"{counts['recordings']} whole recordings with {counts['segments']} reference segments"
    return f"{counts['utterances']} utterances"


def _length(hours: float | None) -> str:
    if hours is None:
        return "of a length that is not known before it is heard"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
