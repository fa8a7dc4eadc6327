"""Quality over latency as a curve: the Pareto frontier of a system's cells, linearly interpolated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from simulsa_plugin.metrics.arrays import FloatArray


@dataclass(frozen=True)
class Curve:
    """The Pareto frontier of a system's cells, joined by straight lines.

    Attributes:
        latencies: milliseconds, rising strictly, shape (points,).
        qualities: BLEU at them, rising strictly, shape (points,).
    """

    latencies: FloatArray
    qualities: FloatArray

    def at(self, latencies: FloatArray | float) -> FloatArray:
        """Interpolate the quality at latencies within the curve's range."""
        return np.asarray(np.interp(latencies, self.latencies, self.qualities))


def frontier(points: Iterable[tuple[float, float]]) -> Curve:
    """Keep the (latency, quality) points whose quality no point of lower or equal latency reaches.

    >>> frontier([(900.0, 20.0), (500.0, 10.0), (700.0, 5.0)]).latencies.tolist()
    [500.0, 900.0]
    """
    kept: list[tuple[float, float]] = []
    for latency, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((latency, quality))
    return Curve(np.array([point[0] for point in kept]), np.array([point[1] for point in kept]))


def common_range(first: Curve, second: Curve) -> tuple[float, float] | None:
    """Return the range of latencies that both curves cover; None where they share at most a point.

    >>> common_range(frontier([(1, 1), (3, 3)]), frontier([(2, 1), (4, 2)]))
    (2.0, 3.0)
    """
    if not len(first.latencies) or not len(second.latencies):
        return None
    low = max(float(first.latencies[0]), float(second.latencies[0]))
    high = min(float(first.latencies[-1]), float(second.latencies[-1]))
    return (low, high) if low < high else None


def area_between(baseline: Curve, other: Curve, low: float, high: float) -> float:
    """Integrate (other − baseline) over latency from low to high; exact, as both are linear between knots.

    Returns:
        Quality × milliseconds; divided by (high − low) it is the mean difference.

    >>> area_between(frontier([(0, 0), (2, 2)]), frontier([(0, 1), (2, 3)]), 0.0, 2.0)
    2.0
    """
    knots = np.unique(np.concatenate([[low, high], baseline.latencies, other.latencies]))
    knots = knots[(knots >= low) & (knots <= high)]
    difference = other.at(knots) - baseline.at(knots)
    return float(np.sum(np.diff(knots) * (difference[1:] + difference[:-1]) / 2))
