"""`augment`: the partial samples of every dataset of a recipe, written beside the offline ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.api.boundary import library_call
from simulsa_plugin.api.engine import computing, read_engine
from simulsa_plugin.api.output_place import OutputPlace, augmentation_at, is_address, no_recipe_for_address
from simulsa_plugin.api.recipe import (
    Recipe,
    RecipeSource,
    check_early,
    dataset_names,
    offline_dataset_names,
    open_recipe,
)
from simulsa_plugin.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from simulsa_plugin.augmentation.augment_settings import AugmentSettings
    from simulsa_plugin.augmentation.outcome import AugmentedDataset
    from simulsa_plugin.augmentation.training_share import Mixing
    from simulsa_plugin.cluster.cluster_settings import ClusterSettings
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset
    from simulsa_plugin.model.protocol import ScoringModel
    from simulsa_plugin.sharding import Shard

AUGMENT_OUT = "data_simulsa"  # LLaMA-Factory's own default, data, is where users keep their datasets
SAMPLE_COLUMNS = (
    "id", "partial", "reference", "accepted_tokens", "cut_seconds", "duration_seconds", "clip", "audio",
)  # fmt: skip
DatasetSamples = tuple["OfflineDataset", int | None]  # and how many partial samples; None where it is not cut
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AugmentResult:
    """The augmented datasets of a recipe.

    Attributes:
        out: the output folder; `dataset_dir` of a training.
        datasets: one for each offline dataset with audio, with its folder, manifest.json and warnings.
    """

    out: Path
    datasets: tuple[AugmentedDataset, ...]

    @property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """Name of the offline dataset → its manifest.json: settings, versions, counts, signature."""
        return {one.manifest["dataset"]: one.manifest for one in self.datasets}

    @property
    def counts(self) -> dict[str, dict[str, Any]]:
        """Name of the offline dataset → its counts: samples, empty ones, tokens, seconds."""
        return {name: manifest["counts"] for name, manifest in self.manifests.items()}

    @property
    def reports(self) -> dict[str, Path]:
        """Name of the offline dataset → its report.html."""
        return {one.manifest["dataset"]: one.folder / "report.html" for one in self.datasets}

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row per partial sample.

        Columns: `dataset`, then of scores.jsonl `id`, `partial`, `reference`, `accepted_tokens`, `cut_seconds`,
        `duration_seconds`, `clip` (relative to `out`) and `audio` (the source file, likewise where `out` holds it).
        """
        import pandas as pd

        return pd.DataFrame(self._samples(), columns=["dataset", *SAMPLE_COLUMNS])

    def _samples(self) -> Iterator[dict[str, Any]]:
        from simulsa_plugin.files.json_files import read_jsonl

        for one in self.datasets:
            for row in read_jsonl(one.folder / "scores.jsonl", sealed=True):
                yield {"dataset": one.manifest["dataset"], **{name: row.get(name) for name in SAMPLE_COLUMNS}}


def augment(
    recipe: RecipeSource = None,
    *,
    out: str | os.PathLike[str] = AUGMENT_OUT,
    from_scores: str | os.PathLike[str] | None = None,
    audit: int | None = None,
    progress: bool = False,
    **keys: Any,
) -> AugmentResult:
    """Make partial samples of the datasets of a recipe, as `simulsa-augment` does.

    Called again after a stop, it continues, and ends with the same bytes.

    Args:
        recipe: path of a LLaMA-Factory recipe (YAML), or its keys with their values; None for the embedded default,
            as recommended.
        out: output folder, or the address of one, such as `s3://bucket/folder`.
        from_scores: a scores.jsonl to apply another acceptance rule to, without a model.
        audit: number of samples to score again afterwards, one by one; writes audit.json.
        progress: show how far the work has come, on stderr.
        keys: keys of the recipe that count instead of those in it, such as `simulsa_ratio=0.05`.

    Raises:
        UsageError: a key is unknown or has a wrong value, or `audit` is asked for without a model.
        DatasetError: a dataset is missing, or not one of its rows could be cut.
        ModelError: the model cannot be loaded.
        StorageError: the folder is in use, or holds the work of other settings or other data.
    """
    with library_call(progress=progress):
        if from_scores is None:
            return augment_recipe(recipe, keys, out, audited=audit)
        if audit is not None:
            raise UsageError("audit needs the model, and from_scores does without. Leave one out.")
        return relabel_scores(Path(from_scores), recipe, keys, out)


def relabel_scores(
    scores: Path, recipe: RecipeSource, overrides: Sequence[str] | Mapping[str, Any], out: OutputPlace
) -> AugmentResult:
    """Apply an acceptance rule to scored cuts; neither torch nor LLaMA-Factory is imported. Raises as `augment`."""
    if is_address(out):
        raise UsageError("--from-scores labels the clips of a folder. Copy the output from its address into one first.")
    out = Path(out)
    from simulsa_plugin.api.dataset_card import write_card_of
    from simulsa_plugin.augmentation.augment_settings import AugmentSettings
    from simulsa_plugin.augmentation.relabeling import relabel
    from simulsa_plugin.demo.truth import find_truth

    opened = open_recipe(recipe, overrides, [AugmentSettings])  # without a preset, as many rows as were scored
    if opened.preset:
        logger.info("%s", opened.preset)
    outcome = relabel(scores, opened.simulsa, out, find_truth)
    write_card_of(out)
    _log_outcome(outcome)
    return AugmentResult(out, (outcome,))


def augment_recipe(
    recipe: RecipeSource,
    overrides: Sequence[str] | Mapping[str, Any],
    out: OutputPlace,
    *,
    part: Shard | None = None,
    finishes: bool = True,
    audited: int | None = None,
) -> AugmentResult:
    """Augment every dataset of a recipe, or score a part of each.

    Args:
        recipe: see `augment`.
        overrides: see `open_recipe`.
        out: output folder, or its address.
        part: score only these batches, as one of several processes.
        finishes: the first of them waits for the others, and finishes.
        audited: see `audit` of `augment`.

    Returns:
        The datasets; none where this process does not finish.
    """
    opened, settings = open_augment_recipe(recipe, overrides)
    engine = read_engine(opened, part)
    settings = settings_for(out, opened, settings)
    with augmentation_at(out, part, finishes=finishes) as folder:
        toolkit = _make_offline_data(opened, folder, part, portable=is_address(out))
        run = _AugmentRun(toolkit, settings, engine, folder, audited)
        result = AugmentResult(folder, tuple(run.process(part, finishes=finishes)))
    if is_address(out) and result.datasets:
        copy = f"aws s3 sync {out} data_simulsa --exclude '.simulsa/*'"
        how = copy if str(out).startswith("s3://") else f"copy {out} to the folder data_simulsa"
        logger.info(f"  to train on another machine:  {how}  and  dataset_dir: data_simulsa")
    return result


def settings_for(out: OutputPlace, recipe: Recipe, settings: AugmentSettings) -> AugmentSettings:
    """Return the settings; with those for an address, the output can be used wherever it is copied to.

    Raises:
        UsageError: there is no recipe, and `out` is an address.
    """
    if not is_address(out):
        return settings
    if recipe.embedded:
        raise no_recipe_for_address()
    return replace(settings, portable=True)


def open_augment_recipe(
    recipe: RecipeSource, overrides: Sequence[str] | Mapping[str, Any]
) -> tuple[Recipe, AugmentSettings]:
    """Read a recipe and find its mistakes before the long part. Raises as `augment`."""
    from simulsa_plugin.augmentation.augment_settings import AugmentSettings
    from simulsa_plugin.presets import RECOMMENDED

    opened = open_recipe(recipe, overrides, [AugmentSettings], RECOMMENDED)
    settings = AugmentSettings.from_keys(opened.simulsa)
    _mixing(opened.toolkit)
    _cutoff_len(opened.toolkit)
    check_early(opened, opened.toolkit.get("dataset"))
    return opened, settings


def _make_offline_data(recipe: Recipe, out: Path, part: Shard | None, *, portable: bool) -> dict[str, Any]:
    """Return LLaMA-Factory's keys; a raw corpus is read first, the embedded one synthesised where none was named."""
    from simulsa_plugin.api.raw_corpus import recipe_corpus
    from simulsa_plugin.augmentation.manifest import has_scores
    from simulsa_plugin.augmentation.output_layout import Layout
    from simulsa_plugin.corpora.corpus_layout import CorpusLayout
    from simulsa_plugin.files.atomic import make_folder

    corpus = recipe_corpus(recipe, evaluation=False)
    make_folder(out)
    quiet = part is not None and part.number > 1
    if recipe.preset and not quiet:
        logger.info("%s", recipe.preset)
    if corpus:
        CorpusLayout(out, corpus.name)  # refuses what cannot be a name
        # After a run with the wrong template, whose prompt may differ, the corpus is there and nothing is scored.
        unscored = not has_scores(Layout(out.absolute(), corpus.name))
        corpus.prepare(out, wait=bool(part), quiet=quiet, new_prompt=unscored, portable=portable)
        return recipe.toolkit | {"dataset": corpus.name, "dataset_dir": str(out)}
    if not recipe.embedded:
        return recipe.toolkit
    from simulsa_plugin.demo.corpus import OFFLINE_NAME, write_demo_corpus

    write_demo_corpus(out, wait=bool(part))
    return recipe.toolkit | {"dataset": OFFLINE_NAME, "dataset_dir": str(out)}


@dataclass(frozen=True)
class _AugmentRun:
    """One process's work on every dataset of a recipe."""

    toolkit: dict[str, Any]
    settings: AugmentSettings
    engine: ClusterSettings
    out: Path
    audited: int | None

    def process(self, part: Shard | None, *, finishes: bool) -> list[AugmentedDataset]:
        """Score a part of each dataset, or all of it; the first of several ranks finishes when all are done."""
        names = offline_dataset_names(self.toolkit.get("dataset"))
        with computing(self.engine, self.toolkit, names, self._refuse_foreign) as (model, found):
            return self._process(model, [dataset.without_segments() for dataset in found], part, finishes=finishes)

    def _process(
        self, model: ScoringModel, loaded: list[OfflineDataset], part: Shard | None, *, finishes: bool
    ) -> list[AugmentedDataset]:
        if part and not self._score_part(datasets_to_cut(loaded), model, part, finishes=finishes):
            return []
        augmented: list[AugmentedDataset] = []
        samples: list[DatasetSamples] = []
        for dataset in loaded:
            if any(dataset is one for one in datasets_to_cut(loaded)):
                augmented.append(self._finish(dataset, model))
                samples.append((dataset, int(augmented[-1].manifest["counts"]["samples"])))
            else:
                self._register_text(dataset)
                samples.append((dataset, None))
        for line in training_warnings(self.toolkit, samples):
            logger.warning(line)
        return augmented

    def _score_part(
        self, datasets: Sequence[OfflineDataset], model: ScoringModel, part: Shard, *, finishes: bool
    ) -> bool:
        """Score a part of each dataset; return whether this process finishes, all parts being scored."""
        from simulsa_plugin.augmentation.pipeline import augment_shard
        from simulsa_plugin.augmentation.shards import wait_for_all

        for dataset in datasets:
            for warning in augment_shard(dataset, model, self.settings, self.out, part):
                logger.warning(warning)
        if not finishes:
            logger.info(f"shard {part.number}/{part.count} is scored; when all are, run without --shard to finish")
        if part.number > 1 or not finishes:
            return False
        for dataset in datasets:
            wait_for_all(self.out, dataset.name, part.count)
        return True

    def _refuse_foreign(self, datasets: Sequence[OfflineDataset]) -> None:
        """Find what is in the way in the output folder before the model is loaded."""
        from simulsa_plugin.augmentation.output_layout import Layout
        from simulsa_plugin.augmentation.registration import offline_entry, refuse_foreign_output

        for dataset in datasets:
            layout = Layout(self.out.absolute(), dataset.name)
            if dataset.has_audio():
                refuse_foreign_output(layout)
            offline_entry(dataset, self.settings, layout)

    def _finish(self, dataset: OfflineDataset, model: ScoringModel) -> AugmentedDataset:
        """Write a dataset's partial samples, and log what they are."""
        from simulsa_plugin.api.dataset_card import write_card_of
        from simulsa_plugin.augmentation.audit import audit, audit_line
        from simulsa_plugin.augmentation.cutoff import cutoff_line
        from simulsa_plugin.augmentation.output_layout import Layout
        from simulsa_plugin.augmentation.pipeline import augment_dataset
        from simulsa_plugin.demo.truth import find_truth

        truth = find_truth(dataset.name, dataset.entry)
        outcome = augment_dataset(dataset, model, self.settings, self.out, truth=truth)
        write_card_of(self.out)
        _log_outcome(outcome)
        if self.audited:
            logger.info(f"  {audit_line(audit(dataset, model, self.settings, self.out, self.audited))}")
        line = cutoff_line(dataset, model, Layout(self.out.absolute(), dataset.name), _cutoff_len(self.toolkit))
        if line:
            logger.warning(line)
        return outcome

    def _register_text(self, dataset: OfflineDataset) -> None:
        from simulsa_plugin.augmentation.registration import register_beside

        register_beside(dataset, self.settings, self.out)
        logger.info(text_dataset_line(dataset))


def datasets_to_cut(datasets: Sequence[OfflineDataset]) -> Sequence[OfflineDataset]:
    """Return those with audio; where none has any, all of them, to be refused."""
    return [dataset for dataset in datasets if dataset.has_audio()] or datasets


def text_dataset_line(dataset: OfflineDataset) -> str:
    """Describe a dataset that is not cut."""
    return f"{dataset.name}: {len(dataset)} rows without audio, none of them cut; registered for training beside speech"


def training_warnings(toolkit: dict[str, Any], found: Sequence[DatasetSamples]) -> list[str]:
    """Warn of keys of the recipe that change the share of partial samples in a training."""
    from simulsa_plugin.augmentation.output_layout import SUFFIX
    from simulsa_plugin.augmentation.training_share import Part, share_lines, tokenized_line

    tokenized = tokenized_line(toolkit.get("tokenized_path"))
    if tokenized:
        return [tokenized]
    parts: list[Part] = []
    for dataset, samples in found:
        parts.append(Part(dataset.name, len(dataset), dataset.entry.get("num_samples")))
        if samples is not None:
            parts.append(Part(f"{dataset.name}{SUFFIX}", samples))
    order = dataset_names(toolkit.get("dataset"))
    if {part.name for part in parts} <= set(order):  # else partial samples follow their offline rows
        parts.sort(key=lambda part: order.index(part.name))
    return list(share_lines(parts, _mixing(toolkit)))


def _mixing(toolkit: dict[str, Any]) -> Mixing:
    from simulsa_plugin.augmentation.training_share import Mixing

    try:
        return Mixing.from_keys(toolkit)
    except (ValueError, TypeError) as error:
        raise UsageError(f"LLaMA-Factory would refuse a key of the training: {error}. Correct it.") from error


def _cutoff_len(toolkit: dict[str, Any]) -> int:
    from simulsa_plugin.augmentation.cutoff import DEFAULT_CUTOFF_LEN

    given = toolkit.get("cutoff_len", DEFAULT_CUTOFF_LEN)
    if not str(given).isdecimal():
        raise UsageError(f"cutoff_len is {given!r}; allowed: a whole number of tokens.")
    packed = bool(toolkit.get("packing") or toolkit.get("neat_packing"))
    return int(given) - packed  # LLaMA-Factory takes one off for packing


def _log_outcome(outcome: AugmentedDataset) -> None:
    for warning in outcome.warnings:
        logger.warning(warning)
    logger.info("\n".join(outcome_lines(outcome)))


def outcome_lines(outcome: AugmentedDataset) -> list[str]:
    """Describe an augmented dataset: what was cut and accepted, where it lies, how to train with it."""
    from simulsa_plugin.augmentation.augment_report import augment_summary
    from simulsa_plugin.augmentation.clean import clean_lines

    name = outcome.manifest["dataset"]
    offline = (outcome.manifest.get("clean") or {}).get("name") or name
    return [
        *augment_summary(outcome.manifest),
        f"  {outcome.folder}",
        *(f"  {line}" for line in clean_lines(outcome.manifest)),
        f"  train with  dataset: {offline},{name}_simulsa  and  dataset_dir: {outcome.folder.parent}",
    ]
