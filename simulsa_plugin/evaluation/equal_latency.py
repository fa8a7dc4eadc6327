"""Quality at equal latency: the curves of two systems, their difference, and what it says in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.cells import OFFLINE, Cell, CellKey
from simulsa_plugin.evaluation.sampled import Side
from simulsa_plugin.metrics.corpus import LATENCIES
from simulsa_plugin.metrics.curves import Curve, area_between, common_range, frontier
from simulsa_plugin.metrics.significance import interval

SHARES_OF_RANGE = (0.1, 0.3, 0.5, 0.7, 0.9)  # where on the common range differences are given, unless told
LOG_POLICY = "log"  # stands for the only cell of a single log

Json = dict[str, Any]
Cells = Mapping[CellKey, Cell]


@dataclass(frozen=True)
class Axes:
    """What is plotted over what, and at which latencies (ms) differences are given; none: at shares of the range."""

    quality: str = "BLEU"
    latency: str = "LAAL"
    at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        allowed = [name for name in LATENCIES if not name.startswith("AP")]  # a ratio: it has no milliseconds
        if self.latency not in allowed:
            raise UsageError(f"--latency is {self.latency!r}; allowed: {', '.join(allowed)}.")


def compare_curves(policy: str | None, cells: tuple[Cells, Cells], sides: tuple[Side, Side], axes: Axes) -> Json:
    """Compare the curves of the streaming cells of one policy, or of all (None), of a baseline and another system.

    Args:
        policy: whose cells.
        cells: of the baseline, of the other.
        sides: their logs resampled; empty where there are none.
        axes: of the curves.

    Returns:
        An entry of `equal_latency` in the JSON of `simulsa-eval compare`.
    """
    keys = [_on_curve(side, policy, axes) for side in cells]
    curves = [_measured(side, chosen, axes) for side, chosen in zip(cells, keys, strict=True)]
    entry: Json = {"policy": policy, "quality": axes.quality, "latency": axes.latency, "latency_unit": "ms",
                   "knots": {side: np.stack([curve.latencies, curve.qualities], axis=1).tolist()
                             for side, curve in zip(("baseline", "other"), curves, strict=True)}}
    shared = common_range(*curves)
    if shared is None:
        return entry | {"range": None, "points": [], "area": None, "area_interval": None, "mean_difference": None,
                        "interval": None}
    drawn = _drawn_pairs(sides, keys, axes)  # on a resample a curve may be a single point, but the range stays
    area = area_between(curves[0], curves[1], *shared)
    latencies = axes.at or [shared[0] + share * (shared[1] - shared[0]) for share in SHARES_OF_RANGE]
    return entry | {
        "range": list(shared),
        "points": [_point(latency, curves, shared, drawn, axes) for latency in latencies],
        "area": area,
        "area_interval": _interval_json(_drawn_area(*pair, shared[1]) for pair in drawn),
        "mean_difference": area / (shared[1] - shared[0]),
        "interval": _interval_json(_drawn_mean_difference(*pair, shared[1]) for pair in drawn),
    }


def _on_curve(cells: Cells, policy: str | None, axes: Axes) -> list[CellKey]:
    """Cells of a curve: streaming, of the policy, with both values."""
    return [key for key, cell in cells.items()
            if key.policy not in (OFFLINE, LOG_POLICY) and policy in (None, key.policy)
            and cell.values.get(axes.quality) is not None and cell.values.get(axes.latency) is not None]


def _measured(cells: Cells, keys: Iterable[CellKey], axes: Axes) -> Curve:
    values = [cells[key].values for key in keys]
    return frontier([(cell[axes.latency] or 0.0, cell[axes.quality] or 0.0) for cell in values])


def _drawn_pairs(sides: tuple[Side, Side], keys: Sequence[Sequence[CellKey]], axes: Axes) -> list[tuple[Curve, Curve]]:
    """Both curves of each resample; none where a cell has no log, or no such metric in it."""
    there = all(key in side and {axes.quality, axes.latency} <= set(side[key].values)
                for side, chosen in zip(sides, keys, strict=True) for key in chosen)
    if not there:
        return []
    first, second = (_drawn_curves(side, chosen, axes) for side, chosen in zip(sides, keys, strict=True))
    return list(zip(first, second, strict=True))


def _drawn_curves(side: Side, keys: Sequence[CellKey], axes: Axes) -> list[Curve]:
    points = np.stack([np.stack([side[key].values[axes.latency], side[key].values[axes.quality]]) for key in keys])
    return [frontier([(float(latency), float(quality)) for latency, quality in cells
                      if not np.isnan(latency) and not np.isnan(quality)]) for cells in points.transpose(2, 0, 1)]


def _point(
    latency: float, curves: Sequence[Curve], shared: tuple[float, float], drawn: Iterable[tuple[Curve, Curve]],
    axes: Axes,
) -> Json:
    """Both qualities at one latency; null where a curve does not reach it."""
    if not shared[0] <= latency <= shared[1]:
        return {axes.latency: latency, "baseline": None, "other": None, "difference": None, "interval": None}
    first, second = (float(curve.at(latency)) for curve in curves)
    return {axes.latency: latency, "baseline": first, "other": second, "difference": second - first,
            "interval": _interval_json(_drawn_difference(*pair, latency) for pair in drawn)}


def _drawn_difference(baseline: Curve, other: Curve, latency: float) -> float:
    """Difference at a latency; NaN where a resampled curve begins only after it."""
    low = _drawn_start(baseline, other)
    return float("nan") if low is None or latency < low else float(other.at(latency) - baseline.at(latency))


def _drawn_area(baseline: Curve, other: Curve, high: float) -> float:
    """Area between two resampled curves up to a latency; NaN where one begins only after it."""
    low = _drawn_start(baseline, other)
    return float("nan") if low is None or low >= high else area_between(baseline, other, low, high)


def _drawn_mean_difference(baseline: Curve, other: Curve, high: float) -> float:
    return _drawn_area(baseline, other, high) / (high - (_drawn_start(baseline, other) or 0.0))


def _drawn_start(baseline: Curve, other: Curve) -> float | None:
    """Where both resampled curves have begun; None where one has no point.

    They have no end: beyond its last point a system is at least as good as there, as it need not be slower than that.
    """
    if not len(baseline.latencies) or not len(other.latencies):
        return None
    return max(float(baseline.latencies[0]), float(other.latencies[0]))


def _interval_json(values: Iterable[float]) -> list[float] | None:
    found = interval(np.array(list(values), dtype=np.float64))
    return None if found is None else [found.low, found.high]
