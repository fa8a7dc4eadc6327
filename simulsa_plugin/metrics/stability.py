"""Stability of a translation that is shown while it may still change."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

REPLACEMENT = "\ufffd"  # what a decoder shows for the first bytes of an unfinished character


def common_prefix(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common prefix.

    >>> common_prefix(["a", "b"], ["a", "c"])
    1
    """
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def erasure(earlier: Sequence[str], later: Sequence[str]) -> int:
    """Units of the earlier output that the later one takes back: those after their longest common prefix.

    A last word that only grows is not taken back, and neither is a character whose first bytes alone were there: on the
    screen nothing is deleted.

    Args:
        earlier: units shown before, shape (m,).
        later: units shown now, shape (n,).

    >>> erasure(["we", "saw", "him"], ["we", "saw", "her", "again"])
    1
    >>> erasure(["we", "s"], ["we", "saw"]), erasure(["we", "saw"], ["we", "s"])
    (0, 1)
    """
    shown = without_growing(earlier, later)
    return len(shown) - common_prefix(shown, later)


def without_growing(earlier: Sequence[str], later: Sequence[str]) -> list[str]:
    """The earlier output without a last unit that the later one only completes.

    >>> without_growing(["we", "s"], ["we", "saw", "him"]), without_growing(["we", "s", "a"], ["we", "saw", "a"])
    (['we'], ['we', 's', 'a'])
    """
    shown = _without_half_character(earlier)
    kept = common_prefix(shown, later)
    grows = kept == len(shown) - 1 and kept < len(later) and later[kept].startswith(shown[kept])
    return shown[:-1] if grows else shown


def _without_half_character(units: Sequence[str]) -> list[str]:
    """The units without what stands for the bytes of an unfinished character at their end."""
    shown = list(units)
    while shown and shown[-1].endswith(REPLACEMENT):
        shown[-1:] = [rest] if (rest := shown[-1].rstrip(REPLACEMENT)) else []
    return shown


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
