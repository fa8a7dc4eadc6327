"""Successive halving: which cells may be the best within a latency budget, and are decoded on more utterances.

`qualities` and `latencies` are values on resamples of the same utterances, shape (cells, resamples), NaN where a
resample has no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulsa_plugin.metrics.arrays import FloatArray

FIRST_UTTERANCES = 6  # fewer give no useful estimate
DEV_SHARES = (1 / 32, 1 / 8, 1 / 2, 1.0)  # of the dev set, one for each rung
KEPT_SHARE = 1 / 4  # of the cells, from one rung to the next
NEIGHBOUR_SHARE = 1 / 4  # of a cell's share that its neighbours get at least, if decoded on the fewest utterances
MIN_KEPT = 3  # cells for each budget, as the best on few utterances may be too slow on all
_TIE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Goal:
    """Objective of a search.

    Attributes:
        budgets: milliseconds of mean latency, increasing.
        latency: metric of the budgets.
        quality: metric to be maximized.
    """

    budgets: tuple[float, ...]
    latency: str = "LAAL"
    quality: str = "BLEU"


def rungs(utterances: int, first: int = FIRST_UTTERANCES) -> list[int]:
    """Return the numbers of utterances, or recordings, on which the remaining cells are decoded, increasing to all.

    Args:
        utterances: how many there are.
        first: the least number.

    >>> rungs(200), rungs(10), rungs(3)
    ([6, 25, 100, 200], [6, 10], [3])
    """
    return sorted({min(utterances, max(first, int(utterances * share))) for share in DEV_SHARES})


def planned_rungs(cells: int, utterances: int, budgets: int) -> list[tuple[int, int]]:
    """Return (cells, new utterances for each) of every rung of a search in which no cell comes back after the last.

    >>> planned_rungs(10, 6, 1), planned_rungs(100, 200, 1)
    ([(10, 6)], [(100, 6), (25, 19), (6, 75), (3, 100)])
    """
    planned, before, left = [], 0, cells
    for number, rung in enumerate(rungs(utterances), 1):
        planned.append((left, rung - before))
        kept = max(MIN_KEPT, -(-round(cells * KEPT_SHARE**number) // budgets))
        before, left = rung, min(left, budgets * kept)
    return planned


def best_shares(qualities: FloatArray, latencies: FloatArray, budget: float) -> FloatArray:
    """Return the share of resamples in which each cell is the best within a budget, shape (cells,); ties are divided.

    Where no cell of a resample is within the budget, the fastest counts as the best.

    >>> best_shares(np.array([[50.0, 50.0], [60.0, 60.0]]), np.array([[500.0, 500.0], [900.0, 1100.0]]), 1000.0)
    array([0.5, 0.5])
    """
    slow = np.where(np.isnan(latencies), np.inf, latencies)
    within = np.where(slow <= budget, np.nan_to_num(qualities), -np.inf)
    worth = np.where(np.isinf(within).all(axis=0), -slow, within)
    best = (worth >= worth.max(axis=0) - _TIE_TOLERANCE) & ~np.isinf(worth)
    shares: FloatArray = (best / np.maximum(best.sum(axis=0), 1)).mean(axis=1)
    return shares


def neighbours(positions: Sequence[tuple[str, int, int]]) -> list[list[int]]:
    """Return the neighbours of each cell: the same policy with the next chunk, or the next value of its parameters.

    Args:
        positions: policy, index of the chunk and index of the parameters of each cell.

    >>> neighbours([("wait_k", 0, 0), ("wait_k", 0, 1), ("wait_k", 1, 1), ("rollback", 0, 0)])
    [[1], [0, 2], [1], []]
    """
    cell_at = {position: cell for cell, position in enumerate(positions)}
    return [
        sorted(
            cell_at[neighbour]
            for chunk_step, value_step in ((1, 0), (-1, 0), (0, 1), (0, -1))
            if (neighbour := (policy, chunk + chunk_step, value + value_step)) in cell_at
        )
        for policy, chunk, value in positions
    ]


def shares_with_neighbours(
    shares: FloatArray, neighbours_of: Sequence[Sequence[int]], utterances: Sequence[int]
) -> FloatArray:
    """Raise the shares of cells whose neighbours are often the best, as metrics change little between neighbours.

    The fewer utterances a cell was decoded on, the more its neighbours count.

    Args:
        shares: of the cells, shape (cells,); 0 for dropped ones.
        neighbours_of: `neighbours` of each.
        utterances: number of utterances on which each was decoded.

    >>> shares_with_neighbours(np.array([0.8, 0.0, 0.0]), [[1], [0, 2], [1]], [25, 6, 6])
    array([0.8, 0.2, 0. ])
    """
    least = [
        max((shares[one] for one in others), default=0.0) * NEIGHBOUR_SHARE * min(1.0, FIRST_UTTERANCES / count)
        for others, count in zip(neighbours_of, utterances, strict=True)
    ]
    return np.maximum(shares, least)


def spread_order(sizes: Sequence[int]) -> list[int]:
    """Return an order of positions every prefix of which is spread over all sizes (bit-reversal permutation).

    >>> spread_order([10, 20, 30, 40])
    [0, 2, 1, 3]
    """
    bits = max(1, (len(sizes) - 1).bit_length())
    by_size = sorted(range(len(sizes)), key=lambda position: (sizes[position], position))
    return [by_size[rank] for rank in sorted(range(len(sizes)), key=lambda rank: int(f"{rank:0{bits}b}"[::-1], 2))]


def best_within(qualities: Sequence[float | None], latencies: Sequence[float | None], budget: float) -> int | None:
    """Return the position of the best quality within a budget, the fastest of equals; None where none is within it.

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
    """Return the cells to be decoded on more utterances: for each budget those of the largest share.

    Args:
        shares: of each budget, shape (cells,).
        values: (quality, latency) of each cell on its utterances so far, to order cells of equal share.
        goal: the budgets.
        keep: number of cells for all budgets together; at least MIN_KEPT for each.

    Returns:
        Positions of the cells, in order.
    """
    each = max(MIN_KEPT, -(-keep // len(goal.budgets)))
    kept: set[int] = set()
    for budget, share in zip(goal.budgets, shares, strict=True):
        order = sorted(range(len(values)), key=lambda cell: (-share[cell], *_order_by_value(*values[cell], budget)))
        kept.update(order[:each])
    return sorted(kept)


def _order_by_value(quality: float | None, latency: float | None, budget: float) -> tuple[bool, float]:
    """Return a sort key: cells within the budget by quality, then those beyond it by latency."""
    if quality is None or latency is None:
        return True, float("inf")
    return (True, latency) if latency > budget else (False, -quality)
