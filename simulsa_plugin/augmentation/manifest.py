"""What a folder records of its run: configuration, scoring devices, counts and signature; other runs are refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.augment_settings import BATCH_KEYS, DECIDING_KEYS, AugmentSettings
from simulsa_plugin.augmentation.method.acceptance import AcceptanceRule, Threshold, make_rule, tolerance_of
from simulsa_plugin.augmentation.method.selection import parse_sample_id
from simulsa_plugin.augmentation.output_layout import Layout
from simulsa_plugin.augmentation.registration import SourceDataset
from simulsa_plugin.augmentation.tally import Tally
from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import writing_to
from simulsa_plugin.run_configuration import (
    change_in_words,
    configuration_changes,
    unequal_weights,
    versions,
)


def check_same_configuration(layout: Layout, configuration: Mapping[str, Any], *, alone: bool) -> None:
    """Refuse a folder that another configuration has begun; otherwise record this one.

    A run that has scored nothing yet, such as that of a recipe with the wrong template, is replaced, and its clips are
    removed.

    Args:
        layout: of a folder that is held.
        configuration: of `describe_augmentation`.
        alone: no other process works in the folder.

    Raises:
        StorageError: the folder holds another run; what differs is named, and how to go on.
    """
    run = layout.run
    if run.record is not None and (has_scores(layout) or not alone):
        _refuse_other(layout, configuration)
        return
    if run.record is not None:
        with contextlib.suppress(StorageError):  # what cannot be read is replaced
            if not configuration_changes(run.recorded(), configuration, computes=False):
                return
        _remove_clips(layout)
    run.begin(configuration)


def refuse_other_configuration(layout: Layout, configuration: Mapping[str, Any]) -> None:
    """Refuse only; keys that `configuration` lacks are not compared, nor what `note_scorer` compares.

    Raises:
        StorageError: the folder holds another run; what differs is named, and how to go on.
    """
    if layout.run.record is not None and has_scores(layout):
        _refuse_other(layout, configuration)


def has_scores(layout: Layout) -> bool:
    """Return whether anything has been scored in a folder."""
    finished = layout.manifest.exists() or layout.scores.exists()
    return finished or any(journal.stat().st_size for journal in layout.journals())


def _remove_clips(layout: Layout) -> None:
    """Remove the clips of a run that is replaced."""
    with writing_to(layout.clips):
        for clip in layout.clips.glob("*.wav") if layout.clips.exists() else ():
            with contextlib.suppress(ValueError):  # not a clip of this plugin
                if parse_sample_id(clip.stem)[0] == layout.name:
                    clip.unlink(missing_ok=True)


def _refuse_other(layout: Layout, configuration: Mapping[str, Any]) -> None:
    before = layout.run.recorded()
    if before and configuration["settings"].get("simulsa_portable"):  # earlier versions recorded the absolute name
        before = {**before, "source": _relative(before.get("source"), layout.out)}
    if before.get("scores_from"):
        raise StorageError(
            f"{layout.folder} holds labels over {before['scores_from']}, with clips elsewhere. Choose another --out."
        )

    def next_step(keys: set[str]) -> str:
        if layout.scores.exists() and DECIDING_KEYS.issuperset(keys):
            return f"To relabel its scores: --from-scores {layout.scores}. Otherwise choose another --out."
        if BATCH_KEYS.issuperset(keys):
            return f"To go on with its batches, add {_batches_of(before)}. Otherwise choose another --out."
        return "Choose another --out, or remove that folder."

    layout.run.refuse_other(before, configuration, next_step)


def _batches_of(before: Mapping[str, Any]) -> str:
    """Return the keys that make the batches of a recorded run; earlier versions had no limit of tokens."""
    values = {key: before.get("settings", {}).get(key) for key in sorted(BATCH_KEYS)}
    return " ".join(f"{key}={'null' if value is None else value}" for key, value in values.items())


def note_scorer(layout: Layout, described: Mapping[str, Any], device: str, *, alone: bool) -> set[str]:
    """Record a device that scores; the folder is held.

    Devices may share a run, and are listed in `scored_on`. Weights and dtype are the same in all rows.

    Args:
        layout: of a folder whose configuration is recorded.
        described: of `AudioLanguageModel.describe` of what scores.
        device: its name.
        alone: nothing else scores, so that a record without rows is that of a killed process.

    Returns:
        The devices that are recorded now.

    Raises:
        StorageError: the rows that are there were scored with other weights or in another dtype.
    """
    before = layout.run.recorded()
    devices, scored = before.get("scored_on", []), any(journal.stat().st_size for journal in layout.journals())
    if scored or (devices and not alone):
        changed = configuration_changes(before, {"model": described}, computes=True)
        if changed:
            raise StorageError(
                f"{layout.folder} is scored in part, with {change_in_words(changed[0])}. Score the rest with what it "
                "was begun with; any machine can finish it then. Otherwise choose another --out."
            )
        noted = {**before, "scored_on": sorted({*devices, device})}
    else:
        noted = {**before, "model": described, "scored_on": [device]}
    if noted != before:
        layout.run.write(layout.run.record or layout.started, noted)
    return set(noted["scored_on"])


def as_scored(layout: Layout, configuration: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration with the model as the rows were scored, and warnings.

    This process may have another device, or another dtype.
    """
    noted = layout.run.recorded()
    same = noted["model"].get("weights") == configuration["model"].get("weights")
    warnings = [] if same else [f"{layout.folder}: {unequal_weights(noted, configuration)}"]
    return {**configuration, "model": noted["model"], "scored_on": noted.get("scored_on", [])}, warnings


def describe_augmentation(
    dataset: SourceDataset,
    model: Mapping[str, Any],
    settings: AugmentSettings,
    output_width: int | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Return what decides the result; two runs with the same configuration write the same files.

    Args:
        dataset: what is cut.
        model: of `AudioLanguageModel.describe`; without the weights, the names that are known.
        settings: the `simulsa_*` keys.
        output_width: V; left out where the weights are not loaded.
        out: the output folder; with `simulsa_portable` a source in it is named relative to it.
    """
    source = dataset.entry.get("file_name")
    return {
        "dataset": dataset.name,
        "rows": len(dataset),
        "source": _relative(source, out) if settings.portable and out else source,
        "model": dict(model),
        **({} if output_width is None else {"output_width": output_width}),
        "settings": settings.as_keys(),
    }


def _relative(source: object, out: Path) -> object:
    """Return the name of a file relative to a folder that it lies in; anything else as it is."""
    inside = isinstance(source, str) and Path(source).is_relative_to(out)
    return os.path.relpath(str(source), out) if inside else source


def make_manifest(
    configuration: Mapping[str, Any], tally: Tally, wanted: int, skipped: Mapping[str, int], causes: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of manifest.json: configuration, versions, counts, skips, accepted shares, τ, signature.

    Args:
        configuration: of `describe_augmentation`; of a decision over scores, with the `versions` that made them.
        tally: of the decided rows.
        wanted: samples asked for.
        skipped: reason → rows.
        causes: reason → the first cause of it.
    """
    rule = _rule_of(configuration)
    manifest = {
        **configuration,
        "versions": configuration.get("versions") or _versions(),
        "counts": tally.counts(wanted),
        "skipped": dict(sorted(skipped.items())),
        "skipped_causes": dict(causes),
        "by_cut_share": tally.by_cut_share(),
        "by_cut_seconds": tally.by_cut_seconds(),
        "commitment": tally.commitment.summary() if tally.commitment.known else None,
        "threshold": rule.threshold if isinstance(rule, Threshold) else None,
        "tolerance": tolerance_of(configuration["model"]),
    }
    return manifest | {"signature": _make_signature(manifest, rule)}


def _rule_of(configuration: Mapping[str, Any]) -> AcceptanceRule:
    settings = {key: configuration["settings"][key] for key in DECIDING_KEYS}  # the others need not be known
    return make_rule(AugmentSettings.from_keys(settings), configuration["output_width"])


def _make_signature(manifest: Mapping[str, Any], rule: AcceptanceRule) -> str:
    """Return one line to quote: the settings that differ most often, the version, and a hash of all of them."""
    settings = manifest["settings"]
    digest = hashlib.sha256(
        json.dumps({key: manifest[key] for key in ("model", "settings", "dataset", "rows")}, sort_keys=True).encode()
    )
    fields = {
        "n": manifest["counts"]["samples"],
        **_cutting_fields(settings),
        "rule": rule.name,
        **rule.signature_fields(),
        "boundary": settings["simulsa_boundary"],
        "empty": "kept" if settings["simulsa_keep_empty"] else "dropped",
        "hash": digest.hexdigest()[:8],
        "version": manifest["versions"]["simulsa-plugin"],
    }
    return "simulsa|" + "|".join(f"{key}:{value}" for key, value in fields.items())


def _cutting_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    if settings["simulsa_truncation"] is None:
        return {"cut": "unknown"}  # decided over scores that came without their manifest
    return {
        "cut": f"{settings['simulsa_truncation']}({settings['simulsa_alpha']:g},{settings['simulsa_beta']:g})"
        f"[{settings['simulsa_min_seconds']:g},{settings['simulsa_max_seconds']:g}]s",
        "cuts": settings["simulsa_cuts"],
        "silence": f"{settings['simulsa_silence_ms']:g}ms",
        "seed": settings["simulsa_seed"],
    }


def plugin_version() -> dict[str, str]:
    """Return the version of what labels, by name."""
    return versions("simulsa-plugin")


def _versions() -> dict[str, str]:
    return versions("simulsa-plugin", "llamafactory", "transformers", "torch", "peft", "datasets")
