"""Stability of a translation that is shown while it may still change."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence


def common_prefix(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common prefix.

    >>> common_prefix(["a", "b"], ["a", "c"])
    1
    """
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def erasure(earlier: Sequence[str], later: Sequence[str]) -> int:
    """Units of the earlier output that the later one takes back: those after their longest common prefix.

    Args:
        earlier: units shown before, shape (m,).
        later: units shown now, shape (n,).

    >>> erasure(["we", "saw", "him"], ["we", "saw", "her", "again"])
    1
    """
    return len(earlier) - common_prefix(earlier, later)


def normalized_erasure(outputs: Iterable[Sequence[Sequence[str]]]) -> float | None:
    """NE of a corpus: Σ erasures between consecutive outputs / Σ lengths of the final outputs, over all utterances.

    Every unit of the corpus weighs the same; long utterances are not averaged with short ones.

    Args:
        outputs: per utterance the units shown at each step, in order.

    Returns:
        Units taken back per unit of the final text; None where all final outputs are empty.

    Source: Arivazhagan et al. 2020 (arXiv 1912.03393).

    >>> normalized_erasure([[["a"], ["b"], ["b", "c"]], [["d"], ["d", "e"]]])
    0.25
    """
    erased = final_length = 0
    for steps in outputs:
        erased += sum(itertools.starmap(erasure, itertools.pairwise(steps)))
        final_length += len(steps[-1]) if steps else 0
    return erased / final_length if final_length else None
