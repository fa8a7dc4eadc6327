"""Latencies of a cell by each kind of delay, and on each clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from simulsa_plugin.metrics.columns import MetricColumns
from simulsa_plugin.metrics.delays import (
    CLOCKS,
    DELAY_KINDS,
    ShownStep,
    elapsed_times,
    is_measured,
    stream_delays,
    stream_elapsed,
    unit_delays,
)
from simulsa_plugin.metrics.instance import (
    BASE_LATENCIES,
    CA_CU_SUFFIX,
    CA_SUFFIX,
    LONG_LATENCIES,
    LONG_PREFIX,
    SOURCE_BOUNDED,
    Measure,
    MetricValues,
    computation_aware_latencies,
    latencies,
    same_unit_latencies,
    stream_laal,
    with_delays,
    with_elapsed,
)
from simulsa_plugin.metrics.long_form import STREAM_LAAL, RecordingAlignments
from simulsa_plugin.metrics.mwer_segmentation import is_installed
from simulsa_plugin.metrics.records import EmissionRecord


class _Means:
    """Latencies of a cell by each kind of delay and on each clock, averaged over what is added.

    Attributes:
        truncated_steps: number of steps that reached the limit on new tokens.
    """

    def __init__(self, measure: Measure, metrics: Sequence[str], more: Sequence[str] = ()) -> None:
        self._measure = measure
        same_units = [metric + CA_CU_SUFFIX for metric in SOURCE_BOUNDED]
        self._delays = {name: MetricColumns((*metrics, *more)) for name in DELAY_KINDS}
        self._clocks = {name: MetricColumns((*metrics, *same_units, *more)) for name in CLOCKS}
        self._computed_ms = self._audio_ms = 0.0
        self._measured = False
        self.truncated_steps = 0

    def _count_steps(self, steps: Sequence[ShownStep], audio_ms: float) -> bool:
        """Count steps and the audio that they are about; return whether their computation was measured."""
        self.truncated_steps += sum(step.truncated for step in steps)
        measured = bool(steps) and is_measured(steps)
        if measured:
            self._measured = True
            self._computed_ms += sum(step.compute_ms or 0.0 for step in steps)
        self._audio_ms += audio_ms
        return measured

    def as_json(self) -> dict[str, Any]:
        """Return `delays`, `clocks` and `real_time_factor` of a cell, the last two None where time was not measured."""
        return {
            "delays": {name: self._averages(columns) for name, columns in self._delays.items()},
            "clocks": {name: self._averages(columns) for name, columns in self._clocks.items()}
            if self._measured
            else None,
            "real_time_factor": self._computed_ms / self._audio_ms if self._measured and self._audio_ms else None,
        }

    def _averages(self, columns: MetricColumns) -> dict[str, Any]:
        """Average columns, and count the instances without a value."""
        return {self._shown_name(name): columns.mean(name) for name in columns.names} | {
            "skipped": {self._shown_name(name): columns.skipped(name) for name in columns.names}
        }

    def _shown_name(self, metric: str) -> str:
        return metric


class DelayClockMeans(_Means):
    """Averages latencies over a stream of sessions of a cell."""

    def __init__(self, measure: Measure) -> None:
        super().__init__(measure, BASE_LATENCIES)

    def add(self, record: EmissionRecord, steps: Sequence[ShownStep]) -> None:
        """Add a session and its record."""
        for kind, columns in self._delays.items():
            columns.append(latencies(with_delays(record, unit_delays(steps, self._measure.unit, kind)), self._measure))
        measured = is_measured(steps)
        if not self._count_steps(steps, steps[-1].audio_ms if measured else 0.0):
            return
        for clock, columns in self._clocks.items():
            on_clock = with_elapsed(record, elapsed_times(steps, self._measure.unit, clock))
            columns.append(computation_aware_latencies(on_clock, self._measure) | _same_units(on_clock, self._measure))


class LongDelayClockMeans(_Means):
    """As `DelayClockMeans`, over the reference segments of recordings.

    SoftSegmenter aligns them, and for StreamLAAL mwerSegmenter; on the clock `per_step` StreamLAAL is what simulstream
    calls computation-aware.
    """

    def __init__(self, measure: Measure) -> None:
        super().__init__(measure, LONG_LATENCIES, (STREAM_LAAL,) if is_installed() else ())

    def add(
        self, record: EmissionRecord, aligned: RecordingAlignments, sessions: Sequence[Sequence[ShownStep]]
    ) -> None:
        """Add a recording: its record, aligned with its reference segments, and the steps of its sessions."""
        unit = self._measure.unit
        for kind, columns in self._delays.items():
            timed = with_delays(record, stream_delays(sessions, unit, kind))
            for part, laal in self._parts(aligned, timed, ""):
                columns.append(_chosen(latencies(part, self._measure)) | {STREAM_LAAL: laal})
        steps = [step for session in sessions for step in session]
        if not self._count_steps(steps, record.source_length or 0.0):  # its audio counts also without speech
            return
        for clock, columns in self._clocks.items():
            timed = with_elapsed(record, stream_elapsed(sessions, unit, clock))
            for part, laal in self._parts(aligned, timed, CA_SUFFIX):
                aware = _chosen(computation_aware_latencies(part, self._measure))
                columns.append(aware | _same_units(part, self._measure) | {STREAM_LAAL: laal})

    def _parts(
        self, aligned: RecordingAlignments, record: EmissionRecord, suffix: str
    ) -> Iterator[tuple[EmissionRecord, float | None]]:
        """Yield each segment by SoftSegmenter with its StreamLAAL, from its delays, or by `_CA` from elapsed times."""
        parts = aligned.soft.apply(record)
        laals: list[float | None] = [None] * len(parts)
        if aligned.mwer is not None:
            laals = [stream_laal(part, self._measure)[STREAM_LAAL + suffix] for part in aligned.mwer.apply(record)]
        yield from zip(parts, laals, strict=True)

    def _shown_name(self, metric: str) -> str:
        return metric if metric == STREAM_LAAL else LONG_PREFIX + metric


def _same_units(record: EmissionRecord, measure: Measure) -> MetricValues:
    return {metric + CA_CU_SUFFIX: value for metric, value in same_unit_latencies(record, measure).items()}


def _chosen(values: MetricValues) -> MetricValues:
    return {name: values[name] for name in LONG_LATENCIES}
