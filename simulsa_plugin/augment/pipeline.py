"""The method, from an offline dataset to a dataset of partial samples.

sample → cut → score → accept → write
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.augment.acceptance import decide
from simulsa_plugin.augment.clips import choose_cuts
from simulsa_plugin.augment.layout import Layout
from simulsa_plugin.augment.manifest import check_same_work, count_rows, describe_work, write_manifest
from simulsa_plugin.augment.registration import SourceDataset, offline_entry, register
from simulsa_plugin.augment.selection import wanted_samples
from simulsa_plugin.augment.settings import AugmentSettings
from simulsa_plugin.augment.speculation import score_cuts
from simulsa_plugin.model import AudioLanguageModel
from simulsa_plugin.storage import locked, make_folder, write_jsonl


@dataclass(frozen=True)
class Outcome:
    """What one dataset became."""

    name: str
    rows: int
    counts: dict[str, int]
    skipped: dict[str, int]
    folder: Path


def augment(dataset: SourceDataset, model: AudioLanguageModel, settings: AugmentSettings, out: Path) -> Outcome:
    """Make the partial samples of one offline dataset and register both in `out/dataset_info.json`.

    Started again after a stop it goes on, and ends with the same bytes.

    Raises:
        StorageError: the folder is in use, or holds the work of other settings or other data.
        DatasetError: not one row could be cut.
    """
    layout = Layout(make_folder(out).absolute(), dataset.name)
    make_folder(layout.clips)
    with locked(layout.folder):
        layout.remove_leftovers()
        entry = offline_entry(dataset, settings, layout)
        work = describe_work(dataset, model, settings)
        check_same_work(layout, work)
        cuts, skipped = choose_cuts(dataset, model, settings, layout)
        scores = score_cuts(cuts, model, settings, layout)
        rows = [decide_row(row, settings, model.output_width) for row in scores]
        kept, dropped = keep_or_drop(rows, settings)
        skipped += dropped
        write_jsonl(layout.scores, rows)
        write_jsonl(layout.skipped, skipped)
        write_jsonl(layout.rows, map(training_row, kept))
        register(dataset, entry, layout)
        counts = count_rows(kept, wanted_samples(len(dataset), settings))
        reasons = dict(sorted(Counter(row["reason"] for row in skipped).items()))
        write_manifest(layout, work, counts, reasons)
    return Outcome(dataset.name, len(dataset), counts, reasons, layout.folder)


def decide_row(scores: Mapping[str, Any], settings: AugmentSettings, output_width: int) -> dict[str, Any]:
    """A row of scores.jsonl with the decision of the chosen rule."""
    decision = decide(scores, settings, output_width)
    return {**scores, "accepted_tokens": decision.accepted_tokens, "partial": decision.partial}


def keep_or_drop(
    rows: list[dict[str, Any]], settings: AugmentSettings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on, and the ids of empty partials that `simulsa_keep_empty: false` leaves out."""
    kept = [row for row in rows if settings.keep_empty or row["partial"]]
    dropped = [] if settings.keep_empty else [row["id"] for row in rows if not row["partial"]]
    return kept, [{"id": identifier, "reason": "empty_partial"} for identifier in dropped]


def training_row(scores: Mapping[str, Any]) -> dict[str, Any]:
    """A decided row as LLaMA-Factory trains on it; the template adds the end of turn that teaches the model to stop."""
    return {
        "messages": [*scores["messages"], {"role": "assistant", "content": scores["partial"]}],
        "audios": [scores["clip"]],
    }
