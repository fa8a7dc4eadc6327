"""Checks of a log: problems are counted line by line, with one warning for each kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from simulsa_plugin.errors import LogError
from simulsa_plugin.logs.content_checks import SecondsDetector, has_early_elapsed, has_special_token, has_subwords
from simulsa_plugin.logs.reader import LineNumbers, Log
from simulsa_plugin.logs.recordings import Recording
from simulsa_plugin.logs.simuleval import without_end_mark
from simulsa_plugin.metrics.records import (
    LATENCY_UNITS,
    EmissionRecord,
    LatencyUnit,
    count_units,
    fits_unit,
    has_unpaired_elapsed,
    is_non_monotone,
)

_KINDS = {
    "non_monotone": "delays fall; scored as SimulEval does",
    "unit_mismatch": "the number of delays is not the number of units; scored by its delays, as SimulEval does",
    "unpaired_elapsed": "not one elapsed time per delay; _CA is scored by the times that are there",
    "early_elapsed": "elapsed is below the delay, a negative computation time; elapsed is in milliseconds since the "
    "source began, computation included",
    "no_source_length": "no source_length; only ATD and StartOffset can be computed",
    "no_reference": "the reference is null; the length of the prediction is used, BLEU and chrF skip it",
    "missing_reference": "no reference; read as an empty text, as SimulEval does (set them with --references FILE)",
    "repeated_index": "repeated index; every line is scored, SimulEval would keep the last",
    "subwords": "subwords in the prediction (▁, Ġ, @@ or ##): each counts as a word",
    "special_tokens": "a special token of a chat template in the prediction; it counts as a word, with its delay",
}
_WITHOUT_STRICT = "Fix the log, or score it without --strict."


class LogChecker:
    """Checks the records of a log while they are read."""

    def __init__(self, log: Log, unit: LatencyUnit, *, strict: bool = False) -> None:
        self._log, self._unit, self._strict = log, unit, strict
        self._lines = {kind: LineNumbers() for kind in _KINDS}
        self._lines |= {"missing_reference": log.missing_reference, "repeated_index": log.repeated_index}
        self._unit_check = _UnitCheck(log.path, unit)
        self._seconds = SecondsDetector()

    def checked_records(self) -> Iterator[EmissionRecord]:
        """Yield the records of the log after checking each.

        Raises:
            LogError: the log cannot be read; the unit does not fit most lines; with `strict`, a line has a problem.
        """
        for number, record in enumerate(self._log.records(), 1):
            self._check(number, record)
            yield record
        self._check_all()

    def checked_recordings(self) -> Iterator[Recording]:
        """Yield the recordings of a long-form log after checking the record of each. Raises as `checked_records`."""
        for one in self._log.recordings():
            # their references are those of the segments
            self._check(one.record.index + 1, dataclasses.replace(one.record, reference=""))
            yield one
        self._check_all()

    def _check_all(self) -> None:
        self._unit_check.check()
        if self._strict and (reason := self._seconds.reason()):
            raise LogError(f"{self._log.path}: {reason}. {_WITHOUT_STRICT}")

    def found(self) -> Mapping[str, LineNumbers]:
        """Return the lines of each kind of problem; kinds without a line are absent."""
        return {kind: lines for kind, lines in self._lines.items() if lines.count}

    def warnings(self) -> Iterator[str]:
        """Yield a warning for each kind of problem."""
        for kind, lines in self.found().items():
            yield f"{self._log.path}, {_list_lines(lines)}: {_KINDS[kind]} ({kind}: {lines.count})"
        if reason := self._seconds.reason():
            yield f"{self._log.path}: {reason}"
        yield from self._log.warnings()
        if self._log.end_marks:
            done = "kept as a word in" if self._log.keeps_end_marks else "left out of"
            yield (
                f"{self._log.path}: the end mark </s> and its delay are {done} {self._log.end_marks} "
                f"predictions ({self._log.form})"
            )

    def _check(self, number: int, record: EmissionRecord) -> None:
        self._lines |= {
            "missing_reference": self._log.missing_reference,
            "repeated_index": self._log.repeated_index,
        }
        self._unit_check.add(number, record)
        self._seconds.add(record)
        for kind, has_problem in (
            ("non_monotone", is_non_monotone(record)),
            ("unit_mismatch", not fits_unit(record, self._unit)),
            ("unpaired_elapsed", has_unpaired_elapsed(record)),
            ("early_elapsed", has_early_elapsed(record)),
            ("no_source_length", record.source_length is None),
            ("no_reference", record.reference is None),
            ("subwords", has_subwords(record)),
            ("special_tokens", has_special_token(self._without_kept_mark(record))),
        ):
            if has_problem:
                self._lines[kind].add(number)
        if self._strict and (found := self.found()):
            kind, lines = next(iter(found.items()))
            raise LogError(f"{self._log.path}, line {lines.first[0]}: {_KINDS[kind]}. {_WITHOUT_STRICT}")

    def _without_kept_mark(self, record: EmissionRecord) -> EmissionRecord:
        return without_end_mark(record) if self._log.keeps_end_marks else record


class _UnitCheck:
    """Counts the lines that a latency unit fits, among those that have text and delays."""

    def __init__(self, path: Path, unit: LatencyUnit) -> None:
        self._path, self._unit = path, unit
        self._checked = 0
        self._fitting = dict.fromkeys(LATENCY_UNITS, 0)
        self._unfit: tuple[int, EmissionRecord] | None = None

    def add(self, number: int, record: EmissionRecord) -> None:
        if not record.delays or not record.prediction.strip():
            return
        self._checked += 1
        for unit in LATENCY_UNITS:
            self._fitting[unit] += fits_unit(record, unit)
        if self._unfit is None and not fits_unit(record, self._unit):
            self._unfit = number, record

    def check(self) -> None:
        """Raise LogError where the unit does not fit most lines.

        A single line that fits no unit is accepted: the unit may still be right.
        """
        unfit = self._checked - self._fitting[self._unit]
        better = max(LATENCY_UNITS, key=self._fitting.__getitem__)
        lone = self._checked == 1 and not self._fitting[better]
        if self._unfit is None or 2 * unfit <= self._checked or lone:
            return
        number, record = self._unfit
        advice = (
            f"Give --unit {better}, which fits {self._fitting[better]}."
            if self._fitting[better] > self._fitting[self._unit]
            else "Neither unit fits: check that there is one delay per word or per character."
        )
        raise LogError(
            f"{self._path}, line {number}: {len(record.delays)} delays for "
            f"{count_units(record.prediction, self._unit)} units; the unit {self._unit} does not fit {unfit} of "
            f"{self._checked} lines. {advice}"
        )


def _list_lines(lines: LineNumbers) -> str:
    """List the line numbers, at most the first twelve."""
    more = f" and {lines.count - len(lines.first)} more" if lines.count > len(lines.first) else ""
    return f"line{'s' if lines.count > 1 else ''} {', '.join(map(str, lines.first))}{more}"
