"""Relabel a scores.jsonl with another rule, without a model: score once, decide later."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.samples import seconds_to_samples
from simulsa_plugin.augmentation.augment_settings import BATCH_KEYS, CUTTING_KEYS, AugmentSettings
from simulsa_plugin.augmentation.label_quality import TruePartials
from simulsa_plugin.augmentation.labeling import Labeler
from simulsa_plugin.augmentation.manifest import plugin_version
from simulsa_plugin.augmentation.method.acceptance import tolerance_of
from simulsa_plugin.augmentation.method.selection import wanted_samples
from simulsa_plugin.augmentation.outcome import AugmentedDataset, finish
from simulsa_plugin.augmentation.output_layout import WAV_HEADER_BYTES, Layout
from simulsa_plugin.augmentation.registration import (
    augmented_entry,
    check_entry,
    has_relative_audio,
    note_relative_audio,
    open_layout,
    portable_entry,
    put_entries,
)
from simulsa_plugin.augmentation.scored_file import ScoredFile
from simulsa_plugin.augmentation.shards import holding
from simulsa_plugin.errors import SimulsaError, StorageError, UsageError
from simulsa_plugin.terminal import tracked

FindTruth = Callable[[str, Mapping[str, Any]], TruePartials | None]
SIZE_KEYS = frozenset({"simulsa_ratio", "simulsa_samples"})
SCORING_KEYS = CUTTING_KEYS | BATCH_KEYS | {"simulsa_extra_scores"}  # what was done, whatever is decided


def relabel(scores: Path, keys: Mapping[str, Any], out: Path, find_truth: FindTruth) -> AugmentedDataset:
    """Apply a rule to scored rows and write what a run with that rule would have written; clips stay where they are.

    Args:
        scores: a scores.jsonl.
        keys: `simulsa_*` keys that were given; those that say what is cut must be the ones it was cut with.
        out: output folder; the run's own, to decide in place, or another.
        find_truth: name and entry of a dataset → its true partials.

    Raises:
        UsageError: a key contradicts the scores, or the rule needs a field that is not there.
        StorageError: the file is broken, or the output folder holds other work.
    """
    source = ScoredFile.open(scores)
    layout = Layout(out.absolute(), source.name)
    in_place = layout.scores.resolve() == source.path.resolve()
    settings = _relabel_settings(source, keys, in_place=in_place)
    wanted = _wanted_rows(source, settings, keys)
    warnings: list[str] = []
    open_layout(out, source.name, trusted=in_place)
    with holding(layout, None):
        if in_place:
            settings, wanted = _keep_size(source, settings, wanted, warnings)
        else:
            _check_folder(layout, source)
        if source.entry:
            check_entry(layout, source.name, source.entry)
        work = _describe_relabeling(source, settings, keys, in_place=in_place)
        with _recorded_run(layout, work, in_place=in_place):
            rows = islice(source.rows(layout, portable=settings.portable), wanted)
            width, truth = source.manifest.get("output_width"), _find_truth_of(source, find_truth)
            labeler = Labeler(settings, width, truth, tolerance_of(work["model"]))
            tally = labeler.write(tracked(_checked_clips(rows, layout, warnings), wanted, "decide", "row"), layout)
            if wanted is not None and tally.scored < wanted:
                warnings.append(_too_few(source, tally.scored, wanted))
            skipped = source.skipped(tally.last_id if wanted is not None and wanted <= tally.scored else None)
            put_entries(layout, _dataset_entries(source, layout, warnings, portable=settings.portable))
            clean = source.manifest.get("clean") if in_place else None
            asked = wanted or source.count("wanted") or tally.scored
            return finish(layout, work, tally, asked, skipped, clean, warnings)


@contextmanager
def _recorded_run(layout: Layout, work: Mapping[str, Any], *, in_place: bool) -> Iterator[None]:
    """Say in another folder whose decisions it is to hold: after a kill the same command goes on there."""
    if in_place or layout.manifest.exists():
        yield
        return
    layout.run.begin(work)
    try:
        yield
    except SimulsaError:  # a mistake, not a kill: whoever comes next finds the folder free
        if not layout.scores.exists():
            layout.started.unlink(missing_ok=True)
            layout.owned.unlink(missing_ok=True)
        raise


def _relabel_settings(source: ScoredFile, keys: Mapping[str, Any], *, in_place: bool) -> AugmentSettings:
    """Return the settings: cutting and scoring as it was done, labelling as asked.

    Raises:
        UsageError: the keys ask for other cuts, or another look back, than those that were scored.
    """
    before = AugmentSettings.from_keys(source.settings)
    kept = {*SCORING_KEYS, "simulsa_lookback_ms"} | ({"simulsa_portable"} if in_place else set())
    kept |= SIZE_KEYS if not SIZE_KEYS & keys.keys() else set()
    asked = AugmentSettings.from_keys({**{key: source.settings[key] for key in kept & source.settings.keys()}, **keys})
    fixed = CUTTING_KEYS | ({"simulsa_lookback_ms"} if "lookback" in before.scored_extras else set())
    for key in sorted(fixed & keys.keys() & source.settings.keys()):
        if asked.as_keys()[key] != before.as_keys()[key]:
            raise UsageError(
                f"{key} is {keys[key]}, but {source.path} was scored with {source.settings[key]}. "
                f"Leave {key} out, or augment again without --from-scores."
            )
    if not source.settings:
        return asked
    extra = asked.extra_scores if asked.scored_extras == before.scored_extras else before.scored_extras
    tokens = source.manifest["settings"].get("simulsa_batch_tokens")  # none before there was this key
    return replace(asked, batch_size=before.batch_size, batch_tokens=tokens, extra_scores=extra)


def _wanted_rows(source: ScoredFile, settings: AugmentSettings, keys: Mapping[str, Any]) -> int | None:
    """Return how many of the scored rows are wanted; None means all of them."""
    if settings.samples is not None and keys.get("simulsa_samples") is not None:
        return settings.samples
    if "simulsa_ratio" not in keys:
        return None
    rows = source.manifest.get("rows")
    if rows is None:
        raise UsageError(f"simulsa_ratio needs the manifest.json of the run beside {source.path}. Use simulsa_samples.")
    return wanted_samples(rows, replace(settings, samples=None))


def _keep_size(
    source: ScoredFile, settings: AugmentSettings, wanted: int | None, warnings: list[str]
) -> tuple[AugmentSettings, int | None]:
    """Keep the size of a run in place: no scores are lost, which cost a model's time, and none are added.

    Raises:
        StorageError: fewer samples are asked for than were scored.
    """
    scored = source.count("scored")
    if wanted is None or wanted == scored:
        return settings, wanted
    if scored is None or wanted < scored:
        raise StorageError(f"Fewer samples in place would lose scores of {source.path}. Choose another --out.")
    before = AugmentSettings.from_keys(source.settings)
    warnings.append(_too_few(source, scored, wanted))
    return replace(settings, samples=before.samples, ratio=before.ratio), None


def _too_few(source: ScoredFile, scored: int, wanted: int) -> str:
    return f"{source.path} has {scored} of the {wanted} samples asked for."


def _check_folder(layout: Layout, source: ScoredFile) -> None:
    """Refuse a folder that holds anything but labels over these scores."""
    noted, before = layout.run.record, layout.run.recorded().get("scores_from")
    if before is not None and Path(before).resolve() == source.path.resolve():
        return
    if noted == layout.manifest:
        raise StorageError(f"{layout.folder} holds another run. Choose another --out.")
    if noted or layout.scores.exists() or layout.journals():
        raise StorageError(f"{layout.folder} holds a run that is not finished. Choose another --out.")


def _describe_relabeling(
    source: ScoredFile, settings: AugmentSettings, keys: Mapping[str, Any], *, in_place: bool
) -> dict[str, Any]:
    """Return the configuration as `describe_augmentation` does for a run that scored; None where it is not known."""
    known = {key: source.manifest.get(key) for key in ("dataset", "rows", "source", "model", "output_width")}
    own = settings.as_keys()
    own |= dict.fromkeys((SCORING_KEYS | (SIZE_KEYS - keys.keys())) - source.settings.keys())
    origin = source.manifest.get("scores_from") if in_place else str(source.path)
    return {
        **known,
        "dataset": source.name,
        "settings": own,
        "scored_on": source.manifest.get("scored_on"),
        **({"scores_from": origin} if origin else {}),
        "versions": {**source.manifest.get("versions", {}), **plugin_version()},
    }


def _find_truth_of(source: ScoredFile, find_truth: FindTruth) -> TruePartials | None:
    """Find the truth beside the offline file that was cut, or beside the one that is registered."""
    original = source.manifest.get("source")
    found = find_truth(source.name, {"file_name": original}) if isinstance(original, str) else None
    return found or find_truth(source.name, source.entry)


def _dataset_entries(
    source: ScoredFile, layout: Layout, warnings: list[str], *, portable: bool
) -> dict[str, dict[str, Any]]:
    entry = source.entry
    if not entry:
        warnings.append(
            f"the offline dataset {source.name} is not registered beside {source.path}, hence not in "
            f"{layout.out}/dataset_info.json."
        )
        return augmented_entry(layout)
    warnings += _check_relative_audio(source, layout)
    named = portable_entry(entry, layout) if portable else entry
    return {source.name: named, **augmented_entry(layout)}


def _check_relative_audio(source: ScoredFile, layout: Layout) -> list[str]:
    """Return what training needs where the offline set is the user's own file, with paths that start at its folder."""
    folder = source.path.parent.parent
    relative = has_relative_audio(Layout(folder, source.name))
    note_relative_audio(layout, relative=relative)
    if relative and folder.resolve() != layout.out.resolve():
        return [
            f"the audio paths of {source.name} are relative: besides dataset_dir, training needs the "
            f"media_dir of the recipe that was augmented, or else media_dir: {folder}."
        ]
    return []


def _checked_clips(rows: Iterator[dict[str, Any]], layout: Layout, warnings: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows; add a warning at their end where clips are missing or damaged."""
    missing, first, folder = 0, "", str(layout.out)
    for row in rows:
        if not _is_there(os.path.join(folder, row["clip"]), row):
            missing, first = missing + 1, first or row["clip"]
        yield row
    if missing:
        warnings.append(
            f"{missing} clips are missing or damaged, the first is {first}; training needs them, and "
            "simulsa-augment without --from-scores makes them again."
        )


def _is_there(clip: str, row: Mapping[str, Any]) -> bool:
    """Return whether a clip exists with the length that it was written with; reading its content would take long."""
    try:
        num_bytes = os.stat(clip).st_size
    except OSError:
        return False
    if "clip_checksum" not in row:  # not written by us, in whatever form
        return True
    samples = seconds_to_samples(row["cut_seconds"] + sum(row["silence_seconds"]))
    return bool(num_bytes == WAV_HEADER_BYTES + 2 * samples)
