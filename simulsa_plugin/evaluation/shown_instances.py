"""Instances that a report shows in full: the odd ones, and some at random, with audio, and what each cell wrote when.

Instances are chosen by one streaming cell. The selection depends on the logs alone, and is bounded, so that the page
can be sent by mail.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from simulsa_plugin.audio.recordings import Span, audio_info, read_parts
from simulsa_plugin.errors import AudioError, SimulsaError
from simulsa_plugin.evaluation.result_cells import Cell
from simulsa_plugin.files.json_files import crc32_hex
from simulsa_plugin.logs.reader import Log
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, read_segments
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.logs.steps import SEGMENT, STEPS, parse_session, read_sessions
from simulsa_plugin.metrics.delays import ShownStep, split_units
from simulsa_plugin.metrics.instance import Measure, latencies
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit, is_empty
from simulsa_plugin.metrics.stability import erased_units
from simulsa_plugin.reports.sound import audio_address

MAX_CELLS = 8  # whose steps are shown
PER_KIND, AT_RANDOM = 4, 6  # utterances
MAX_RECORDINGS, EXCERPT_SECONDS = 3, 120.0
MAX_AUDIO_SECONDS = 600.0  # of the whole page: about 2.3 MB
_ID = re.compile(rb'^\{"id": ?"([^"\\]*)"')


@dataclass(frozen=True)
class Shown:
    """An instance that is shown: its position in the log, its id in `steps.jsonl`, and why."""

    position: int
    identifier: str
    kinds: tuple[str, ...]


def shown_instances(
    folder: Path, cells: Sequence[Cell], unit: LatencyUnit, *, long_form: bool
) -> tuple[list[int], list[dict[str, Any]]]:
    """Return which cells are shown, as positions, and the JSON of the shown instances.

    Args:
        folder: of the result.
        cells: of the result.
        unit: latency unit.
        long_form: whether instances are whole recordings.
    """
    logged = [number for number, cell in enumerate(cells) if cell.log is not None and _has_steps(cell)]
    chosen = _spread(logged, MAX_CELLS)
    if not chosen:
        return [], []
    focus = next((number for number in chosen if cells[number].key.chunk_ms is not None), chosen[0])
    records = {number: _read_records(cells[number]) for number in chosen}
    shown = _choose(records[focus], _facts(cells[focus], unit), unit, long_form=long_form)
    sessions = {number: _read_sessions(cells[number], [one.identifier for one in shown]) for number in chosen}
    references = _reference_segments(folder) if long_form else {}
    budget = MAX_AUDIO_SECONDS
    found = []
    for one in shown:
        record = records[focus][one.position]
        source = _source(record)
        audio, seconds, note = _audio(source, budget, EXCERPT_SECONDS if long_form else None)
        budget -= seconds if audio else 0.0
        found.append(
            {
                "id": one.identifier,
                "kinds": one.kinds,
                "reference": record.reference,
                "seconds": (record.source_length or 0.0) / 1000,
                "shown_seconds": min((record.source_length or 0.0) / 1000, EXCERPT_SECONDS) if long_form else None,
                "audio": audio,
                "note": note,
                "segments": references.get(source, []),
                "cells": {
                    number: _cell_json(records[number][one.position], sessions[number].get(one.identifier, []), unit)
                    for number in chosen
                    if one.position < len(records[number])
                },
            }
        )
    return chosen, found


def _has_steps(cell: Cell) -> bool:
    return cell.log is not None and cell.log.with_name(STEPS).is_file()


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """Return at most some of the numbers, evenly spread, the first and the last included."""
    if len(numbers) <= most:
        return list(numbers)
    return sorted({numbers[round(step * (len(numbers) - 1) / (most - 1))] for step in range(most)})


def _read_records(cell: Cell) -> list[EmissionRecord]:
    """Read the log of a cell, of recordings the one with whole recordings."""
    path = (cell.log or Path()).with_name(INSTANCES_LOG)
    return list(Log(path).records())


@dataclass
class _Facts:
    """What the steps of an instance say."""

    identifier: str
    erased: int = 0
    truncated: bool = False


def _facts(cell: Cell, unit: LatencyUnit) -> list[_Facts]:
    """Return the facts of each instance of a cell, in the order of its log."""
    found: dict[str, _Facts] = {}
    for identifier, steps in read_sessions([(cell.log or Path()).with_name(STEPS)]):
        one = found.setdefault(identifier, _Facts(identifier))
        one.erased += erased_units(split_units(step.shown, unit) for step in steps)
        one.truncated |= any(step.truncated for step in steps)
    return list(found.values())


def _choose(
    records: Sequence[EmissionRecord], facts: Sequence[_Facts], unit: LatencyUnit, *, long_form: bool
) -> list[Shown]:
    """Choose instances by kind; each is shown once, with all its kinds."""
    usable = list(range(min(len(records), len(facts))))
    ids = [one.identifier for one in facts]
    if long_form:
        return [Shown(place, ids[place], ("recording",)) for place in usable[:MAX_RECORDINGS]]
    measure = Measure(unit)
    lag = {place: latencies(records[place], measure)["LAAL"] for place in usable}
    kinds = {
        "slowest": _first(usable, lambda place: -(lag[place] or 0.0)),
        "most erased": _first([p for p in usable if facts[p].erased], lambda place: -facts[place].erased),
        "lowest chrF": _first([p for p in usable if records[p].reference], lambda place: _chrf(records[place])),
        "empty": [place for place in usable if is_empty(records[place])][:PER_KIND],
        "truncated": [place for place in usable if facts[place].truncated][:PER_KIND],
        "random": sorted(usable, key=lambda place: crc32_hex(ids[place].encode()))[:AT_RANDOM],
    }
    places = dict.fromkeys(place for chosen in kinds.values() for place in chosen)
    return [Shown(p, ids[p], tuple(kind for kind, chosen in kinds.items() if p in chosen)) for p in places]


def _first(places: Sequence[int], key: Any) -> list[int]:
    return sorted(places, key=lambda place: (key(place), place))[:PER_KIND]


@functools.cache
def _chrf_metric() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _chrf(record: EmissionRecord) -> float:
    return float(_chrf_metric().sentence_score(record.prediction, [record.reference or ""]).score)


def _source(record: EmissionRecord) -> str:
    return record.source if isinstance(record.source, str) else next(iter(record.source), "")


def _read_sessions(cell: Cell, wanted: Sequence[str]) -> dict[str, list[list[ShownStep]]]:
    """Read the sessions of some ids; other lines are not parsed."""
    rows: dict[tuple[str, Any], list[Mapping[str, Any]]] = {}
    names = {name.encode() for name in wanted}
    with (cell.log or Path()).with_name(STEPS).open("rb") as handle:
        for line in handle:
            match = _ID.match(line)
            if match and match.group(1) in names:
                row = orjson.loads(line)
                rows.setdefault((row["id"], row.get(SEGMENT)), []).append(row)
    found: dict[str, list[list[ShownStep]]] = {}
    for (name, _), of_session in rows.items():
        found.setdefault(name, []).append(list(parse_session(of_session)))
    return found


def _cell_json(record: EmissionRecord, sessions: Sequence[Sequence[ShownStep]], unit: LatencyUnit) -> dict[str, Any]:
    values = latencies(record, Measure(unit))
    return {
        "text": record.prediction,
        "LAAL": None if values["LAAL"] is None else round(values["LAAL"], 1),
        "chrF": round(_chrf(record), 1) if record.reference else None,
        "erased": sum(erased_units(split_units(step.shown, unit) for step in session) for session in sessions),
        "truncated": any(step.truncated for session in sessions for step in session),
        "words": [
            [word, round(delay, 1)]
            for word, delay in zip(split_units(record.prediction, unit), record.delays, strict=False)
        ],
        "sessions": [list(_changes(session)) for session in sessions],
    }


def _changes(session: Sequence[ShownStep]) -> Iterator[list[Any]]:
    """Yield [ms, displayed text, characters of it that are committed] of the steps that changed something."""
    before: list[Any] = []
    for step in session:
        committed = len(step.committed.strip())
        if [step.shown, committed] != before:
            yield [round(step.audio_ms, 1), step.shown, committed]
        before = [step.shown, committed]


def _reference_segments(folder: Path) -> dict[str, list[list[Any]]]:
    found: dict[str, list[list[Any]]] = {}
    for one in read_segments(folder / SEGMENTS, folder / REFERENCES):
        part = one.segment
        found.setdefault(one.audio, []).append([part.offset_seconds, part.end_seconds, part.reference])
    return found


def _audio(path: str, budget: float, longest: float | None) -> tuple[str | None, float, str]:
    """Return audio for the page, its seconds, and a note where there is none."""
    try:
        seconds = audio_info(Path(path)).seconds
        span = Span(0.0, None if longest is None or longest >= seconds else longest)
        seconds = seconds if span.end_seconds is None else span.end_seconds
        if seconds > budget:
            return None, 0.0, "The page has no room for more audio."
        ((_, waveform),) = read_parts(Path(path), [span])
    except (AudioError, SimulsaError):
        return None, 0.0, "The audio cannot be read where the log says it is."
    if isinstance(waveform, AudioError):
        return None, 0.0, "The audio cannot be read."
    return audio_address(waveform), seconds, ""
