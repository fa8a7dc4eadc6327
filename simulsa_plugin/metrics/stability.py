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


def erased_units(outputs: Iterable[Sequence[str]]) -> int:
    """Units taken back over all steps of an utterance; what is deleted and written again the same counts as nothing.

    NE of a corpus is Σ erased units / Σ units of the final outputs: every unit weighs the same, long utterances are
    not averaged with short ones.

    Args:
        outputs: units shown after each step, in order.

    Source: Arivazhagan et al. 2020 (arXiv 1912.03393).

    >>> erased_units([["a"], ["b"], ["b", "c"]])
    1
    """
    return sum(itertools.starmap(erasure, itertools.pairwise(outputs)))
