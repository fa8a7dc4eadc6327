"""Times in manifests, checked: what is read from a file may be anything."""

from __future__ import annotations

import math
import re
from typing import Any

from simulsa_plugin.audio.checks import MAX_DURATION_SECONDS
from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.errors import RowError
from simulsa_plugin.segments import OVERSHOOT_SECONDS

MAX_CHANNELS = 64
# Python reads more as numbers than any manifest means: 1_0, ١, inf.
_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
_CHANNEL = re.compile(r"\d{1,2}(?:\.0)?", re.ASCII)


def span_of(start: object, end: object, place: str) -> Span:
    """Return the part of a recording from `start` to `end`, in seconds; numbers, or text that is one.

    A start up to half a second before the recording is taken as 0, an end up to half a second after it as its end.

    Args:
        start: from the start of the recording.
        end: likewise; None is the end of the recording.
        place: a file and a line, for messages.

    Raises:
        RowError: a time is not a number, is negative, or beyond what any recording lasts.
    """
    begin = _time(start, "start", place, -OVERSHOOT_SECONDS)
    return Span(max(0.0, begin), None if end is None else seconds(end, "end", place))


def span_from(offset: object, duration: object, place: str) -> Span:
    """Return the part of a recording that begins at `offset` and lasts `duration` seconds; None is its end.

    Raises:
        RowError: as `span_of`.
    """
    start = _time(offset, "offset", place, -OVERSHOOT_SECONDS)
    end = None if duration is None else max(0.0, start + seconds(duration, "duration", place))
    return Span(max(0.0, start), end)


def seconds(value: object, what: str, place: str) -> float:
    """Parse a time in a manifest.

    Raises:
        RowError: as `span_of`.
    """
    return _time(value, what, place, 0.0)


def _time(value: object, what: str, place: str, least: float) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        if isinstance(value, str) and not _NUMBER.fullmatch(value):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        shown = repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"
        raise RowError("bad_time", f"{place}: the {what} is {shown}; expected seconds.") from None
    if not math.isfinite(number) or not least <= number <= MAX_DURATION_SECONDS:
        allowed = f"0 to {MAX_DURATION_SECONDS:.0f} seconds"
        raise RowError("bad_time", f"{place}: the {what} is {number:g}; allowed: {allowed}.")
    return number


def channel_of(value: Any, place: str) -> int | None:
    """Parse a channel in a manifest, from 0; None where it has none.

    Raises:
        RowError: it is not a channel.
    """
    if value is None:
        return None
    text = "" if isinstance(value, bool) else str(value)  # 1.0 is how pandas writes 1 beside missing values
    if _CHANNEL.fullmatch(text) and float(text) < MAX_CHANNELS:
        return int(float(text))
    raise RowError("bad_channel", f"{place}: the channel is {str(value)[:80]!r}; allowed: 0 to {MAX_CHANNELS - 1}.")
