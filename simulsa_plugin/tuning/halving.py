"""Which cells may be the best at a latency budget: from resampled values to those that are worth more decoding.

All arrays are over the same utterances: `qualities` and `latencies` have the shape (cells, resamples), NaN where a
resample has no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulsa_plugin.metrics.arrays import FloatArray

FIRST_UTTERANCES = 6  # fewer say nothing
SHARES = (1 / 32, 1 / 8, 1 / 2, 1.0)  # of the dev set, decoded one after the other
KEPT = 1 / 4  # of the cells, from one share to the next
NEIGHBOUR = 1 / 4  # of a cell's share that a cell beside it gets on trust, as long as it was decoded on the fewest
LEAST_KEPT = 3  # cells for each budget: what looks best now may turn out too slow
_TIE = 1e-9


@dataclass(frozen=True)
class Goal:
    """What is tuned for.

    Attributes:
        budgets: milliseconds of mean latency, rising.
        latency: the metric that the budgets are of.
        quality: the metric to be highest.
    """

    budgets: tuple[float, ...]
    latency: str = "LAAL"
    quality: str = "BLEU"


def rungs(utterances: int) -> list[int]:
    """How many utterances of a dev set the cells that are left have been decoded on, rising to all.

    >>> rungs(200), rungs(10), rungs(3)
    ([6, 25, 100, 200], [6, 10], [3])
    """
    return sorted({min(utterances, max(FIRST_UTTERANCES, int(utterances * share))) for share in SHARES})


def best_shares(qualities: FloatArray, latencies: FloatArray, budget: float) -> FloatArray:
    """The share of the resamples in which each cell is the best within a budget, shape (cells,); ties are divided.

    Where no cell of a resample is within the budget, the fastest stands for it.

    >>> best_shares(np.array([[50.0, 50.0], [60.0, 60.0]]), np.array([[500.0, 500.0], [900.0, 1100.0]]), 1000.0)
    array([0.5, 0.5])
    """
    slow = np.where(np.isnan(latencies), np.inf, latencies)
    within = np.where(slow <= budget, np.nan_to_num(qualities), -np.inf)
    worth = np.where(np.isinf(within).all(axis=0), -slow, within)
    best = (worth >= worth.max(axis=0) - _TIE) & ~np.isinf(worth)
    shares: FloatArray = (best / np.maximum(best.sum(axis=0), 1)).mean(axis=1)
    return shares


def neighbours(places: Sequence[tuple[str, int, int]]) -> list[list[int]]:
    """The cells one step away from each: the same policy with the next chunk, or the next value of its parameters.

    Args:
        places: policy, number of the chunk and number of the value of each cell.

    >>> neighbours([("wait_k", 0, 0), ("wait_k", 0, 1), ("wait_k", 1, 1), ("rollback", 0, 0)])
    [[1], [0, 2], [1], []]
    """
    at = {place: cell for cell, place in enumerate(places)}
    return [
        sorted(
            at[beside]
            for step, way in ((1, 0), (-1, 0), (0, 1), (0, -1))
            if (beside := (policy, chunk + step, value + way)) in at
        )
        for policy, chunk, value in places
    ]


def with_trust(shares: FloatArray, beside: Sequence[Sequence[int]], taken: Sequence[int]) -> FloatArray:
    """The shares of cells, or more where a cell beside one is often the best: values change little from step to step.

    The fewer utterances a cell was decoded on, the more its neighbours count.

    Args:
        shares: of the cells, shape (cells,); 0 for those that were given up.
        beside: `neighbours` of each.
        taken: utterances that each was decoded on.

    >>> with_trust(np.array([0.8, 0.0, 0.0]), [[1], [0, 2], [1]], [25, 6, 6])
    array([0.8, 0.2, 0. ])
    """
    trust = [
        max((shares[one] for one in others), default=0.0) * NEIGHBOUR * min(1.0, FIRST_UTTERANCES / count)
        for others, count in zip(beside, taken, strict=True)
    ]
    return np.maximum(shares, trust)


def spread_order(sizes: Sequence[int]) -> list[int]:
    """Positions in an order whose beginnings are all spread over the sizes: the bits of the rank backwards.

    >>> spread_order([10, 20, 30, 40])
    [0, 2, 1, 3]
    """
    bits = max(1, (len(sizes) - 1).bit_length())
    by_size = sorted(range(len(sizes)), key=lambda position: (sizes[position], position))
    return [by_size[rank] for rank in sorted(range(len(sizes)), key=lambda rank: int(f"{rank:0{bits}b}"[::-1], 2))]


def best_within(qualities: Sequence[float | None], latencies: Sequence[float | None], budget: float) -> int | None:
    """The position of the cell tuned at a budget: the best quality, the fastest of equals; None where none is in it.

    >>> best_within([50.0, 60.0, 60.0], [500.0, 900.0, 800.0], 1000.0), best_within([50.0], [500.0], 400.0)
    (2, None)
    """
    ranked = [
        (-quality, latency, position)
        for position, (quality, latency) in enumerate(zip(qualities, latencies, strict=True))
        if quality is not None and latency is not None and latency <= budget
    ]
    return min(ranked)[2] if ranked else None


def promising(
    shares: Sequence[FloatArray], values: Sequence[tuple[float | None, float | None]], goal: Goal, keep: int
) -> list[int]:
    """The cells that are worth more utterances: for each budget those of the largest share.

    Args:
        shares: of each budget, shape (cells,).
        values: (quality, latency) of each cell on its utterances so far; they decide between cells of equal share.
        goal: the budgets.
        keep: cells altogether, divided among the budgets; at least LEAST_KEPT for each.

    Returns:
        Positions of the cells, in order.
    """
    each = max(LEAST_KEPT, -(-keep // len(goal.budgets)))
    kept: set[int] = set()
    for budget, share in zip(goal.budgets, shares, strict=True):
        order = sorted(range(len(values)), key=lambda cell: (-share[cell], *_distance(*values[cell], budget)))
        kept.update(order[:each])
    return sorted(kept)


def _distance(quality: float | None, latency: float | None, budget: float) -> tuple[bool, float]:
    """Orders cells by their values: within the budget by quality, then those beyond it by latency."""
    if quality is None or latency is None:
        return True, float("inf")
    return (True, latency) if latency > budget else (False, -quality)
