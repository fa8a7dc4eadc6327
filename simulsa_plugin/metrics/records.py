"""The emission record: the translation of an utterance, and when each unit of it was written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from simulsa_plugin.errors import LogError, UsageError

LatencyUnit = Literal["word", "char"]
LATENCY_UNITS: tuple[LatencyUnit, ...] = get_args(LatencyUnit)
END_MARK = "</s>"  # which SimulEval 1.0 appends to a prediction, with a delay
LONGEST_MS = 1e13  # about 300 years: longer times are errors, and their sums overflow


@dataclass(frozen=True)
class EmissionRecord:
    """One instance of a log.

    Attributes:
        index: number of the utterance in its corpus.
        prediction: the text written.
        reference: the reference text, as written in the log or the references file; None where it is null.
        delays: milliseconds of source received when each latency unit of the prediction was written, shape (units,).
        elapsed: the same with the time of computation added, shape (units,); None where it was not measured.
        source_length: milliseconds of source; None where it is unknown.
        source: name of the audio, or the lines that SimulEval writes about it.
        erased: displayed units that were deleted again (see `stability.erased_units`); None where it is not known.
        recording_end: of a segment of a recording, milliseconds to the end of the recording; None for whole recordings.
        text_source: whether the source is text; times then count its tokens instead of milliseconds.
        recording: of a segment of a recording, the name of the recording; None where it is not known.

    Raises:
        LogError: a time is not finite, or beyond LONGEST_MS.
    """

    index: int
    prediction: str
    reference: str | None
    delays: tuple[float, ...]
    elapsed: tuple[float, ...] | None = None
    source_length: float | None = None
    source: str | tuple[str, ...] = ""
    erased: int | None = None
    recording_end: float | None = None
    text_source: bool = False
    recording: str | None = None

    def __post_init__(self) -> None:
        _check_times("delays", self.delays)
        _check_times("elapsed", self.elapsed or ())
        _check_times("source_length", () if self.source_length is None else (self.source_length,))
        _check_times("time_to_recording_end", () if self.recording_end is None else (self.recording_end,))
        if self.source_length is not None and self.source_length < 0:
            raise LogError(f"source_length is {self.source_length}; allowed: milliseconds, 0 or more.")


def count_units(text: str, unit: LatencyUnit) -> int:
    """Count the latency units of a prediction: words at white space, or characters of the stripped text.

    >>> count_units(" guten  Tag ", "word"), count_units(" 你好 吗 ", "char")
    (2, 4)

    Raises:
        UsageError: `unit` is neither word nor char.
    """
    check_unit(unit)
    return len(text.split()) if unit == "word" else len(text.strip())


def simuleval_reference_length(text: str, unit: LatencyUnit) -> int:
    """Count a reference as SimulEval does: between single spaces, so that two spaces in a row enclose a word.

    Source: SimulEval 1.1.4, the instances' `reference_length`.

    >>> simuleval_reference_length("a  b", "word"), simuleval_reference_length("", "word")
    (3, 1)
    """
    check_unit(unit)
    return len(text.split(" ")) if unit == "word" else len(text.strip())


def check_unit(unit: str) -> LatencyUnit:
    """Return a latency unit; raise UsageError for any other name."""
    for allowed in LATENCY_UNITS:
        if unit == allowed:
            return allowed
    raise UsageError(f"The latency unit is {unit!r}; allowed: {', '.join(LATENCY_UNITS)}.")


def is_empty(record: EmissionRecord) -> bool:
    """Return whether nothing was emitted; SimulEval's means skip such instances."""
    return not record.delays


def is_non_monotone(record: EmissionRecord) -> bool:
    """Return whether a unit has a smaller delay than the one before it.

    >>> is_non_monotone(EmissionRecord(0, "a b", "a b", (200.0, 100.0)))
    True
    """
    return list(record.delays) != sorted(record.delays)


def fits_unit(record: EmissionRecord, unit: LatencyUnit) -> bool:
    """Return whether there is one delay per unit of the prediction.

    SimulEval's char logs do not count spaces, ours do: both counts fit. An end mark in the text is one unit. Characters
    of a segment of a recording include the spaces at its ends.

    >>> fits_unit(EmissionRecord(0, "guten Tag", "", (1.0, 2.0)), "word")
    True
    """
    text = record.prediction.strip()
    content = text.removesuffix(END_MARK)
    marks = int(content != text)
    counts = {count_units(content, unit)}
    if unit == "char":
        counts.add(len(content.replace(" ", "")))
        counts |= set() if record.recording_end is None else {len(record.prediction)}
    return len(record.delays) - marks in counts


def has_unpaired_elapsed(record: EmissionRecord) -> bool:
    """Return whether there are elapsed times, but not one per delay."""
    return bool(record.elapsed) and len(record.elapsed or ()) != len(record.delays)


def _check_times(name: str, times: Sequence[float]) -> None:
    if not times or (math.isfinite(sum(times)) and -LONGEST_MS <= min(times) and max(times) <= LONGEST_MS):
        return
    for time in times:
        if not math.isfinite(time) or abs(time) > LONGEST_MS:
            raise LogError(f"{name} holds {time:g}; allowed: finite milliseconds up to {LONGEST_MS:g}.")
