"""Decoded steps to emission records: which unit was committed after how much audio."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.stability import common_prefix
from simulsa_plugin.streaming.session import REPLACEMENT, Step


def emission_record(
    steps: Sequence[Step], index: int, reference: str, source: str, unit: str, decode: Callable[[Sequence[int]], str]
) -> EmissionRecord:
    """The record of a finished session, with committed delays, and elapsed times where all steps were measured.

    A unit's delay is the audio time of the first step whose committed text contains it whole and cannot extend it: a
    word also needs the space after it, or the end. `elapsed` runs on SimulEval's clock: the delay, and all computation
    up to the end of that step.

    Args:
        steps: of the session.
        index: number of the instance in its log.
        reference: reference translation.
        source: name of the audio.
        unit: word or char.
        decode: token ids to text, special tokens left out.
    """
    final = split_units(decode(steps[-1].token_ids), unit)
    delays: list[float] = []
    elapsed: list[float] = []
    computed = 0.0
    for step in steps:
        computed += step.compute_ms or 0.0
        text = decode(step.token_ids[: step.committed_tokens])
        settled = common_prefix(complete_units(text, unit, step.finished), final)
        new = settled - len(delays)
        delays += [step.audio_ms] * new
        elapsed += [step.audio_ms + computed] * new
    prediction = " ".join(final) if unit == "word" else "".join(final)
    measured = steps[-1].compute_ms is not None
    return EmissionRecord(
        index, prediction, reference, tuple(delays), tuple(elapsed) if measured else None, steps[-1].audio_ms, source
    )


def shown_units(steps: Sequence[Step], unit: str, decode: Callable[[Sequence[int]], str]) -> list[list[str]]:
    """What stood on the screen after each step, in units."""
    return [split_units(decode(step.token_ids), unit) for step in steps]


def split_units(text: str, unit: str) -> list[str]:
    """Words by white space, or characters of the stripped text.

    >>> split_units(" guten Tag ", "word"), split_units("你好 ", "char")
    (['guten', 'Tag'], ['你', '好'])
    """
    return text.split() if unit == "word" else list(text.strip())


def complete_units(text: str, unit: str, finished: bool) -> list[str]:
    """The units that no further token can extend.

    >>> complete_units("guten Ta", "word", False), complete_units("guten Ta ", "word", False)
    (['guten'], ['guten', 'Ta'])
    >>> complete_units("你\ufffd", "char", False)
    ['你']
    """
    if finished:
        return split_units(text, unit)
    if unit == "char":
        return split_units(text.rstrip(REPLACEMENT), unit)
    words = text.split()
    return words if text[-1:].isspace() else words[:-1]
