"""Stability of a displayed translation: normalised erasure (NE)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

REPLACEMENT_CHARACTER = "\ufffd"  # what incomplete UTF-8 is decoded to


def common_prefix(first: Sequence[object], second: Sequence[object]) -> int:
    """Return the length of the longest common prefix.

    >>> common_prefix(["a", "b"], ["a", "c"])
    1
    """
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def erasure(earlier: Sequence[str], later: Sequence[str]) -> int:
    """Count the units of the earlier output that the later one deletes: those after their longest common prefix.

    A last word that only grows is not deleted, nor is a character of which only the first bytes were decoded.

    Args:
        earlier: units displayed before, shape (m,).
        later: units displayed now, shape (n,).

    >>> erasure(["we", "saw", "him"], ["we", "saw", "her", "again"])
    1
    >>> erasure(["we", "s"], ["we", "saw"]), erasure(["we", "saw"], ["we", "s"])
    (0, 1)
    """
    shown = without_growing(earlier, later)
    return len(shown) - common_prefix(shown, later)


def without_growing(earlier: Sequence[str], later: Sequence[str]) -> list[str]:
    """Return the earlier output without a last unit that the later one only completes.

    >>> without_growing(["we", "s"], ["we", "saw", "him"]), without_growing(["we", "s", "a"], ["we", "saw", "a"])
    (['we'], ['we', 's', 'a'])
    """
    shown = _without_incomplete_character(earlier)
    kept = common_prefix(shown, later)
    grows = kept == len(shown) - 1 and kept < len(later) and later[kept].startswith(shown[kept])
    return shown[:-1] if grows else shown


def _without_incomplete_character(units: Sequence[str]) -> list[str]:
    """Return the units without the replacement of an incomplete character at their end."""
    shown = list(units)
    while shown and shown[-1].endswith(REPLACEMENT_CHARACTER):
        shown[-1:] = [rest] if (rest := shown[-1].rstrip(REPLACEMENT_CHARACTER)) else []
    return shown


def erased_units(outputs: Iterable[Sequence[str]]) -> int:
    """Count the units deleted over all steps of an utterance; what a step rewrites unchanged does not count.

    NE of a corpus is Σ erased units / Σ units of the final outputs (micro-average).

    Args:
        outputs: units displayed after each step, in order.

    Source: Arivazhagan et al. 2020 (arXiv 1912.03393).

    >>> erased_units([["a"], ["b"], ["b", "c"]])
    1
    """
    return sum(itertools.starmap(erasure, itertools.pairwise(outputs)))
