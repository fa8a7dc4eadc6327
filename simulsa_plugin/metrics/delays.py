"""Delays of units from the steps of a session: three definitions of delay, three clocks of computation.

- `committed`, the headline: the audio received by the first step whose committed text holds the unit whole and cannot
  extend it: a word also needs the space after it, or the end. From then on the unit is final.
- `first_stable`: the first step from which on every shown text holds the unit, and all before it, as the final text
  does. From then on the unit is displayed, though the system may not have committed to it.
- `last_written`: the last step that wrote the unit, also where it rewrote it unchanged.

first_stable ≤ last_written ≤ committed. Which step it was is all that differs, so that every clock can time each.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
from simulsa_plugin.metrics.stability import REPLACEMENT_CHARACTER, common_prefix, erased_units

DelayKind = Literal["committed", "first_stable", "last_written"]
Clock = Literal["cumulative", "per_step", "queue"]
DELAY_KINDS: tuple[DelayKind, ...] = get_args(DelayKind)
CLOCKS: tuple[Clock, ...] = get_args(Clock)


@dataclass(frozen=True)
class ShownStep:
    """One step of a session in text.

    Attributes:
        audio_ms: milliseconds of source received.
        shown: the displayed text.
        committed: the part of it that will not change, white space at its end included.
        finished: whether this is the last step, with the whole utterance.
        compute_ms: milliseconds that the step took; None where it was not measured, or nothing was generated.
        truncated: the limit on new tokens came before the end of turn.
        looping: the model repeated itself, and its output was cut.
    """

    audio_ms: float
    shown: str
    committed: str
    finished: bool
    compute_ms: float | None = None
    truncated: bool = False
    looping: bool = False


def emission_record(
    steps: Sequence[ShownStep], index: int, reference: str | None, source: str, unit: LatencyUnit
) -> EmissionRecord:
    """Make the record of a finished session: committed delays, and SimulEval's elapsed times where measured."""
    final = split_units(steps[-1].shown, unit)
    return EmissionRecord(
        index,
        " ".join(final) if unit == "word" else "".join(final),
        reference,
        tuple(unit_delays(steps, unit, "committed")),
        elapsed_times(steps, unit, "cumulative") if is_measured(steps) else None,
        steps[-1].audio_ms,
        source,
        erased_units(split_units(step.shown, unit) for step in steps),
    )


def stream_record(
    sessions: Sequence[Sequence[ShownStep]],
    index: int,
    reference: str | None,
    source: str,
    source_length: float,
    unit: LatencyUnit,
) -> EmissionRecord:
    """Make the record of a recording that was decoded in several sessions, one after another.

    Args:
        sessions: steps of each, with times of the recording; none where there was no speech.
        index: of the recording.
        reference: of the whole recording.
        source: of the recording.
        source_length: milliseconds of the recording.
        unit: word or char.
    """
    records = [emission_record(steps, index, None, source, unit) for steps in sessions]
    steps = [step for session in sessions for step in session]
    return EmissionRecord(
        index,
        (" " if unit == "word" else "").join(record.prediction for record in records if record.prediction),
        reference,
        tuple(stream_delays(sessions, unit, "committed")),
        stream_elapsed(sessions, unit, "cumulative") if steps and is_measured(steps) else None,
        source_length,
        source,
        sum(record.erased or 0 for record in records),
    )


def stream_delays(sessions: Sequence[Sequence[ShownStep]], unit: LatencyUnit, kind: DelayKind) -> list[float]:
    """Return the delay of each unit of a recording, milliseconds; see `stream_record`."""
    return [delay for steps in sessions for delay in unit_delays(steps, unit, kind)]


def stream_elapsed(sessions: Sequence[Sequence[ShownStep]], unit: LatencyUnit, clock: Clock) -> tuple[float, ...]:
    """Return when each unit of a recording was committed on a clock, milliseconds; see `elapsed_times`."""
    ends = list(_step_ends([step for steps in sessions for step in steps], clock))
    starts = itertools.accumulate((len(steps) for steps in sessions), initial=0)
    return tuple(
        ends[start + number]
        for start, steps in zip(starts, sessions, strict=False)
        for number in unit_steps(steps, unit, "committed")
    )


def unit_delays(steps: Sequence[ShownStep], unit: LatencyUnit, kind: DelayKind) -> list[float]:
    """Return the delay of each unit of the final text, milliseconds of source."""
    return [steps[index].audio_ms for index in unit_steps(steps, unit, kind)]


def elapsed_times(steps: Sequence[ShownStep], unit: LatencyUnit, clock: Clock) -> tuple[float, ...]:
    """Return when each unit was committed on a clock, milliseconds; the steps must be measured.

    - `cumulative`, SimulEval's: the audio received, and all computation so far, as if none ran while audio came in.
    - `per_step`, simulstream's: the audio received, and the computation of that step, as if each step found the machine
      free.
    - `queue`: a step starts when its audio has arrived *and* the step before it is done. This is what a user waits.
    """
    ends = list(_step_ends(steps, clock))
    return tuple(ends[index] for index in unit_steps(steps, unit, "committed"))


def is_measured(steps: Sequence[ShownStep]) -> bool:
    """Whether computation was measured; steps with too little audio to be decoded take no time."""
    return any(step.compute_ms is not None for step in steps)


def unit_steps(steps: Sequence[ShownStep], unit: LatencyUnit, kind: DelayKind) -> list[int]:
    """Return the step that a delay refers to, for each unit of the final text.

    >>> steps = [ShownStep(500, "we", "", False), ShownStep(1000, "we go", "we", False),
    ...          ShownStep(1500, "we went", "we went", True)]
    >>> [unit_steps(steps, "word", name) for name in ("first_stable", "last_written", "committed")]
    [[0, 2], [1, 2], [2, 2]]
    """
    final = split_units(steps[-1].shown, unit)
    shown = [common_prefix(split_units(step.shown, unit), final) for step in steps]
    if kind == "first_stable":
        return _first_steps(_lasting_counts(shown), len(final))
    if kind == "last_written":
        kept = [common_prefix(split_units(step.committed, unit), final) for step in steps]
        return _first_steps(_lasting_counts(map(min, shown, kept)), len(final))
    whole = (common_prefix(complete_units(step.committed, unit, step.finished), final) for step in steps)
    return _first_steps(itertools.accumulate(whole, max), len(final))


def split_units(text: str, unit: LatencyUnit) -> list[str]:
    """Split a text into words at white space, or into characters after stripping.

    >>> split_units(" guten Tag ", "word"), split_units("你好 ", "char")
    (['guten', 'Tag'], ['你', '好'])
    """
    return text.split() if unit == "word" else list(text.strip())


def complete_units(text: str, unit: LatencyUnit, finished: bool) -> list[str]:
    """Return the units that no further token can extend.

    >>> complete_units("guten Ta", "word", False), complete_units("guten Ta ", "word", False)
    (['guten'], ['guten', 'Ta'])
    >>> complete_units("你\ufffd", "char", False)
    ['你']
    """
    if finished:
        return split_units(text, unit)
    if unit == "char":
        return split_units(text.rstrip(REPLACEMENT_CHARACTER), unit)
    words = text.split()
    return words if text[-1:].isspace() else words[:-1]


def join_texts(before: str, after: str) -> str:
    """Join the text that has left the window with the text of the window; a space separates them where words have any.

    >>> join_texts("Guten Tag.", "Wie geht"), join_texts("Guten Tag.", ""), join_texts("你好", "吗")
    ('Guten Tag. Wie geht', 'Guten Tag. ', '你好吗')
    """
    if not before:
        return after
    wide = any(unicodedata.east_asian_width(char) in "WF" for char in (before[-1], *after[:1]))
    return before + ("" if wide else " ") + after.lstrip()


def _lasting_counts(counts: Iterable[int]) -> list[int]:
    """Return the number of units that are present at each step and at all later ones."""
    return list(itertools.accumulate(reversed(list(counts)), min))[::-1]


def _first_steps(counts: Iterable[int], total: int) -> list[int]:
    """Return the first step at which each unit is present, from counts that never fall."""
    found: list[int] = []
    for index, count in enumerate(counts):
        found += [index] * (min(count, total) - len(found))
    return found


def _step_ends(steps: Sequence[ShownStep], clock: Clock) -> Iterator[float]:
    computed = end = 0.0
    for step in steps:
        spent = step.compute_ms or 0.0
        computed += spent
        end = max(step.audio_ms, end) + spent
        yield {"cumulative": step.audio_ms + computed, "per_step": step.audio_ms + spent, "queue": end}[clock]
