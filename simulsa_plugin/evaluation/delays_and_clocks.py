"""Latencies of a cell by each kind of delay, and on each clock."""

from __future__ import annotations

from collections.abc import Sequence
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
from simulsa_plugin.metrics.long_form import STREAM_LAAL, align_by_mwer
from simulsa_plugin.metrics.mwer_segmentation import is_installed
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.resegmentation import SegmentAlignment, align_segments
from simulsa_plugin.segments import ReferenceSegment


class DelayClockMeans:
    """Averages latencies over a stream of sessions of a cell.

    Attributes:
        truncated_steps: number of steps that reached the limit on new tokens.
    """

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._delays = {name: MetricColumns(BASE_LATENCIES) for name in DELAY_KINDS}
        self._clocks = {
            name: MetricColumns((*BASE_LATENCIES, *(metric + CA_CU_SUFFIX for metric in SOURCE_BOUNDED)))
            for name in CLOCKS
        }
        self._computed_ms = self._audio_ms = 0.0
        self._measured = False
        self.truncated_steps = 0

    def add(self, record: EmissionRecord, steps: Sequence[ShownStep]) -> None:
        """Add a session and its record."""
        for kind, columns in self._delays.items():
            columns.append(latencies(with_delays(record, unit_delays(steps, self._measure.unit, kind)), self._measure))
        self.truncated_steps += sum(step.truncated for step in steps)
        if not is_measured(steps):
            return
        self._measured = True
        self._computed_ms += sum(step.compute_ms or 0.0 for step in steps)
        self._audio_ms += steps[-1].audio_ms
        for clock, columns in self._clocks.items():
            on_clock = with_elapsed(record, elapsed_times(steps, self._measure.unit, clock))
            same = same_unit_latencies(on_clock, self._measure)
            columns.append(
                computation_aware_latencies(on_clock, self._measure)
                | {metric + CA_CU_SUFFIX: value for metric, value in same.items()}
            )

    def as_json(self) -> dict[str, Any]:
        """Return `delays`, `clocks` and `real_time_factor` of a cell, the last two None where time was not measured."""
        return {
            "delays": {name: _averages(columns) for name, columns in self._delays.items()},
            "clocks": {name: _averages(columns) for name, columns in self._clocks.items()} if self._measured else None,
            "real_time_factor": self._computed_ms / self._audio_ms if self._measured and self._audio_ms else None,
        }


class LongDelayClockMeans:
    """As `DelayClockMeans`, over the reference segments of recordings.

    SoftSegmenter aligns them, and for StreamLAAL mwerSegmenter; on the clock `per_step` StreamLAAL is what simulstream
    calls computation-aware.

    Attributes:
        truncated_steps: number of steps that reached the limit on new tokens.
    """

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        stream = (STREAM_LAAL,) if is_installed() else ()
        self._delays = {name: MetricColumns((*LONG_LATENCIES, *stream)) for name in DELAY_KINDS}
        self._clocks = {
            name: MetricColumns((*LONG_LATENCIES, *(metric + CA_CU_SUFFIX for metric in SOURCE_BOUNDED), *stream))
            for name in CLOCKS
        }
        self._computed_ms = self._audio_ms = 0.0
        self._measured = False
        self.truncated_steps = 0

    def add(
        self,
        record: EmissionRecord,
        segments: Sequence[ReferenceSegment],
        sessions: Sequence[Sequence[ShownStep]],
    ) -> None:
        """Add a recording: its record, its reference segments, and the steps of its sessions."""
        unit, steps = self._measure.unit, [step for session in sessions for step in session]
        alignment, by_mwer = align_segments(record, segments, unit), align_by_mwer(record, segments, unit)
        for kind, columns in self._delays.items():
            timed = with_delays(record, stream_delays(sessions, unit, kind))
            laals = self._stream_laals(by_mwer, timed, "", len(segments))
            for part, laal in zip(alignment.apply(timed), laals, strict=True):
                columns.append(_chosen(latencies(part, self._measure)) | {STREAM_LAAL: laal})
        self.truncated_steps += sum(step.truncated for step in steps)
        self._audio_ms += record.source_length or 0.0  # also without speech
        if not steps or not is_measured(steps):
            return
        self._measured = True
        self._computed_ms += sum(step.compute_ms or 0.0 for step in steps)
        for clock, columns in self._clocks.items():
            timed = with_elapsed(record, stream_elapsed(sessions, unit, clock))
            laals = self._stream_laals(by_mwer, timed, CA_SUFFIX, len(segments))
            for part, laal in zip(alignment.apply(timed), laals, strict=True):
                same = same_unit_latencies(part, self._measure)
                columns.append(
                    _chosen(computation_aware_latencies(part, self._measure))
                    | {metric + CA_CU_SUFFIX: value for metric, value in same.items()}
                    | {STREAM_LAAL: laal}
                )

    def _stream_laals(
        self, alignment: SegmentAlignment | None, record: EmissionRecord, suffix: str, count: int
    ) -> list[float | None]:
        """Return StreamLAAL of each segment of a recording, from its delays, or by `_CA` from its elapsed times."""
        if alignment is None:
            return [None] * count
        return [stream_laal(part, self._measure)[STREAM_LAAL + suffix] for part in alignment.apply(record)]

    def as_json(self) -> dict[str, Any]:
        """Return `delays`, `clocks` and `real_time_factor`, as `DelayClockMeans` does."""
        return {
            "delays": {name: _long_averages(columns) for name, columns in self._delays.items()},
            "clocks": {name: _long_averages(columns) for name, columns in self._clocks.items()}
            if self._measured
            else None,
            "real_time_factor": self._computed_ms / self._audio_ms if self._measured and self._audio_ms else None,
        }


def _chosen(values: MetricValues) -> MetricValues:
    return {name: values[name] for name in LONG_LATENCIES}


def _long_averages(columns: MetricColumns) -> dict[str, Any]:
    """As `_averages`, under the names of long recordings."""
    found = _averages(columns)
    skipped = found.pop("skipped")
    return {_long_name(name): value for name, value in found.items()} | {
        "skipped": {_long_name(name): count for name, count in skipped.items()}
    }


def _long_name(name: str) -> str:
    return name if name == STREAM_LAAL else LONG_PREFIX + name


def _averages(columns: MetricColumns) -> dict[str, Any]:
    """Average columns, and count the instances without a value."""
    return {name: columns.mean(name) for name in columns.names} | {
        "skipped": {name: columns.skipped(name) for name in columns.names}
    }
