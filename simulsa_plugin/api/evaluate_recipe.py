"""`evaluate`: a test set decoded in every cell of a recipe, and scored."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.api.boundary import library_call
from simulsa_plugin.api.output_place import is_address, no_recipe_for_address, output_at
from simulsa_plugin.api.recipe import Recipe, RecipeSource, check_early, dataset_names, open_recipe
from simulsa_plugin.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from simulsa_plugin.api.raw_corpus import RecipeCorpus
    from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset
    from simulsa_plugin.model.values import Sample, UnusableRow
    from simulsa_plugin.sharding import Shard

EVALUATE_OUT = "results"
TEST_FOLDER = "corpus"  # in the output folder: the test or dev set, where it is made first
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    """A folder of `evaluate`, or of `simulsa-eval run`.

    Attributes:
        out: the folder.
        scores: its scores.json: cells, limits, signatures, settings, model, skipped utterances.
    """

    out: Path
    scores: dict[str, Any]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> EvaluationResult:
        """Read a finished folder.

        Raises:
            LogError: it has no scores.json, or one that cannot be read.
        """
        from simulsa_plugin.evaluation.result_cells import read_scores

        return cls(Path(folder), read_scores(Path(folder)))

    @property
    def cells(self) -> list[dict[str, Any]]:
        """One per policy, chunk and parameters, offline first: metrics, intervals, counts, folder of the log."""
        cells: list[dict[str, Any]] = self.scores["cells"]
        return cells

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The cells, then the limits where the true partial translations are known."""
        return [*self.cells, *self.scores.get("limits", [])]

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row per cell.

        Columns: `policy`, `chunk_ms`, `rollback`, `parameters`, every metric (latencies in ms) with the bounds of its
        95 % interval beside it as `BLEU_low` and `BLEU_high` where there is one, `instances`, `empty` and `skipped`.
        """
        import pandas as pd

        from simulsa_plugin.evaluation.report import COUNT_COLUMNS, KEY_COLUMNS, PARAMETERS

        keys, metrics = [*KEY_COLUMNS, PARAMETERS], _metrics(self.cells)
        return pd.DataFrame(
            {name: cell.get(name) for name in keys}
            | {column: value for name in metrics for column, value in _with_bounds(cell, name).items()}
            | {name: cell[name] for name in COUNT_COLUMNS}
            for cell in self.cells
        )

    def figure(self, quality: str = "BLEU", latency: str | None = None) -> Figure:
        """Draw quality over latency (ms) with 95 % intervals, a line per policy and parameters; offline as a level.

        Args:
            quality: a metric of the cells.
            latency: another; None for LAAL, of long recordings LongYAAL.

        Raises:
            UsageError: no cell has such a metric.
        """
        from simulsa_plugin.evaluation.report import curves_figure, main_latency
        from simulsa_plugin.settings import check_choice

        latency = latency or main_latency(self.cells)
        for name, metric in (("quality", quality), ("latency", latency)):
            check_choice(name, metric, _metrics(self.cells))
        return curves_figure(self.rows, quality, latency)


def _metrics(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    from simulsa_plugin.evaluation.result_cells import CELL_METRICS

    return [name for name in CELL_METRICS if any(name in cell for cell in cells)]


def _with_bounds(cell: Mapping[str, Any], metric: str) -> dict[str, float | None]:
    bounds = (cell.get("intervals") or {}).get(metric)
    value = {metric: cell.get(metric)}
    return value if bounds is None else value | {f"{metric}_low": bounds[0], f"{metric}_high": bounds[1]}


def evaluate(
    recipe: RecipeSource = None,
    *,
    out: str | os.PathLike[str] = EVALUATE_OUT,
    progress: bool = False,
    **keys: Any,
) -> EvaluationResult:
    """Decode a test set with every policy, chunk and rollback, and score each, as `simulsa-eval run` does.

    Called again after a stop, it continues; a finished folder is only read.

    Args:
        recipe: path of a LLaMA-Factory recipe (YAML), or its keys with their values; None for the embedded default,
            as recommended.
        out: folder of the results, or its address, such as `s3://bucket/folder`.
        progress: show how far the work has come, on stderr.
        keys: keys of the recipe that count instead of those in it, such as `simulsa_chunks=[500, 1000]`.

    Raises:
        UsageError: a key is unknown or has a wrong value.
        DatasetError: the test set is missing, or none of it can be decoded.
        ModelError: the model cannot be loaded.
        StorageError: the folder is in use, or holds another evaluation.
    """
    with library_call(progress=progress):
        with output_at(out) as folder:
            evaluate_recipe(recipe, keys, folder, portable=is_address(out))
            return EvaluationResult.read(folder)


def evaluate_recipe(
    recipe: RecipeSource,
    overrides: Sequence[str] | Mapping[str, Any],
    out: Path,
    share: Shard | None = None,
    *,
    portable: bool = False,
) -> bool:
    """Evaluate the test set of a recipe, or decode a share of it.

    Args:
        recipe: see `evaluate`.
        overrides: see `open_recipe`.
        out: folder of the results.
        share: decode only this part, as one of several processes; the first waits for the others, and finishes.
        portable: the folder may be another one when a stopped run goes on.

    Returns:
        Whether the folder is finished; not by a share that is not the first.
    """
    from simulsa_plugin.api.engine import computing, read_engine
    from simulsa_plugin.api.loading import leakage_warnings, read_samples
    from simulsa_plugin.demo.truth import find_recording_truth, find_truth
    from simulsa_plugin.evaluation.evaluation_settings import CometSettings, EvaluationSettings
    from simulsa_plugin.evaluation.reference_checks import check_references, segment_warnings
    from simulsa_plugin.presets import RECOMMENDED

    opened = open_recipe(recipe, overrides, [EvaluationSettings], RECOMMENDED)
    settings, comet = EvaluationSettings.from_keys(opened.simulsa), CometSettings.from_keys(opened.simulsa)
    engine = read_engine(opened, share, measures_time=settings.measure_time)
    if portable and opened.embedded:
        raise no_recipe_for_address()
    corpus = check_before_loading(opened, settings, out, share)
    first = share is None or share.number == 1
    how = {"wait": bool(share), "quiet": not first, "portable": portable}
    toolkit = _make_test_data(opened, corpus, out, long_form=settings.is_long_form, **how)
    names = dataset_names(toolkit.get("eval_dataset") or toolkit.get("dataset"))
    if len(names) > 1:
        raise UsageError(
            f"One test set is evaluated at a time; the recipe names {', '.join(names)}. Set eval_dataset=NAME."
        )
    rows: list[Sample | UnusableRow] = []
    warnings: list[str] = []

    def read_rows(datasets: list[OfflineDataset]) -> None:
        rows.extend(read_samples(datasets[0], settings.eval_samples, settings))
        warnings.extend(check_references(datasets[0].name, rows, settings))
        warnings.extend(segment_warnings(datasets[0].name, rows) if settings.is_long_form else ())

    with computing(engine, toolkit, names, read_rows, settings) as (model, (dataset,)):
        from simulsa_plugin.evaluation.comet.command import add_comet_if_wanted
        from simulsa_plugin.evaluation.run import run_evaluation

        if first:
            logger.info(
                f"test set {dataset.name}: {len(rows)} of {len(dataset)} rows, model {toolkit['model_name_or_path']}, "
                f"latency unit {settings.latency_unit}, BLEU tokenizer {settings.bleu_tokenizer}"
            )
            for line in [*leakage_warnings(opened, dataset, corpus), *warnings]:
                logger.warning(line)
        truth = (find_recording_truth if settings.is_long_form else find_truth)(dataset.name, dataset.entry)
        cells = run_evaluation(model, dataset.name, rows, settings, out, share, truth)
    if cells:
        add_comet_if_wanted(out, comet)
    return bool(cells)


def check_before_loading(
    recipe: Recipe, settings: EvaluationSettings, out: Path, share: Shard | None
) -> RecipeCorpus | None:
    """Find mistakes in policies, tokenizer, folder, recipe and corpus before the long part; return the raw corpus."""
    from simulsa_plugin.api.raw_corpus import recipe_corpus
    from simulsa_plugin.evaluation.block_decoding import cell_folder
    from simulsa_plugin.evaluation.budgets import check_tuned
    from simulsa_plugin.evaluation.run import plan_cells, refuse_foreign_results
    from simulsa_plugin.evaluation.test_set import check_speech_detection
    from simulsa_plugin.files.atomic import refuse_link
    from simulsa_plugin.metrics.quality import make_metrics

    if share and settings.measure_time:
        raise UsageError("simulsa_measure_time is for a single process: several would disturb each other's clock.")
    check_tuned(settings.tuned, map(cell_folder, plan_cells(settings)))
    make_metrics(settings.bleu_tokenizer)
    check_speech_detection(settings)
    refuse_foreign_results(out, settings)
    refuse_link(out / TEST_FOLDER)
    check_early(recipe, recipe.toolkit.get("eval_dataset") or recipe.toolkit.get("dataset"))
    return recipe_corpus(recipe, evaluation=True)


def _make_test_data(
    recipe: Recipe, corpus: RecipeCorpus | None, out: Path, *, long_form: bool, wait: bool, quiet: bool, portable: bool
) -> dict[str, Any]:
    """Return LLaMA-Factory's keys; a raw corpus is read first, the embedded one synthesised where none was named."""
    from simulsa_plugin.files.atomic import make_folder

    make_folder(out)
    if recipe.preset and not quiet:
        logger.info("%s", recipe.preset)
    folder = out / TEST_FOLDER
    if corpus:
        corpus.prepare(folder, wait=wait, quiet=quiet, portable=portable)
        return recipe.toolkit | {"eval_dataset": corpus.name, "dataset_dir": str(folder)}
    if recipe.embedded:
        name = write_embedded_test(folder, long_form, wait)
        return recipe.toolkit | {"eval_dataset": name, "dataset_dir": str(folder)}
    return recipe.toolkit


def write_embedded_test(folder: Path, long_form: bool, wait: bool = False) -> str:
    """Write the embedded test set unless it is there, and return its name: utterances, or talks for long-form decoding.

    Raises:
        StorageError: the folder cannot be used, or another process is writing it.
    """
    from simulsa_plugin.demo.corpus import TEST_NAME, write_demo_corpus
    from simulsa_plugin.demo.talks import TALKS_NAME, write_demo_talks

    if long_form:
        write_demo_talks(folder, wait=wait)
        return TALKS_NAME
    write_demo_corpus(folder, rows=0, wait=wait)
    return TEST_NAME
