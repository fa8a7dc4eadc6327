"""The work behind `simulsa-eval compare`: differences per cell, and quality at equal latency, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from simulsa_plugin import storage
from simulsa_plugin.errors import LogError, UsageError
from simulsa_plugin.evaluation.cells import CELL_METRICS, OFFLINE, Cell, CellKey, read_cells, read_scores
from simulsa_plugin.evaluation.logs import Log, read_log
from simulsa_plugin.evaluation.score import ScoreOptions, print_warnings, score_log
from simulsa_plugin.evaluation.tables import comparison_tables
from simulsa_plugin.metrics.corpus import Measure, latency_values
from simulsa_plugin.metrics.curves import Array, Curve, area_between, common_range, frontier
from simulsa_plugin.metrics.quality import default_tokenizer
from simulsa_plugin.metrics.records import UNITS
from simulsa_plugin.metrics.significance import (
    bleu_statistics,
    corpus_bleu,
    interval,
    paired_p_value,
    resample,
    weighted_mean,
)

SHARES_OF_RANGE = (0.1, 0.3, 0.5, 0.7, 0.9)  # where on the common range differences are given
LOG_POLICY = "log"  # stands for the only cell of a single log

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class CompareOptions:
    """Unit and tokenizer of single logs (folders know their own), and how the bootstrap draws."""

    unit: str = "word"
    tokenizer: str | None = None
    samples: int = 1000
    seed: int = 12345

    def __post_init__(self) -> None:
        if self.samples < 1 or self.seed < 0:
            raise UsageError(f"--samples is {self.samples}, --seed is {self.seed}; allowed: 1 or more, and 0 or more.")


@dataclass(frozen=True)
class Scale:
    """How a result was measured: what must agree before two results can be compared."""

    unit: str
    length: str
    tokenizer: str

    def __str__(self) -> str:
        return f"unit {self.unit}, length of the {self.length}, BLEU tokenizer {self.tokenizer}"


@dataclass(frozen=True)
class Result:
    """One side of a comparison."""

    path: Path
    cells: Mapping[CellKey, Cell]
    scale: Scale
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resampled:
    """BLEU and mean LAAL (ms) of one cell on each resample, shape (samples,)."""

    bleu: Array
    laal: Array

    def of(self, metric: str) -> Array:
        """The values of BLEU or LAAL."""
        return self.bleu if metric == "BLEU" else self.laal


Side: TypeAlias = Mapping[CellKey, Resampled]


def run_compare(paths: Sequence[Path], options: CompareOptions, json_path: Path | None = None) -> int:
    """Compare results, print tables, and write the JSON where asked for. Raises as `load_result` and `compare`."""
    results = [load_result(path, options) for path in paths]
    for result in results:
        print_warnings(result.warnings)
    comparison = compare(results, options)
    if json_path is not None:
        storage.write_json(json_path, comparison)
    print("\n".join(comparison_tables(comparison)))
    return 0


def compare(results: Sequence[Result], options: CompareOptions) -> Json:
    """Compare each result with the first.

    Args:
        results: as `load_result` gives them; the baseline first.
        options: how the bootstrap draws.

    Returns:
        The JSON of `simulsa-eval compare`.

    Raises:
        LogError: a cell's log cannot be read, or two logs have other references.
        UsageError: the results were measured differently, or a folder is compared with a log.
    """
    baseline = results[0]
    for result in results[1:]:
        _check_comparable(baseline, result)
    return {
        "baseline": str(baseline.path),
        "scale": {"unit": baseline.scale.unit, "length": baseline.scale.length, "tokenizer": baseline.scale.tokenizer},
        "bootstrap": {"method": "paired over utterances, percentiles", "share": 0.95,
                      "samples": options.samples, "seed": options.seed},
        "comparisons": [_compare_two(baseline, result, options) for result in results[1:]],
    }


def load_result(path: Path, options: CompareOptions) -> Result:
    """A result folder, or a single log as a result of one cell.

    Raises:
        LogError: the folder holds no scores.json, or the log cannot be scored.
        UsageError, MissingExtraError: unknown unit or tokenizer, or one that cannot start.
    """
    if path.is_dir():
        scores = read_scores(path)
        return Result(path, read_cells(path, scores), _scale_of(scores.get("signatures"), options))
    scored = score_log(path, ScoreOptions(unit=options.unit, tokenizer=options.tokenizer))
    key = CellKey(LOG_POLICY)
    cell = Cell(key, scored.scores.corpus, len(scored.log.records), path)
    return Result(path, {key: cell}, _scale_of(scored.scores.signatures, options), scored.warnings)


def _scale_of(signatures: object, options: CompareOptions) -> Scale:
    """Unit, length and tokenizer as the signatures say; the options where they do not."""
    said: dict[str, str] = {}
    for name in ("BLEU", "latency"):
        signature = signatures.get(name) if isinstance(signatures, dict) else None
        parts = (part.partition(":") for part in str(signature or "").split("|"))
        said |= {key: value for key, _, value in parts}
    unit = said.get("unit", options.unit)
    tokenizer = said.get("tok") or options.tokenizer or default_tokenizer(unit if unit in UNITS else "word")
    return Scale(unit, {"ref": "reference", "hyp": "prediction"}.get(said.get("len", "ref"), "reference"), tokenizer)


def _check_comparable(baseline: Result, other: Result) -> None:
    if baseline.scale != other.scale:
        raise UsageError(f"{baseline.path} and {other.path} were measured differently ({baseline.scale}; "
                         f"{other.scale}). Score both alike.")
    if (CellKey(LOG_POLICY) in baseline.cells) != (CellKey(LOG_POLICY) in other.cells):
        raise UsageError(f"{baseline.path} and {other.path} are a log and a folder; compare logs with logs, "
                         f"folders with folders (the logs of a folder stand in its cells).")


def _compare_two(baseline: Result, other: Result, options: CompareOptions) -> Json:
    resampled = _resample(baseline, other, options)
    base_side, other_side = resampled or ({}, {})
    keys = list(dict.fromkeys([*baseline.cells, *other.cells]))
    return {
        "other": str(other.path),
        "cells": [_compare_cell(key, baseline, other, base_side, other_side) for key in keys],
        "equal_latency": [_compare_curves(policy, baseline, other, base_side, other_side)
                          for policy in _policies(baseline, other)],
    }


def _compare_cell(key: CellKey, baseline: Result, other: Result, base_side: Side, other_side: Side) -> Json:
    cells = {"baseline": baseline.cells.get(key), "other": other.cells.get(key)}
    missing = next((side for side, cell in cells.items() if cell is None), None)
    values = {side: cell.values if cell else {} for side, cell in cells.items()}
    names = [name for name in CELL_METRICS if any(name in side for side in values.values())]
    metrics = {}
    for name in names:
        first, second = values["baseline"].get(name), values["other"].get(name)
        difference = None if first is None or second is None else second - first
        metrics[name] = {"baseline": first, "other": second, "difference": difference} | _uncertainty(
            name, difference, base_side.get(key), other_side.get(key))
    instances = {side: cell.instances if cell else None for side, cell in cells.items()}
    return key.as_json() | {"missing": missing, "instances": instances, "metrics": metrics}


def _uncertainty(name: str, difference: float | None, first: Resampled | None, second: Resampled | None) -> Json:
    """Interval and p-value of a difference in BLEU or LAAL; null where a log is missing."""
    if name not in ("BLEU", "LAAL") or difference is None or first is None or second is None:
        return {"interval": None, "p_value": None}
    differences = second.of(name) - first.of(name)
    found = interval(differences)
    return {"interval": None if found is None else [found.low, found.high],
            "p_value": None if found is None else paired_p_value(difference, differences[~np.isnan(differences)])}


def _policies(baseline: Result, other: Result) -> list[str | None]:
    """Policies whose curves are compared: those of both sides; None for all cells of each where policies differ."""
    first, second = ({key.policy for key in result.cells if key.policy not in (OFFLINE, LOG_POLICY)}
                     for result in (baseline, other))
    shared: list[str | None] = [*sorted(first & second)]
    return shared if first == second and len(first) < 2 else [*shared, None]


def _compare_curves(
    policy: str | None, baseline: Result, other: Result, base_side: Side, other_side: Side
) -> Json:
    """Quality at equal latency: the curves of the streaming cells of one policy (or of all)."""
    keys = [_streaming_keys(result, policy) for result in (baseline, other)]
    curves = [_measured_curve(result, chosen) for result, chosen in zip((baseline, other), keys, strict=True)]
    summary: Json = {"policy": policy, "quality": "BLEU", "latency": "LAAL", "latency_unit": "ms",
                     "knots": {side: [list(point) for point in zip(curve.latencies.tolist(), curve.qualities.tolist(),
                                                                   strict=True)]
                               for side, curve in zip(("baseline", "other"), curves, strict=True)}}
    shared = common_range(curves[0], curves[1])
    if shared is None:
        return summary | {"range": None, "points": [], "area": None, "mean_difference": None, "interval": None}
    complete = set(keys[0]) <= set(base_side) and set(keys[1]) <= set(other_side)
    drawn = list(zip(_drawn_curves(base_side, keys[0]), _drawn_curves(other_side, keys[1]), strict=True)) \
        if complete else []
    area = area_between(curves[0], curves[1], *shared)
    return summary | {
        "range": list(shared),
        "points": [_point_of_range(low_share, curves, shared, drawn) for low_share in SHARES_OF_RANGE],
        "area": area,
        "mean_difference": area / (shared[1] - shared[0]),
        "interval": _interval_json(_drawn_mean_difference(*pair) for pair in drawn),
    }


def _streaming_keys(result: Result, policy: str | None) -> list[CellKey]:
    """Cells of a curve: streaming, of the policy, with BLEU and LAAL."""
    return [key for key, cell in result.cells.items()
            if key.policy not in (OFFLINE, LOG_POLICY) and policy in (None, key.policy)
            and cell.values.get("BLEU") is not None and cell.values.get("LAAL") is not None]


def _measured_curve(result: Result, keys: Iterable[CellKey]) -> Curve:
    values = [result.cells[key].values for key in keys]
    return frontier([(cell["LAAL"] or 0.0, cell["BLEU"] or 0.0) for cell in values])


def _drawn_curves(side: Side, keys: Sequence[CellKey]) -> list[Curve]:
    """The curve of each resample."""
    points = [np.stack([side[key].laal, side[key].bleu]) for key in keys]
    return [frontier([(float(latency), float(quality)) for latency, quality in cells if not np.isnan(latency)])
            for cells in np.stack(points).transpose(2, 0, 1)]


def _point_of_range(
    share: float, curves: Sequence[Curve], shared: tuple[float, float], drawn: Iterable[tuple[Curve, Curve]]
) -> Json:
    """Both qualities at one latency of the common range."""
    latency = shared[0] + share * (shared[1] - shared[0])
    first, second = (float(curve.at(latency)) for curve in curves)
    return {"LAAL": latency, "baseline": first, "other": second, "difference": second - first,
            "interval": _interval_json(_drawn_difference(*pair, latency) for pair in drawn)}


def _drawn_difference(baseline: Curve, other: Curve, latency: float) -> float:
    """Difference at a latency; NaN where a resampled curve does not reach it."""
    shared = common_range(baseline, other)
    if shared is None or not shared[0] <= latency <= shared[1]:
        return float("nan")
    return float(other.at(latency) - baseline.at(latency))


def _drawn_mean_difference(baseline: Curve, other: Curve) -> float:
    """Mean difference over the common range of two resampled curves; NaN where they share none."""
    shared = common_range(baseline, other)
    return float("nan") if shared is None else area_between(baseline, other, *shared) / (shared[1] - shared[0])


def _interval_json(values: Iterable[float]) -> list[float] | None:
    found = interval(np.array(list(values), dtype=np.float64))
    return None if found is None else [found.low, found.high]


def _resample(baseline: Result, other: Result, options: CompareOptions) -> tuple[Side, Side] | None:
    """BLEU and LAAL of all cells that have a log, on the same resamples; None where a side has no log.

    Raises:
        LogError: the logs have other references.
    """
    logs = [{key: read_log(cell.log) for key, cell in result.cells.items() if cell.log is not None}
            for result in (baseline, other)]
    if not all(logs):
        return None
    everything = [log for side in logs for log in side.values()]
    for log in everything[1:]:
        _check_same_references(everything[0], log)
    statistics = [{key: _statistics(log, baseline.scale) for key, log in side.items()} for side in logs]
    drawn: list[dict[CellKey, list[Array]]] = [{key: [] for key in side} for side in statistics]
    for weights in resample(len(everything[0].records), options.samples, options.seed):
        for side, collected in zip(statistics, drawn, strict=True):
            for key, (bleu, laal) in side.items():
                collected[key].append(np.stack([corpus_bleu(weights @ bleu), weighted_mean(weights, laal)]))
    first, second = ({key: Resampled(*np.concatenate(blocks, axis=1)) for key, blocks in collected.items()}
                     for collected in drawn)
    return first, second


def _statistics(log: Log, scale: Scale) -> tuple[Array, Array]:
    """BLEU's statistics and LAAL (NaN where it has none) per record; a null reference adds nothing to BLEU."""
    measured = [record.reference is not None for record in log.records]
    bleu = bleu_statistics([record.prediction for record in log.records],
                           [record.reference or "" for record in log.records], scale.tokenizer)
    laal = latency_values(log.records, Measure(scale.unit, scale.length == "reference"))["LAAL"]
    return bleu * np.array(measured, dtype=np.float64)[:, None], np.array(laal, dtype=np.float64)


def _check_same_references(first: Log, second: Log) -> None:
    if len(first.records) != len(second.records):
        raise LogError(f"{first.path} holds {len(first.records)} instances, {second.path} holds {len(second.records)}; "
                       f"a comparison needs the same utterances. Run both on the same test set.")
    for number, (one, two) in enumerate(zip(first.records, second.records, strict=True), 1):
        if one.reference != two.reference:
            raise LogError(f"{first.path} and {second.path}, line {number}: the references differ; a comparison needs "
                           f"the same utterances in the same order. Run both on the same test set.")
