"""Rows of text as aligned lines, for terminals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align rows as lines: the first column to the left, the others to the right.

    >>> align([["cell", "BLEU"], ["offline", "9"]])
    ['cell     BLEU', 'offline     9']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(_justify, range(len(row)), row, widths)).rstrip() for row in rows]


def _justify(column: int, text: str, width: int) -> str:
    return text.rjust(width) if column else text.ljust(width)


def list_counts(counts: Mapping[str, int]) -> str:
    """List names with their counts, in the order of the names; "none" where there are none.

    >>> list_counts({"too_short": 2, "audio_missing": 1}), list_counts({})
    ('audio_missing 1, too_short 2', 'none')
    """
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
