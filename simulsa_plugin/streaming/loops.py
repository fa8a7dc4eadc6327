"""Repetition: a model that has lost the speech writes the same tokens again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REPETITIONS = 4  # of the same tokens, one after another
REPEATED_TOKENS = 16  # that the repetitions have together at least: "ha ha ha ha" may be said
LONGEST_PERIOD = 40  # tokens


def find_loop(token_ids: Sequence[int]) -> int | None:
    """Find where tokens begin to repeat themselves.

    Returns:
        how many tokens there are until the first repetition begins, one occurrence included; None without a loop.

    >>> find_loop([1, 2, 3] + [4, 5] * 8), find_loop([1, 2, 3, 4] * 3)
    (5, None)
    """
    tokens = np.asarray(token_ids)
    found = [_first_loop(tokens, period) for period in range(1, min(LONGEST_PERIOD, len(tokens) // 2) + 1)]
    return min((start for start in found if start is not None), default=None)


def _first_loop(tokens: np.ndarray[tuple[int], np.dtype[np.int64]], period: int) -> int | None:
    """Return where the second occurrence begins in the first run that repeats with a period; None without one."""
    needed = max(REPETITIONS * period, REPEATED_TOKENS) - period
    same = np.concatenate([[0], tokens[period:] == tokens[:-period], [0]]).astype(np.int8)
    starts, ends = np.flatnonzero(np.diff(same) == 1), np.flatnonzero(np.diff(same) == -1)
    long = np.flatnonzero(ends - starts >= needed)
    return None if not len(long) else int(starts[long[0]]) + period
