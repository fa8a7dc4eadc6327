"""The method, from an offline dataset to a dataset of partial samples.

sample → cut → score → accept → write
"""

from __future__ import annotations

from pathlib import Path

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.clean import offer_clean
from simulsa_plugin.augmentation.clips import CutSampler, scored_clips
from simulsa_plugin.augmentation.label_quality import TruePartials
from simulsa_plugin.augmentation.labeling import Labeler
from simulsa_plugin.augmentation.manifest import (
    as_scored,
    check_same_configuration,
    describe_augmentation,
    refuse_other_configuration,
)
from simulsa_plugin.augmentation.method.acceptance import tolerance_of
from simulsa_plugin.augmentation.method.selection import wanted_samples
from simulsa_plugin.augmentation.method.speculation import reopen_damaged_scores, score_cuts, scored_rows
from simulsa_plugin.augmentation.outcome import AugmentedDataset, finish
from simulsa_plugin.augmentation.output_layout import Layout
from simulsa_plugin.augmentation.registration import SourceDataset, offline_entry, open_layout, register
from simulsa_plugin.augmentation.shards import holding, holding_whole, is_alone, mark_finished, remove_shards
from simulsa_plugin.files.atomic import make_own_folder
from simulsa_plugin.model.protocol import ScoringModel
from simulsa_plugin.sharding import Shard


def augment_dataset(
    dataset: SourceDataset,
    model: ScoringModel,
    settings: AugmentSettings,
    out: Path,
    *,
    truth: TruePartials | None = None,
) -> AugmentedDataset:
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
    layout = _open_folder(out, dataset)
    with holding(layout, None):
        entry = offline_entry(dataset, settings, layout)
        configuration = describe_augmentation(dataset, model.describe(), settings, model.output_width, layout.out)
        check_same_configuration(layout, configuration, alone=True)
        sampler = CutSampler(dataset, model, settings, layout, scored_clips=scored_clips(layout))
        cuts, skipped, warnings = sampler.sample()
        warnings += reopen_damaged_scores(cuts, layout)
        score_cuts(cuts, model, settings, layout)
        scored, doubts = as_scored(layout, configuration)
        labeler = Labeler(settings, model.output_width, truth, tolerance_of(scored["model"]))
        tally = labeler.write(scored_rows(cuts, settings, layout), layout)
        register(dataset, entry, layout)
        remove_shards(layout)
        clean = offer_clean(dataset, skipped, layout)
        return finish(layout, scored, tally, wanted_samples(len(dataset), settings), skipped, clean, warnings + doubts)


def augment_shard(
    dataset: SourceDataset, model: ScoringModel, settings: AugmentSettings, out: Path, shard: Shard
) -> list[str]:
    """Score one shard's batches, unless they are scored; `augment_dataset` finishes when the shards are done.

    Returns:
        what the user should know, a line each.

    Raises:
        StorageError: the shard or the whole folder is in use, or holds other work.
        DatasetError: not one row could be cut.
    """
    layout = _open_folder(out, dataset)
    configuration = describe_augmentation(dataset, model.describe(), settings, model.output_width, layout.out)
    refuse_other_configuration(layout, configuration)
    with holding(layout, shard) as has_work:
        if not has_work:
            return []
        with holding_whole(layout, shard):
            check_same_configuration(layout, configuration, alone=is_alone(layout, shard))
        sampler = CutSampler(dataset, model, settings, layout, scored_clips=scored_clips(layout))
        cuts, _, warnings = sampler.sample()
        score_cuts(cuts, model, settings, layout, shard)
        mark_finished(layout, shard)
        return warnings


def _open_folder(out: Path, dataset: SourceDataset) -> Layout:
    layout = open_layout(out, dataset.name)
    make_own_folder(layout.clips)
    return layout
