"""The method, from an offline dataset to a dataset of partial samples.

sample → cut → score → accept → write
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.augment.clips import Chooser
from simulsa_plugin.augment.commitment import Truth
from simulsa_plugin.augment.decision import Decider
from simulsa_plugin.augment.layout import Layout, Shard
from simulsa_plugin.augment.manifest import check_same_work, describe_work, make_manifest, write_manifest
from simulsa_plugin.augment.registration import SourceDataset, offline_entry, register
from simulsa_plugin.augment.report import write_report
from simulsa_plugin.augment.selection import Skipped, wanted_samples
from simulsa_plugin.augment.settings import AugmentSettings
from simulsa_plugin.augment.shards import holding, mark_finished, remove_shards
from simulsa_plugin.augment.speculation import score_cuts, scored_rows
from simulsa_plugin.augment.tally import Tally
from simulsa_plugin.model import AudioLanguageModel
from simulsa_plugin.storage import make_folder, write_jsonl


@dataclass(frozen=True)
class Outcome:
    """What one dataset became.

    Attributes:
        folder: NAME_simulsa in the output folder.
        manifest: what its manifest.json holds.
    """

    folder: Path
    manifest: dict[str, Any]


def augment(
    dataset: SourceDataset,
    model: AudioLanguageModel,
    settings: AugmentSettings,
    out: Path,
    *,
    truth: Truth | None = None,
) -> Outcome:
    """Make the partial samples of one offline dataset and register both in `out/dataset_info.json`.

    Started again after a stop, or after shards, it goes on, and ends with the same bytes.

    Args:
        dataset: what to cut.
        model: the model that training starts from.
        settings: the `simulsa_*` keys.
        out: output folder.
        truth: true partial translations, where the corpus knows them; samples are held against them.

    Raises:
        StorageError: the folder is in use, or holds the work of other settings or other data.
        DatasetError: not one row could be cut.
    """
    layout = open_layout(out, dataset.name)
    with holding(layout, None):
        entry = offline_entry(dataset, settings, layout)
        work = describe_work(dataset, model, settings)
        check_same_work(layout, work)
        cuts, skipped = Chooser(dataset, model, settings, layout).choose()
        score_cuts(cuts, model, settings, layout)
        decider = Decider(settings, model.output_width, truth)
        tally = decider.write(scored_rows(cuts, layout), layout)
        register(dataset, entry, layout)
        remove_shards(layout)
        return finish(layout, work, tally, wanted_samples(len(dataset), settings), skipped)


def augment_shard(
    dataset: SourceDataset, model: AudioLanguageModel, settings: AugmentSettings, out: Path, shard: Shard
) -> None:
    """Score one shard's batches; `augment` finishes when the shards are done.

    Raises:
        StorageError: the shard or the whole folder is in use, or holds other work.
        DatasetError: not one row could be cut.
    """
    layout = open_layout(out, dataset.name)
    with holding(layout, shard):
        check_same_work(layout, describe_work(dataset, model, settings))
        cuts, _ = Chooser(dataset, model, settings, layout).choose()
        score_cuts(cuts, model, settings, layout, shard)
        mark_finished(layout, shard)


def open_layout(out: Path, name: str) -> Layout:
    """The folders of a dataset, made where they are missing."""
    layout = Layout(make_folder(out).absolute(), name)
    make_folder(layout.clips)
    return layout


def finish(layout: Layout, work: dict[str, Any], tally: Tally, wanted: int, skipped: list[Skipped]) -> Outcome:
    """Write skipped.jsonl, report.html and, last of all, manifest.json.

    Args:
        layout: where.
        work: of `describe_work`.
        tally: of the decided rows.
        wanted: samples asked for.
        skipped: what the walk left out.
    """
    left_out = [*skipped, *tally.dropped]
    write_jsonl(layout.skipped, map(asdict, left_out))
    manifest = make_manifest(work, tally, wanted, Counter(one.reason for one in left_out))
    write_report(manifest, tally.examples, layout.report)
    write_manifest(layout, manifest)
    return Outcome(layout.folder, manifest)
