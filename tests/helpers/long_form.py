"""A cell of long recordings, as `simulsa-eval run` writes it, made of steps without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simulsa_plugin.evaluation.delays_and_clocks import LongDelayClockMeans
from simulsa_plugin.logs.omnisteval import RESEGMENTED, write_omnisteval_log
from simulsa_plugin.logs.reader import Log, ReadOptions
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, write_segments
from simulsa_plugin.logs.simuleval import INSTANCES_LOG, write_simuleval_log
from simulsa_plugin.logs.steps import STEPS
from simulsa_plugin.metrics.delays import ShownStep, elapsed_times, emission_record
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.long_form import LongFormScorer, align_recording
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
from simulsa_plugin.segments import ReferenceSegment

NAMES = ("talks/a/one.wav", "talks/b/one.wav", "talks/silent.wav")
FIRST, SECOND = (1000, 2500, 4000), (6000, 7500, 9000)  # of two speech segments of a talk of 9 s
TEXTS = {  # shown and committed, at these times
    "word": (
        (("good mourning", ""), ("good morning all to", "good morning "), ("good morning all today", None)),
        (("we begin the", "we "), ("we began early with", "we began early "), ("we began early . it", None)),
    ),
    "char": (
        (("你好 马", ""), ("你好 吗 今天", "你好 "), ("你好 吗 今天好", None)),
        (("我们 开", "我"), ("我们开始了", "我们开"), ("我们开始 很早", None)),
    ),
}
REFERENCE_TEXTS = {
    "word": ("Good morning everyone", "today we begin", "early, with it"),
    "char": ("你好吗", "今天 我们", "开始得很早"),
}


def write_long_cell(folder: Path, unit: LatencyUnit) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Write a cell and the segments beside it; return its scores with SimulEval's clock, and with simulstream's."""
    folder.mkdir(parents=True)
    segments = [ReferenceSegment(3.0 * part, 2.5, text) for part, text in enumerate(REFERENCE_TEXTS[unit])]
    cumulative, per_step = LongFormScorer(Measure(unit)), LongFormScorer(Measure(unit))
    records, aligned, rows = [], [], []
    for index, name in enumerate(NAMES):
        sessions = [] if index == 2 else _sessions(unit, shift=100.0 * index)
        records.append(_record(sessions, index, name, unit, cumulative=True))
        aligned += cumulative.add(records[-1], segments)
        per_step.add(_record(sessions, index, name, unit, cumulative=False), segments)
        rows += [
            {"id": f"talk-{index}", "segment": number, "audio_ms": step.audio_ms, "text": step.shown}
            | {"committed": step.committed, "finished": step.finished, "compute_ms": step.compute_ms}
            for number, steps in enumerate(sessions)
            for step in steps
        ]
    write_simuleval_log(folder / INSTANCES_LOG, records)
    write_omnisteval_log(folder / RESEGMENTED, aligned)
    (folder / STEPS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_segments(folder.parent / SEGMENTS, folder.parent / REFERENCES, [(name, segments) for name in NAMES])
    return cumulative.scores().corpus, per_step.scores().corpus


def long_clock_means(folder: Path, unit: LatencyUnit) -> dict[str, Any]:
    """The latencies of a cell that `write_long_cell` wrote, by kind of delay and by clock."""
    read = ReadOptions(folder.parent / REFERENCES, folder.parent / SEGMENTS, unit=unit)
    means = LongDelayClockMeans(Measure(unit))
    for index, one in enumerate(Log(folder / INSTANCES_LOG, read).recordings()):
        aligned = align_recording(one.record, one.segments, unit)
        means.add(one.record, aligned, [] if index == 2 else _sessions(unit, shift=100.0 * index))
    return means.as_json()


def _sessions(unit: LatencyUnit, shift: float) -> list[list[ShownStep]]:
    return [
        [
            ShownStep(audio - shift, shown, shown if committed is None else committed, committed is None, 40.0 + shift)
            for audio, (shown, committed) in zip(times, texts, strict=True)
        ]
        for times, texts in zip((FIRST, SECOND), TEXTS[unit], strict=True)
    ]


def _record(
    sessions: list[list[ShownStep]], index: int, name: str, unit: LatencyUnit, *, cumulative: bool
) -> EmissionRecord:
    parts = [emission_record(steps, index, None, name, unit) for steps in sessions]
    elapsed, computed = [], 0.0
    for steps in sessions:
        times = elapsed_times(steps, unit, "cumulative" if cumulative else "per_step")
        elapsed += [time + (computed if cumulative else 0.0) for time in times]
        computed += sum(step.compute_ms or 0.0 for step in steps)
    return EmissionRecord(
        index,
        (" " if unit == "word" else "").join(part.prediction for part in parts),
        None,
        tuple(delay for part in parts for delay in part.delays),
        tuple(elapsed) if sessions else None,
        9000.0,
        name,
        sum(part.erased or 0 for part in parts),
    )
