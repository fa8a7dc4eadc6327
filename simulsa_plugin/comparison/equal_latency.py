"""Quality at equal latency: the curves of two systems, their difference, and its confidence interval.

Only cells of both systems are compared: a cell of one side alone would be an operating point that the other side was
not evaluated at. The curves are interpolated between knots at different latencies, and other cells would give other
curves. So every resample of the utterances is also compared on a random half of the cells, the same on both sides, and
the interval covers both sources of uncertainty. Where the knots coincide the halves add nothing; where the knots are
far apart they add the error of interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from simulsa_plugin.comparison.resampled_cells import ResampledCells, ResampledPair
from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.result_cells import OFFLINE, Cell, CellKey
from simulsa_plugin.files.json_files import Json
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.corpus_scores import LATENCY_METRICS
from simulsa_plugin.metrics.curves import Curve, area_between, common_range, frontier
from simulsa_plugin.metrics.instance import STREAM_PREFIX
from simulsa_plugin.metrics.long_form import LONG_LATENCY_METRICS, STREAM_LATENCY_METRICS
from simulsa_plugin.metrics.significance import Bootstrap, Interval, interval

SHARES_OF_RANGE = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the common range: where differences are given by default
LOG_POLICY = "log"  # policy name of the only cell of a single log
LEAST_SHARED = 2  # cells make a curve
LEAST_THINNED = 3  # cells of a curve, so that some can be left out
_LEAST_COVERED = 0.6  # of the halves must reach a latency: near an end those that do share the last cell

Cells = Mapping[CellKey, Cell]


@dataclass(frozen=True)
class Axes:
    """Quality and latency of the curves, and the latencies (ms) of reported differences; empty for SHARES_OF_RANGE."""

    quality: str = "BLEU"
    latency: str = "LAAL"
    at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        names = dict.fromkeys((*LATENCY_METRICS, *LONG_LATENCY_METRICS, *STREAM_LATENCY_METRICS))
        ratios = ("AP", STREAM_PREFIX + "AP")  # they have no milliseconds
        allowed = [name for name in names if not name.startswith(ratios)]
        if self.latency not in allowed:
            raise UsageError(f"--latency is {self.latency!r}; allowed: {', '.join(allowed)}.")


@dataclass(frozen=True)
class CurveCells:
    """The cells of two curves.

    Attributes:
        compared: of baseline and other; the same keys where they share at least two.
        shared: how many cells both sides have.
        alone: cells that only the baseline, or only the other has.
    """

    compared: tuple[Sequence[CellKey], Sequence[CellKey]]
    shared: int
    alone: tuple[Sequence[CellKey], Sequence[CellKey]]

    @property
    def paired(self) -> bool:
        """Whether both curves have the same cells."""
        return list(self.compared[0]) == list(self.compared[1])

    @property
    def comparable(self) -> bool:
        """Whether a difference can be attributed to the systems, which needs the same cells of a policy.

        Systems without a common policy are compared by all their cells.
        """
        first, second = ({key.policy for key in keys} for keys in self.compared)
        return self.paired or not first & second

    def as_json(self) -> Json:
        """Return `grids` of an entry of `equal_latency`."""
        return {
            "compared": "shared" if self.paired else "all",
            "comparable": self.comparable,
            "shared": self.shared,
            "cells": {side: len(keys) for side, keys in zip(("baseline", "other"), self.compared, strict=True)},
            "baseline_only": [key.as_json() for key in self.alone[0]],
            "other_only": [key.as_json() for key in self.alone[1]],
        }


def choose_cells(policy: str | None, cells: tuple[Cells, Cells], axes: Axes) -> CurveCells:
    """Choose the cells to compare: those of both sides, or all where they share fewer than two."""
    first, second = (cells_of_curve(side, policy, axes) for side in cells)
    shared = [key for key in first if key in set(second)]
    alone = ([key for key in first if key not in shared], [key for key in second if key not in shared])
    enough = len(shared) >= LEAST_SHARED
    return CurveCells((shared, shared) if enough else (first, second), len(shared), alone)


def compare_curves(
    policy: str | None, cells: tuple[Cells, Cells], sides: ResampledPair, axes: Axes, seed: int = Bootstrap.seed
) -> Json:
    """Compare the curves of the streaming cells of one policy, or of all (None), of a baseline and another system.

    Args:
        policy: of the cells; None for all.
        cells: of the baseline, of the other.
        sides: their resampled logs; empty where there are none.
        axes: of the curves.
        seed: of the halves of the cells.

    Returns:
        An entry of `equal_latency` in the JSON of `simulsa-eval compare`: `interval` covers the draw of the utterances
        and the choice of the cells, `sampling_interval` the utterances alone.
    """
    grids = choose_cells(policy, cells, axes)
    curves = [measured_curve(side, chosen, axes) for side, chosen in zip(cells, grids.compared, strict=True)]
    entry: Json = {
        "policy": policy,
        "quality": axes.quality,
        "latency": axes.latency,
        "latency_unit": "ms",
        "grids": grids.as_json(),
        "knots": {
            side: np.stack([curve.latencies, curve.qualities], axis=1).tolist()
            for side, curve in zip(("baseline", "other"), curves, strict=True)
        },
    }
    shared = common_range(*curves)
    if shared is None:
        nothing = ("area", "area_interval", "mean_difference", "interval", "sampling_interval")
        return entry | {"range": None, "points": [], **dict.fromkeys(nothing)}
    resampled = _resample_curves(
        sides, grids, axes, seed
    )  # on a resample a curve may be a single point, but the range is kept
    area, width = area_between(curves[0], curves[1], *shared), shared[1] - shared[0]
    held, sampled = (
        found(partial(_mean_difference, high=shared[1])) for found in (resampled.interval, resampled.sampling_interval)
    )
    latencies = axes.at or [shared[0] + share * width for share in SHARES_OF_RANGE]
    return entry | {
        "range": list(shared),
        "points": [_compare_at(latency, curves, shared, resampled, axes) for latency in latencies],
        "area": area,
        "area_interval": _as_json(held, width),
        "mean_difference": area / width,
        "interval": _as_json(held),
        "sampling_interval": _as_json(sampled),
    }


@dataclass(frozen=True)
class ResampledCurve:
    """A curve on a resample.

    Attributes:
        curve: through the cells that were drawn.
        end: the latency up to which it is valid. Infinite for all cells: beyond its last point a system is at least as
            good as there; but a curve without its slowest cells ends early.
    """

    curve: Curve
    end: float = math.inf


Pair = tuple[ResampledCurve, ResampledCurve]


@dataclass(frozen=True)
class ResampledCurves:
    """Both curves on each resample of the utterances: of all cells, and of a random half of them."""

    whole: Sequence[Pair] = ()
    halves: Sequence[Pair] = ()

    def sampling_interval(self, value: Callable[[ResampledCurve, ResampledCurve], float]) -> Interval | None:
        """Compute the 95 % interval of a function of two curves, over the utterances."""
        return interval(_evaluate(self.whole, value))

    def interval(self, value: Callable[[ResampledCurve, ResampledCurve], float]) -> Interval | None:
        """Compute the 95 % interval of a function of two curves, over utterances and cells.

        None where a curve has too few cells to leave one out.
        """
        sampled = self.sampling_interval(value)
        thinned = interval(_evaluate(self.halves, value), _LEAST_COVERED)
        if sampled is None or thinned is None:
            return None
        return Interval(min(sampled.low, thinned.low), max(sampled.high, thinned.high), sampled.resamples)


def _evaluate(pairs: Sequence[Pair], value: Callable[[ResampledCurve, ResampledCurve], float]) -> FloatArray:
    return np.array([value(*pair) for pair in pairs], dtype=np.float64)


def cells_of_curve(cells: Cells, policy: str | None, axes: Axes) -> list[CellKey]:
    """Choose the cells of a curve: streaming, of the policy, with both values."""
    return [
        key
        for key, cell in cells.items()
        if key.policy not in (OFFLINE, LOG_POLICY)
        and policy in (None, key.policy)
        and cell.values.get(axes.quality) is not None
        and cell.values.get(axes.latency) is not None
    ]


def measured_curve(cells: Cells, keys: Iterable[CellKey], axes: Axes) -> Curve:
    """Return the curve through the measured values of cells."""
    values = [cells[key].values for key in keys]
    return frontier([(cell[axes.latency] or 0.0, cell[axes.quality] or 0.0) for cell in values])


def _resample_curves(sides: ResampledPair, grids: CurveCells, axes: Axes, seed: int) -> ResampledCurves:
    """Compute both curves of each resample; none where a cell has no log, or lacks a metric."""
    complete = all(
        key in side and {axes.quality, axes.latency} <= set(side[key].values)
        for side, chosen in zip(sides, grids.compared, strict=True)
        for key in chosen
    )
    if not complete:
        return ResampledCurves()
    points = [resampled_points(side, chosen, axes) for side, chosen in zip(sides, grids.compared, strict=True)]
    generator = np.random.default_rng(seed)
    kept = [random_halves(len(chosen), len(points[0]), generator) for chosen in grids.compared]
    if grids.paired:
        kept[1] = kept[0]
    whole = [[ResampledCurve(frontier_of(cells)) for cells in side] for side in points]
    if min(map(len, grids.compared)) < LEAST_THINNED:
        return ResampledCurves(list(zip(*whole, strict=True)))
    halves = [curves_of_halves(side, chosen) for side, chosen in zip(points, kept, strict=True)]
    return ResampledCurves(*(list(zip(first, second, strict=True)) for first, second in (whole, halves)))


def resampled_points(side: ResampledCells, keys: Sequence[CellKey], axes: Axes) -> FloatArray:
    """Return latency and quality of every cell on every resample, shape (resamples, cells, 2)."""
    return np.stack(
        [np.stack([side[key].values[axes.latency], side[key].values[axes.quality]]) for key in keys]
    ).transpose(2, 0, 1)


def random_halves(cells: int, resamples: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Choose which cells each resample keeps: each with probability ½, but at least two (a curve has two ends).

    Returns:
        Shape (resamples, cells).

    >>> random_halves(2, 3, np.random.default_rng(0)).all()
    np.True_
    """
    kept = generator.integers(2, size=(resamples, cells), dtype=bool)
    while (few := kept.sum(axis=1) < min(LEAST_SHARED, cells)).any():
        kept[few] = generator.integers(2, size=(int(few.sum()), cells), dtype=bool)
    return kept


def curves_of_halves(points: FloatArray, kept: NDArray[np.bool_]) -> list[ResampledCurve]:
    """Compute the curve of each resample through the cells that it keeps."""
    return [
        ResampledCurve(frontier_of(cells[chosen]), _end_of_validity(cells[:, 0], chosen))
        for cells, chosen in zip(points, kept, strict=True)
    ]


def _end_of_validity(latencies: FloatArray, kept: NDArray[np.bool_]) -> float:
    """Return where a curve ends: at its last latency where it lacks the slowest cell."""
    measured = np.nan_to_num(latencies, nan=-math.inf)
    return math.inf if kept[measured.argmax()] else float(measured[kept].max())


def frontier_of(cells: FloatArray) -> Curve:
    """Return the curve through cells with latency and quality, shape (cells, 2); those with a NaN are left out."""
    return frontier(
        [
            (float(latency), float(quality))
            for latency, quality in cells
            if not np.isnan(latency) and not np.isnan(quality)
        ]
    )


def _compare_at(
    latency: float, curves: Sequence[Curve], shared: tuple[float, float], resampled: ResampledCurves, axes: Axes
) -> Json:
    """Compare both qualities at one latency; null where a curve does not reach it."""
    if not shared[0] <= latency <= shared[1]:
        return {axes.latency: latency, "baseline": None, "other": None, "difference": None, "interval": None}
    first, second = (float(curve.at(latency)) for curve in curves)
    return {
        axes.latency: latency,
        "baseline": first,
        "other": second,
        "difference": second - first,
        "interval": _as_json(resampled.interval(partial(_difference_at, latency=latency))),
    }


def _difference_at(baseline: ResampledCurve, other: ResampledCurve, latency: float) -> float:
    """Compute the difference at a latency; NaN where a resampled curve does not reach it."""
    covered = _covered(baseline, other)
    return (
        float(other.curve.at(latency) - baseline.curve.at(latency))
        if covered and covered[0] <= latency <= covered[1]
        else math.nan
    )


def _mean_difference(baseline: ResampledCurve, other: ResampledCurve, high: float) -> float:
    """Average the difference over the latencies up to `high` that both resampled curves reach; NaN without any."""
    low, high = _covered(baseline, other, high) or (math.inf, high)
    return area_between(baseline.curve, other.curve, low, high) / (high - low) if low < high else math.nan


def _covered(baseline: ResampledCurve, other: ResampledCurve, high: float = math.inf) -> tuple[float, float] | None:
    """Return the latencies that both resampled curves cover; None where one has no point."""
    if not len(baseline.curve.latencies) or not len(other.curve.latencies):
        return None
    return (
        max(float(baseline.curve.latencies[0]), float(other.curve.latencies[0])),
        min(high, baseline.end, other.end),
    )


def _as_json(found: Interval | None, factor: float = 1.0) -> list[float] | None:
    return None if found is None else [factor * bound for bound in found.as_json()]
