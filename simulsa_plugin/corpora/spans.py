"""Times in manifests, checked: what is read from a file may be anything."""

from __future__ import annotations

import math
import re
from typing import Any

from simulsa_plugin.audio import MAX_DURATION_SECONDS
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.recordings import Span

MAX_CHANNELS = 64
# Python reads more as numbers than any manifest means: 1_0, ١, inf.
_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
_CHANNEL = re.compile(r"\d{1,2}(?:\.0)?", re.ASCII)


def span_of(start: object, end: object, place: str) -> Span:
    """The part of a recording from `start` to `end`, in seconds; numbers, or text that is one.

    Args:
        start: from the start of the recording.
        end: likewise; None is the end of the recording.
        place: a file and a line, for messages.

    Raises:
        DatasetError: a time is no number, negative, or beyond what any recording lasts.
    """
    return Span(seconds(start, "start", place), None if end is None else seconds(end, "end", place))


def span_from(offset: object, duration: object, place: str) -> Span:
    """The part of a recording that begins at `offset` and lasts `duration` seconds; None is its end.

    Raises:
        DatasetError: as `span_of`.
    """
    start = seconds(offset, "offset", place)
    return Span(start, None if duration is None else start + seconds(duration, "duration", place))


def seconds(value: object, what: str, place: str) -> float:
    """A time in a manifest.

    Raises:
        DatasetError: as `span_of`.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        if isinstance(value, str) and not _NUMBER.fullmatch(value):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        shown = repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"
        raise DatasetError(f"{place}: the {what} is {shown}; expected seconds.") from None
    if not math.isfinite(number) or not 0 <= number <= MAX_DURATION_SECONDS:
        raise DatasetError(f"{place}: the {what} is {number:g}; allowed: 0 to {MAX_DURATION_SECONDS:.0f} seconds.")
    return number


def channel_of(value: Any, place: str) -> int | None:
    """A channel in a manifest, from 0; None where it says none.

    Raises:
        DatasetError: it is no channel.
    """
    if value is None:
        return None
    text = "" if isinstance(value, bool) else str(value)  # 1.0 is how pandas writes 1 beside missing values
    if _CHANNEL.fullmatch(text) and float(text) < MAX_CHANNELS:
        return int(float(text))
    raise DatasetError(f"{place}: the channel is {str(value)[:80]!r}; allowed: 0 to {MAX_CHANNELS - 1}.")
