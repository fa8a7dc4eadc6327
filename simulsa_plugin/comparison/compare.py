"""`simulsa-eval compare`: differences per cell, and quality at equal latency, with intervals."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from simulsa_plugin.comparison.comparison_files import ComparisonFiles, write_comparison
from simulsa_plugin.comparison.equal_latency import LOG_POLICY, Axes, CurveCells, choose_cells, compare_curves
from simulsa_plugin.comparison.names import path_text
from simulsa_plugin.comparison.regimes import at_bounds, regime_rows
from simulsa_plugin.comparison.resampled_cells import ResampledLog, ResampledPair, check_same_references, resample_cells
from simulsa_plugin.comparison.shown_results import ShownResult, shown_results
from simulsa_plugin.comparison.tuned_systems import TunedSystem, compare_tuned, load_tuning, tuned_files
from simulsa_plugin.comparison.verdict import verdict
from simulsa_plugin.errors import LogError, UsageError
from simulsa_plugin.evaluation.formatting import MILLISECONDS, SOURCE_TOKENS
from simulsa_plugin.evaluation.report import REPORT_FILES
from simulsa_plugin.evaluation.result_cells import (
    CELL_METRICS,
    COMET,
    COMET_SCORES,
    OFFLINE,
    SCORES,
    Cell,
    CellKey,
    read_cells,
    read_scores,
)
from simulsa_plugin.evaluation.score import ScoreOptions, score_log
from simulsa_plugin.files.json_files import Json
from simulsa_plugin.logs.reader import ReadOptions
from simulsa_plugin.logs.steps import STEPS
from simulsa_plugin.metrics.corpus_scores import LATENCY_METRICS
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.long_form import LONG_LATENCY_METRICS, STREAM_LATENCY_METRICS
from simulsa_plugin.metrics.quality import QUALITY_METRICS, default_tokenizer
from simulsa_plugin.metrics.records import LatencyUnit, check_unit
from simulsa_plugin.metrics.significance import (
    Bootstrap,
    differing_utterances,
    interval,
    paired_p_value,
    randomisation_test,
    sacrebleu_p_value,
)

logger = logging.getLogger(__name__)
UTTERANCES = "utterances"
USUAL_LATENCIES = {  # form of a result → latency of its curves; a form is recognised by it
    "long recordings, aligned by SoftSegmenter": "LongYAAL",
    "long recordings, aligned by mwerSegmenter": "StreamLAAL",
    UTTERANCES: "LAAL",
}
_ALLOWED = (*LONG_LATENCY_METRICS, *LATENCY_METRICS), STREAM_LATENCY_METRICS, LATENCY_METRICS
_LATENCIES = dict(zip(USUAL_LATENCIES, _ALLOWED, strict=True))
P_VALUES = {
    "p_value": "paired bootstrap; of BLEU and chrF as sacrebleu computes it, of other metrics two-sided, ties half",
    "randomisation_p_value": "paired randomisation, two-sided: exact where the differing utterances have no more swaps "
    "than there are trials, else drawn, ties half",
    "sacrebleu_randomisation_p_value": "the same as sacrebleu computes it: drawn, ties not counted",
}


@dataclass(frozen=True)
class CompareOptions:
    """Options of `simulsa-eval compare`.

    Attributes:
        read: of single logs, what they do not contain; result folders contain it.
        tokenizer: of single logs, like `read`.
        axes: of curves.
        bootstrap: how to resample.
        tuned: folders of `simulsa-eval tune`, one for each result; empty to compare no budgets.
        regimes: bounds of latency, in ms, below which the best cell of each tuned result is shown and compared; empty
            for the budgets of the tuning.
        usual_latency: whether the latency of the curves is LAAL, or of long recordings LongYAAL (StreamLAAL, where
            mwerSegmenter aligned them), whatever `axes` has.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    tokenizer: str | None = None
    axes: Axes = field(default_factory=Axes)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    tuned: tuple[Path, ...] = ()
    usual_latency: bool = False
    regimes: tuple[float, ...] = ()


@dataclass(frozen=True)
class ScoringConventions:
    """How a result was scored; must be equal for two results to be compared."""

    unit: LatencyUnit
    length: Literal["reference", "prediction"]
    tokenizer: str
    time: str = MILLISECONDS

    def __str__(self) -> str:
        return f"unit {self.unit}, length of the {self.length}, BLEU tokenizer {self.tokenizer}, latency in {self.time}"


@dataclass(frozen=True)
class ComparedResult:
    """One of the results of a comparison."""

    path: Path
    cells: Mapping[CellKey, Cell]
    scale: ScoringConventions
    warnings: tuple[str, ...] = ()
    comet: str | None = None  # signature of its COMET
    signatures: Mapping[str, str] = field(default_factory=dict)  # of a log

    @property
    def is_log(self) -> bool:
        """Whether it is a single log."""
        return CellKey(LOG_POLICY) in self.cells

    @property
    def form(self) -> str:
        """What its values are of: utterances, or long recordings aligned by one aligner."""
        names = {name for cell in self.cells.values() for name in cell.values}
        return next((form for form, latency in USUAL_LATENCIES.items() if latency in names), UTTERANCES)


def run_compare(
    paths: Sequence[Path],
    options: CompareOptions,
    files: ComparisonFiles = ComparisonFiles(),  # noqa: B008 (frozen)
) -> Json:
    """Compare results, log warnings, write the files that are given. Raises as the functions it calls."""
    results = load_results(paths, options, files)
    comparison = compare_with_baseline(results, options)
    for pair in comparison["comparisons"]:
        if "left_out" in pair:
            logger.warning(f"{pair['left_out']} It is left out.")
    write_comparison(comparison, shown(results), axes_of(results[0], options).latency, files)
    return comparison


def load_results(paths: Sequence[Path], options: CompareOptions, files: ComparisonFiles) -> list[ComparedResult]:
    """Load results, log their warnings, and refuse to write what is read.

    Raises:
        UsageError: one of the files is read, or two are the same; also as `load_result`.
        LogError, MissingExtraError: as `load_result`.
    """
    results = [load_result(path, options) for path in paths]
    for warning in (one for result in results for one in result.warnings):
        logger.warning(warning)
    read = [
        *(path for result in results for path in _read_files(result)),
        *(path for folder in options.tuned for path in tuned_files(folder)),
        *(path for path in (options.read.references, options.read.segments) if path is not None),
    ]
    files.check(read)
    return results


def shown(results: Sequence[ComparedResult]) -> list[ShownResult]:
    """Return results as a page shows them."""
    return shown_results([(result.path, result.cells, result.signatures) for result in results])


def axes_of(baseline: ComparedResult, options: CompareOptions) -> Axes:
    """Return the axes of the curves; the latency is the usual one of the form of the results, unless it was given."""
    if options.usual_latency:
        return dataclasses.replace(options.axes, latency=USUAL_LATENCIES[baseline.form])
    return options.axes


def _read_files(result: ComparedResult) -> Iterator[Path]:
    """Yield the files of a result, which must not be overwritten."""
    yield from (result.path, *(result.path / name for name in (SCORES, *REPORT_FILES)))
    for cell in result.cells.values():
        if cell.log is not None:
            yield from (cell.log, *(cell.log.with_name(name) for name in (STEPS, COMET_SCORES)))


def resample_result(
    result: ComparedResult, bootstrap: Bootstrap, read: ReadOptions | None = None
) -> dict[CellKey, ResampledLog]:
    """Resample the cells of a result that have a log, with the result's conventions.

    Args:
        result: the result.
        bootstrap: how to resample.
        read: what a single log does not contain.

    Raises:
        LogError: as `resample_cells`.
    """
    scale = result.scale
    return resample_cells(
        result.cells,
        Measure(scale.unit, scale.length == "reference"),
        scale.tokenizer,
        dataclasses.replace(read or ReadOptions(), unit=scale.unit),
        bootstrap,
    )


def _read_options(result: ComparedResult, options: CompareOptions) -> ReadOptions:
    """Return how the logs of a result are read; those of a folder are complete."""
    return options.read if result.is_log else ReadOptions(keep_end_marks=options.read.keep_end_marks)


def compare_with_baseline(results: Sequence[ComparedResult], options: CompareOptions) -> Json:
    """Compare each result with the first, the baseline.

    Returns:
        The JSON of `simulsa-eval compare`.

    Raises:
        LogError: a cell's log cannot be read, or two logs have other references.
        UsageError: the results were measured differently, or a folder is compared with a log.
    """
    baseline = results[0]
    options = dataclasses.replace(options, axes=axes_of(baseline, options), usual_latency=False)
    for result in results[1:]:
        _check_comparable(baseline, result, options.axes)
    if options.tuned and len(options.tuned) != len(results):
        raise UsageError(
            f"--tuned names {len(options.tuned)} folders, and there are {len(results)} results. Give one "
            "for each, in the same order."
        )
    tuned = [load_tuning(path, options.bootstrap) for path in options.tuned]
    if options.regimes:
        tuned = [at_bounds(one, options.regimes) for one in tuned]
    tunings: list[TunedSystem | None] = [*tuned] or [None] * len(results)
    return {
        "baseline": path_text(baseline.path),
        "scale": dataclasses.asdict(baseline.scale),
        "bootstrap": {"method": _resampling(baseline), "share": 0.95, **vars(options.bootstrap)},
        "p_values": P_VALUES,
        "comparisons": [
            _compare_two(baseline, result, options, (tunings[0], tuning))
            for result, tuning in zip(results[1:], tunings[1:], strict=True)
        ],
        **_regimes(results, tuned, options),
    }


def _regimes(results: Sequence[ComparedResult], tuned: Sequence[TunedSystem], options: CompareOptions) -> Json:
    """Return the regimes of each result; empty where none are asked for."""
    if not options.regimes:
        return {}
    if not tuned:
        raise UsageError("--regimes needs --tuned: the cells are chosen on a dev set. Give a folder of each result.")
    goals = {(one.goal.quality, one.goal.latency) for one in tuned}
    if len(goals) > 1:
        raise UsageError(f"The folders of --tuned have different goals: {goals}. Tune all for the same metrics.")
    ((quality, latency),) = goals
    rows = [
        row
        for result, tuning in zip(results, tuned, strict=True)
        for row in regime_rows(
            path_text(result.path),
            tuning,
            result.cells,
            resample_result(result, options.bootstrap),
        )
    ]
    return {"regimes": {"quality": quality, "latency": latency, "rows": rows}}


def _resampling(result: ComparedResult) -> str:
    if result.form == UTTERANCES:
        return "paired over utterances, percentiles"
    return (
        "paired over recordings, then over the segments within them (segments alone of a single recording), "
        "percentiles; randomisation swaps segments"
    )


def load_result(path: Path, options: CompareOptions) -> ComparedResult:
    """Load a result folder, or a single log as a result with one cell.

    Raises:
        LogError: the folder has no scores.json, or the log cannot be scored.
        UsageError, MissingExtraError: unknown unit or tokenizer, or one whose package is missing.
    """
    if path.is_dir():
        scores = read_scores(path)
        signatures = scores.get("signatures")
        comet = signatures.get(COMET) if isinstance(signatures, dict) else None
        return ComparedResult(
            path, read_cells(path, scores), _conventions_of(signatures, options), comet=comet and str(comet)
        )
    if not path.exists():
        raise LogError(f"{path} does not exist. Give a folder of `simulsa-eval run`, or a log.")
    scored = score_log(path, ScoreOptions(**vars(options.read), tokenizer=options.tokenizer))
    key = CellKey(LOG_POLICY)
    counts = scored.scores.counts
    cell = Cell(key, scored.scores.corpus, counts["instances"], path, counts["skipped"])
    scale = _conventions_of(scored.scores.signatures, options)
    return ComparedResult(path, {key: cell}, scale, scored.warnings, signatures=scored.scores.signatures)


def _conventions_of(signatures: object, options: CompareOptions) -> ScoringConventions:
    """Read the conventions from signatures; fields that these lack come from the options."""
    fields: dict[str, str] = {}
    for name in ("BLEU", "latency"):
        signature = signatures.get(name) if isinstance(signatures, dict) else None
        parts = (part.partition(":") for part in str(signature or "").split("|"))
        fields |= {key: value for key, _, value in parts}
    unit = check_unit(fields.get("unit", options.read.unit))
    tokenizer = fields.get("tok") or options.tokenizer or default_tokenizer(unit)
    return ScoringConventions(
        unit,
        "prediction" if fields.get("len") == "hyp" else "reference",
        tokenizer,
        SOURCE_TOKENS if fields.get("time") == "source-tokens" else MILLISECONDS,
    )


def _check_comparable(baseline: ComparedResult, other: ComparedResult, axes: Axes) -> None:
    check_measured_alike(baseline, other, axes)
    if baseline.is_log != other.is_log:
        raise UsageError(
            f"{baseline.path} and {other.path} are a log and a folder; compare logs with logs, folders with folders "
            f"(each cell of a folder contains its log). `simulsa-eval report` shows both on one page."
        )


def check_measured_alike(baseline: ComparedResult, other: ComparedResult, axes: Axes) -> None:
    """Raise UsageError where two results are not measured alike, or lack the axes."""
    if baseline.form != other.form:
        raise UsageError(
            f"{baseline.path} has scores of {baseline.form}, {other.path} of {other.form}. Compare results of one form."
        )
    if axes.latency not in _LATENCIES[baseline.form]:
        raise UsageError(
            f"--latency is {axes.latency}, which scores of {baseline.form} do not have; for them it is "
            f"{USUAL_LATENCIES[baseline.form]}, unless given."
        )
    if baseline.scale != other.scale:
        raise UsageError(
            f"{baseline.path} and {other.path} were measured differently ({baseline.scale}; "
            f"{other.scale}). Score both in the same way."
        )
    if axes.quality == COMET and (reason := _comet_mismatch(baseline, other)):
        raise UsageError(f"{reason} Run `simulsa-eval comet` on both with the same checkpoint and the same texts.")


def _comet_mismatch(baseline: ComparedResult, other: ComparedResult) -> str | None:
    """Return why COMET of two results cannot be compared; None where it can, or one has none."""
    if baseline.comet == other.comet or not (_has_comet(baseline) and _has_comet(other)):
        return None
    return (
        f"COMET of {baseline.path} and of {other.path} was computed differently "
        f"({baseline.comet or 'no signature'}; {other.comet or 'no signature'})."
    )


def _has_comet(result: ComparedResult) -> bool:
    return any(cell.values.get(COMET) is not None for cell in result.cells.values())


def _without_comet(result: ComparedResult) -> ComparedResult:
    cells = {
        key: dataclasses.replace(cell, values={name: value for name, value in cell.values.items() if name != COMET})
        for key, cell in result.cells.items()
    }
    return dataclasses.replace(result, cells=cells)


def _compare_two(
    baseline: ComparedResult,
    other: ComparedResult,
    options: CompareOptions,
    tunings: tuple[TunedSystem | None, TunedSystem | None],
) -> Json:
    mismatch = _comet_mismatch(baseline, other)
    if mismatch is not None:
        baseline, other = _without_comet(baseline), _without_comet(other)
    sides = resample_both(baseline, other, options)
    keys = list(dict.fromkeys([*baseline.cells, *other.cells]))
    cells = [_compare_cell(key, baseline, other, sides, options) for key in keys]
    curves = [_compare_curves(policy, baseline, other, sides, options) for policy in _policies(baseline, other)]
    return {
        "other": path_text(other.path),
        **({"left_out": mismatch} if mismatch else {}),
        "cells": cells,
        "equal_latency": [entry | {"verdict": verdict(entry, cells)} for entry in curves],
        **_compare_tuned(tunings, (baseline, other), sides),
    }


def _compare_tuned(
    tunings: tuple[TunedSystem | None, TunedSystem | None],
    results: tuple[ComparedResult, ComparedResult],
    sides: ResampledPair,
) -> Json:
    """Compare tuned results at their budgets; empty where they were not tuned."""
    first, second = tunings
    if first is None or second is None:
        return {}
    return {"tuned": compare_tuned((first, second), (results[0].cells, results[1].cells), sides)}


def _compare_curves(
    policy: str | None, baseline: ComparedResult, other: ComparedResult, sides: ResampledPair, options: CompareOptions
) -> Json:
    cells = baseline.cells, other.cells
    count = _count_differing(choose_cells(policy, cells, options.axes), sides, options.axes)
    return compare_curves(policy, cells, sides, options.axes, options.bootstrap.seed) | {"differing": count}


def resample_both(baseline: ComparedResult, other: ComparedResult, options: CompareOptions) -> ResampledPair:
    """Resample both results with the same utterances; empty where one has no log."""
    if not all(any(cell.log for cell in result.cells.values()) for result in (baseline, other)):
        return {}, {}
    first, second = (
        resample_result(result, options.bootstrap, _read_options(result, options)) for result in (baseline, other)
    )
    check_same_references(first, second)
    return first, second


def _compare_cell(
    key: CellKey, baseline: ComparedResult, other: ComparedResult, sides: ResampledPair, options: CompareOptions
) -> Json:
    cells = {"baseline": baseline.cells.get(key), "other": other.cells.get(key)}
    missing = next((side for side, cell in cells.items() if cell is None), None)
    values = {side: cell.values if cell else {} for side, cell in cells.items()}
    names = [name for name in CELL_METRICS if any(name in side for side in values.values())]
    metrics = {}
    for name in names:
        first, second = values["baseline"].get(name), values["other"].get(name)
        difference = None if first is None or second is None else second - first
        metrics[name] = {
            "baseline": first,
            "other": second,
            "difference": difference,
            "measured": {side: cell and _measured_instances(cell, name) for side, cell in cells.items()},
        }
        metrics[name] |= _uncertainty(name, difference, sides[0].get(key), sides[1].get(key), options.bootstrap)
    instances = {side: cell.instances if cell else None for side, cell in cells.items()}
    return key.as_json() | {"missing": missing, "instances": instances, "metrics": metrics}


def _measured_instances(cell: Cell, name: str) -> int | None:
    """Return how many instances have a value; None where the result does not record it."""
    return None if cell.instances is None or name not in cell.skipped else cell.instances - cell.skipped[name]


def _uncertainty(
    name: str, difference: float | None, first: ResampledLog | None, second: ResampledLog | None, bootstrap: Bootstrap
) -> Json:
    """Compute interval and p-values of a difference; None where a log or the metric is missing."""
    found: Json = {"interval": None, "p_value": None}
    if name in QUALITY_METRICS:
        found["randomisation_p_value"] = None
    if difference is None or first is None or second is None or name not in first.values or name not in second.values:
        return found
    differences = second.values[name] - first.values[name]
    bounds = interval(differences)
    if bounds is None:
        return found
    different = differing_utterances(first.statistics, second.statistics, name)
    found |= {"interval": bounds.as_json(), "utterances": len(different), "differing": int(different.sum())}
    if name not in QUALITY_METRICS:
        return found | {
            "p_value": paired_p_value(difference, differences[~np.isnan(differences)]) if different.any() else 1.0
        }
    (metric, one), (_, two) = (side.statistics.quality[name] for side in (first, second))
    test = randomisation_test(metric, one, two, bootstrap)
    # sacrebleu's bootstrap gives the smallest possible p to two equal systems
    return found | {
        "p_value": sacrebleu_p_value(difference, differences) if test.differing else 1.0,
        "randomisation_p_value": test.p_value,
        "randomisation_exact": test.exact,
        "sacrebleu_randomisation_p_value": test.sacrebleu_p_value,
    }


def _count_differing(grids: CurveCells, sides: ResampledPair, axes: Axes) -> int | None:
    """Count the utterances whose quality or latency differs in some cell of two curves; None without logs."""
    pairs = [tuple(side.get(key) for side in sides) for key in grids.compared[0]] if grids.paired else []
    found = [
        differing_utterances(one.statistics, two.statistics, name)
        for one, two in pairs
        if one and two
        for name in (axes.quality, axes.latency)
        if {name} <= set(one.values) & set(two.values)
    ]
    return int(np.any(found, axis=0).sum()) if found else None


def _policies(baseline: ComparedResult, other: ComparedResult) -> list[str | None]:
    """Return the policies whose curves are compared: the shared ones; None for all cells where policies differ."""
    first, second = (
        {key.policy for key in result.cells if key.policy not in (OFFLINE, LOG_POLICY)} for result in (baseline, other)
    )
    shared: list[str | None] = [*sorted(first & second)]
    return shared if first == second and len(first) < 2 else [*shared, None]
