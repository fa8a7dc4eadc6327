"""What is said of rows of a test set that are skipped: a mean without them looks like one of the whole set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def skipped_note(skipped: Sequence[Mapping[str, Any]], listed_in: str) -> list[str]:
    """Return a line with the number of skipped rows (or segments) of each reason, and the first of each; none without.

    Args:
        skipped: each with `id` and `reason`, as scores.json and frontier.json list them.
        listed_in: the file that lists them.

    >>> skipped_note([{"id": "test-00000004", "reason": "audio_broken"}], "scores.json")
    ['skipped in every cell: audio_broken 1 (first test-00000004); rows count from 0, scores.json lists all']
    """
    if not skipped:
        return []
    first: dict[str, str] = {}
    for one in skipped:
        first.setdefault(str(one["reason"]), str(one["id"]))
    counts = Counter(str(one["reason"]) for one in skipped).most_common()
    reasons = ", ".join(f"{reason} {count} (first {first[reason]})" for reason, count in counts)
    return [f"skipped in every cell: {reasons}; rows count from 0, {listed_in} lists all"]
