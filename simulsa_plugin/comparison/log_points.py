"""A single log against the curve of a result: the quality of both at the latency of the log."""

from __future__ import annotations

import math

import numpy as np

from simulsa_plugin.comparison.equal_latency import (
    LEAST_THINNED,
    LOG_POLICY,
    Axes,
    Cells,
    ResampledCurve,
    cells_of_curve,
    curves_of_halves,
    frontier_of,
    measured_curve,
    random_halves,
    resampled_points,
)
from simulsa_plugin.comparison.resampled_cells import ResampledCells
from simulsa_plugin.evaluation.formatting import format_interval
from simulsa_plugin.evaluation.result_cells import CellKey
from simulsa_plugin.files.json_files import Json
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.significance import Bootstrap, Interval, interval

LOG = CellKey(LOG_POLICY)
_LEAST_COVERED = 0.6  # of the halves must reach the latency, as for two curves


def compare_log(
    log: tuple[Cells, ResampledCells],
    curve: tuple[Cells, ResampledCells],
    axes: Axes,
    seed: int = Bootstrap.seed,
) -> Json:
    """Compare a log with the interpolated curve of a result at the latency of the log.

    Beyond its last point a curve is taken to stay at the quality of that point, which is the least it can have.

    Args:
        log: its only cell, and the cell resampled.
        curve: the cells of a result, and these resampled with the same utterances; nothing where there are no logs.
        axes: quality and latency.
        seed: of the halves of the cells, by which the interval covers the error of interpolation.

    Returns:
        An object with the latency of the log as `latency_of_log` (ms), both qualities as `log` and `curve` (None where
        the log is faster than every cell), `difference` (log − curve), its 95 % `interval`, and the `range` of the
        curve in ms (None without a curve).
    """
    values = log[0][LOG].values
    latency, quality = values.get(axes.latency), values.get(axes.quality)
    keys = cells_of_curve(curve[0], None, axes)
    found = measured_curve(curve[0], keys, axes)
    reach = [float(found.latencies[0]), float(found.latencies[-1])] if len(found.latencies) else None
    entry: Json = {
        "quality": axes.quality,
        "latency": axes.latency,
        "latency_of_log": latency,
        "log": quality,
        "curve": None,
        "difference": None,
        "interval": None,
        "range": reach,
    }
    if latency is None or quality is None or reach is None or latency < reach[0]:
        return entry
    at = float(found.at(latency))
    bounds = _interval(log[1], curve[1], keys, axes, seed)
    return entry | {
        "curve": at,
        "difference": quality - at,
        "interval": bounds and [bounds.low, bounds.high],
    }


def _interval(
    log: ResampledCells, curve: ResampledCells, keys: list[CellKey], axes: Axes, seed: int
) -> Interval | None:
    """Compute the interval of the difference, over the utterances and over halves of the cells of the curve."""
    resampled = [log.get(LOG), *(curve.get(key) for key in keys)]
    if any(one is None or not {axes.quality, axes.latency} <= set(one.values) for one in resampled):
        return None
    latencies, qualities = (log[LOG].values[name] for name in (axes.latency, axes.quality))
    points = resampled_points(curve, keys, axes)
    sampled = interval(_differences(latencies, qualities, [ResampledCurve(frontier_of(cells)) for cells in points]))
    if len(keys) < LEAST_THINNED or sampled is None:
        return None
    kept = random_halves(len(keys), len(points), np.random.default_rng(seed))
    thinned = interval(_differences(latencies, qualities, curves_of_halves(points, kept)), _LEAST_COVERED)
    if thinned is None:
        return None
    return Interval(min(sampled.low, thinned.low), max(sampled.high, thinned.high), sampled.resamples)


def _differences(latencies: FloatArray, qualities: FloatArray, curves: list[ResampledCurve]) -> FloatArray:
    """Return log − curve on each resample; NaN where the curve does not reach the latency."""
    return np.array(
        [
            quality - float(one.curve.at(latency))
            if len(one.curve.latencies) and one.curve.latencies[0] <= latency <= one.end
            else math.nan
            for latency, quality, one in zip(latencies, qualities, curves, strict=True)
        ]
    )


def log_sentence(entry: Json, log: str, result: str) -> str:
    """Summarise the comparison of a log with a curve in a sentence.

    Args:
        entry: of `compare_log`.
        log: name of the log.
        result: name of the result with the curve.
    """
    quality, latency, at = entry["quality"], entry["latency"], entry["latency_of_log"]
    if entry["range"] is None or at is None or entry["log"] is None:
        return f"{log} and {result} cannot be compared: one has no streaming cell with {quality} and {latency}."
    if entry["difference"] is None:
        fastest = f"its fastest is at {entry['range'][0]:.0f} ms"
        return f"{log} is at {at:.0f} ms of {latency}, and {result} has no cell as fast: {fastest}."
    beyond = at > entry["range"][1]
    where = f"at least {entry['curve']:.2f}, that of its slowest cell" if beyond else f"{entry['curve']:.2f}"
    return (
        f"At {at:.0f} ms of {latency}, where {log} has {entry['log']:.2f} {quality}, the curve of {result} has "
        f"{where}: {entry['difference']:+.2f} {quality}{_judgement(entry, log)}."
    )


def _judgement(entry: Json, log: str) -> str:
    bounds = entry["interval"]
    if bounds is None:
        return ", without an interval, which needs the logs of the folder and more cells"
    shown = f" {format_interval(bounds, 2, signed=True)}"
    if bounds[0] <= 0 <= bounds[1]:
        return f"{shown}, which is not significant"
    return f"{shown}, so {log} is {'better' if bounds[0] > 0 else 'worse'}"
