"""Instances that a report shows in full: the odd ones, and some at random, with audio, and what each cell wrote when.

Instances are chosen by one streaming cell. The selection depends on the logs alone, and is bounded, so that the page
can be sent by mail.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from simulsa_plugin.audio.recordings import Span, audio_info, read_parts
from simulsa_plugin.errors import AudioError, SimulsaError
from simulsa_plugin.evaluation.result_cells import Cell
from simulsa_plugin.evaluation.speech_file import SPEECH, FoundSpeech, read_speech
from simulsa_plugin.logs.omnisteval import RESEGMENTED
from simulsa_plugin.logs.reader import Log
from simulsa_plugin.logs.recordings import join_sessions
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, read_segments
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.logs.steps import STEPS, parse_session, read_sessions
from simulsa_plugin.metrics.delays import ShownStep, split_units
from simulsa_plugin.metrics.instance import Measure, latencies
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit, is_empty
from simulsa_plugin.metrics.stability import common_prefix, erased_units
from simulsa_plugin.reports.sound import audio_address
from simulsa_plugin.segments import ReferenceSegment

PER_KIND, AT_RANDOM = 4, 6  # utterances
MAX_RECORDINGS, EXCERPT_SECONDS = 3, 120.0
MAX_AUDIO_SECONDS = 480.0  # of the whole page: about 2.1 MB
_ID = re.compile(rb'^\{"id": ?("(?:[^"\\]|\\.)*")')

Sessions = Sequence[Sequence[ShownStep]]
Json = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """An instance that is shown: its position in the log, its name, and why."""

    position: int
    name: str
    kinds: tuple[str, ...]


def shown_instances(
    folder: Path,
    cells: Sequence[Cell],
    unit: LatencyUnit,
    *,
    long_form: bool,
    names: Sequence[str] = (),
    most: int = 8,
) -> list[Json]:
    """Return the JSON of the shown instances, of each `cells`: position → what the cell wrote.

    Args:
        folder: of the result.
        cells: of the result.
        unit: latency unit.
        long_form: whether instances are whole recordings, of which an excerpt is shown.
        names: of the utterances; where the result has none of them, some are chosen.
        most: number of cells that are shown, spread over the result.

    Raises:
        LogError, StorageError: a log, the steps or the segments cannot be read.
    """
    chosen = _spread([number for number, cell in enumerate(cells) if _has_steps(cell)], most)
    shown = {number: cells[number] for number in chosen}
    if not shown:
        return []
    return _recordings(folder, shown, unit) if long_form else _utterances(shown, unit, names)


def _has_steps(cell: Cell) -> bool:
    return cell.log is not None and cell.log.with_name(STEPS).is_file()


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """Return at most some of the numbers, evenly spread, the first and the last included."""
    if len(numbers) <= most:
        return list(numbers)
    return sorted({numbers[round(step * (len(numbers) - 1) / (most - 1))] for step in range(most)})


def _file(cell: Cell, name: str) -> Path:
    return (cell.log or Path()).with_name(name)


# Utterances


def _utterances(cells: Mapping[int, Cell], unit: LatencyUnit, wanted: Sequence[str]) -> list[Json]:
    focus = next((number for number, cell in cells.items() if cell.key.chunk_ms is not None), next(iter(cells)))
    found_by_name = _find(_file(cells[focus], STEPS), wanted) if wanted else []
    shown = found_by_name or _choose(list(_facts(cells[focus], unit)))
    names = {one.name for one in shown}
    sessions = {number: _read_sessions(_file(cell, STEPS), names) for number, cell in cells.items()}
    places = {one.position for one in shown}
    records = {number: _read_records(_file(cell, INSTANCES_LOG), places) for number, cell in cells.items()}
    found, room = [], MAX_AUDIO_SECONDS
    for one in shown:
        record = records[focus][one.position]
        sound, room = _sound(_source(record), None, room)
        by_cell = {
            number: _of_utterance(of_cell[one.position], sessions[number].get(one.name, []), unit)
            for number, of_cell in records.items()
            if one.position in of_cell
        }
        seconds = (record.source_length or 0.0) / 1000
        found.append(
            {"id": one.name, "kinds": one.kinds, "reference": record.reference, "seconds": seconds}
            | {"shown_seconds": seconds, "segments": [], "speech": [], "cells": by_cell}
            | sound
        )
    return found


@dataclass(frozen=True, slots=True)
class _Facts:
    """What decides whether an utterance is shown."""

    name: str
    lag: float | None
    chrf: float | None
    erased: int
    empty: bool
    truncated: bool


def _facts(cell: Cell, unit: LatencyUnit) -> Iterator[_Facts]:
    """Yield the facts of each utterance of a cell, in the order of its log."""
    records, sessions = Log(_file(cell, INSTANCES_LOG)).records(), read_sessions([_file(cell, STEPS)])
    for record, (name, steps) in zip(records, sessions, strict=False):
        yield _Facts(
            name,
            latencies(record, Measure(unit))["LAAL"],
            _chrf(record) if record.reference else None,
            _count_erased([steps], unit),
            is_empty(record),
            any(step.truncated for step in steps),
        )


def _choose(facts: Sequence[_Facts]) -> list[Shown]:
    """Choose utterances by kind; each is shown once, with all its kinds."""
    kinds = {
        "slowest": _first(facts, lambda one: None if one.lag is None else -one.lag),
        "most erased": _first(facts, lambda one: -one.erased or None),
        "lowest chrF": _first(facts, lambda one: one.chrf),
        "empty": _first(facts, lambda one: 0.0 if one.empty else None),
        "truncated": _first(facts, lambda one: 0.0 if one.truncated else None),
        "random": _first(facts, lambda one: zlib.crc32(one.name.encode()), AT_RANDOM),
    }
    return [
        Shown(place, facts[place].name, tuple(kind for kind, chosen in kinds.items() if place in chosen))
        for place in dict.fromkeys(itertools.chain.from_iterable(kinds.values()))
    ]


def _first(facts: Sequence[_Facts], key: Callable[[_Facts], float | None], most: int = PER_KIND) -> list[int]:
    """Return the places with the lowest keys; those without a key are left out."""
    keyed = ((value, place) for place, one in enumerate(facts) if (value := key(one)) is not None)
    return [place for _, place in heapq.nsmallest(most, keyed)]


def _read_records(path: Path, places: set[int]) -> dict[int, EmissionRecord]:
    """Read the records at some positions of a log."""
    records = itertools.islice(Log(path).records(), max(places, default=-1) + 1)
    return {place: record for place, record in enumerate(records) if place in places}


def _find(path: Path, names: Sequence[str]) -> list[Shown]:
    """Find utterances by name in a cell's steps."""
    with path.open("rb") as handle:
        ids = dict.fromkeys(match.group(1) for line in handle if (match := _ID.match(line)))
    places = {orjson.loads(name): place for place, name in enumerate(ids)}
    return [Shown(places[name], name, ()) for name in names if name in places]


def _read_sessions(path: Path, names: set[str]) -> dict[str, list[list[ShownStep]]]:
    """Read the sessions of some utterances; other lines are not parsed."""
    rows: dict[str, list[Json]] = {}
    with path.open("rb") as handle:
        for line in handle:
            match = _ID.match(line)
            if match and orjson.loads(match.group(1)) in names:
                row = orjson.loads(line)
                rows.setdefault(row["id"], []).append(row)
    return {name: [list(parse_session(of_session))] for name, of_session in rows.items()}


def _of_utterance(record: EmissionRecord, sessions: Sessions, unit: LatencyUnit) -> Json:
    lag = latencies(record, Measure(unit))["LAAL"]
    return {
        "text": record.prediction,
        "LAAL": None if lag is None else round(lag, 1),
        "chrF": round(_chrf(record), 1) if record.reference else None,
        **_of_steps(record, sessions, unit, float("inf")),
    }


# Recordings


def _recordings(folder: Path, cells: Mapping[int, Cell], unit: LatencyUnit) -> list[Json]:
    """Return the first recordings, of each the first seconds."""
    references: dict[str, list[ReferenceSegment]] = {}
    listed = (folder / SEGMENTS).is_file() and (folder / REFERENCES).is_file()
    for one in read_segments(folder / SEGMENTS, folder / REFERENCES) if listed else ():
        references.setdefault(one.audio, []).append(one.segment)
    speech: dict[str, list[FoundSpeech]] = {}
    for found_speech in read_speech(folder / SPEECH) if (folder / SPEECH).is_file() else ():
        speech.setdefault(found_speech.audio, []).append(found_speech)
    by_cell = {number: _first_recordings(cell, unit) for number, cell in cells.items()}
    found, room = [], MAX_AUDIO_SECONDS
    sources = [_source(record) for record, _ in next(iter(by_cell.values()))]
    names = recording_names(sources)
    for place, (record, _) in enumerate(next(iter(by_cell.values()))):
        source, seconds = sources[place], (record.source_length or 0.0) / 1000
        until = min(seconds, EXCERPT_SECONDS)
        segments = [part for part in references.get(source, []) if part.offset_seconds < until]
        sound, room = _sound(source, until if until < seconds else None, room)
        found.append(
            {"id": names[place], "kinds": ["recording"], "seconds": seconds}
            | {"reference": None if segments else record.reference, "shown_seconds": until}
            | {"segments": [[part.offset_seconds, part.end_seconds, part.reference] for part in segments]}
            | {"speech": [_times(part) for part in speech.get(source, ()) if part.start_seconds < until]}
            | {
                "cells": {
                    number: _of_recording(*by_cell[number][place], unit, until, _aligned(cell, source, len(segments)))
                    for number, cell in cells.items()
                }
            }
            | sound
        )
    return found


def _times(speech: FoundSpeech) -> list[float]:
    """Return when a speech segment starts and ends, and when its end was known."""
    return [round(time, 3) for time in (speech.start_seconds, speech.end_seconds, speech.closed_seconds)]


def recording_names(sources: Sequence[str]) -> list[str]:
    """Return the names of audio files, without folders where that tells them apart.

    >>> recording_names(["a/one.wav", "b/two.wav"]), recording_names(["a/one.wav", "b/one.wav"])
    (['one.wav', 'two.wav'], ['a/one.wav', 'b/one.wav'])
    """
    names = [Path(source).name for source in sources]
    return names if all(names) and len(set(names)) == len(names) else list(sources)


def _first_recordings(cell: Cell, unit: LatencyUnit) -> list[tuple[EmissionRecord, list[Sequence[ShownStep]]]]:
    joined = join_sessions(Log(_file(cell, INSTANCES_LOG)).records(), read_sessions([_file(cell, STEPS)]), unit)
    return list(itertools.islice(joined, MAX_RECORDINGS))


def _aligned(cell: Cell, source: str, count: int) -> list[EmissionRecord]:
    """Return the translations that were aligned to the first reference segments of a recording."""
    path = _file(cell, RESEGMENTED)
    records = Log(path).records() if path.is_file() else ()
    return list(itertools.islice((record for record in records if _source(record) == source), count))


def _of_recording(
    record: EmissionRecord, sessions: Sessions, unit: LatencyUnit, until: float, aligned: Sequence[EmissionRecord]
) -> Json:
    of_steps = _of_steps(record, sessions, unit, 1000 * until)
    return {
        "text": ("" if unit == "char" else " ").join(word for word, _ in of_steps["words"]),
        "LAAL": None,
        "chrF": None,
        "aligned": [[one.prediction, round(_chrf(one), 1)] for one in aligned],
        **of_steps,
    }


# Both


def _of_steps(record: EmissionRecord, sessions: Sessions, unit: LatencyUnit, until_ms: float) -> Json:
    units = zip(split_units(record.prediction, unit), record.delays, strict=False)
    return {
        "erased": _count_erased(sessions, unit),
        "truncated": any(step.truncated for session in sessions for step in session),
        "words": [[word, round(delay, 1)] for word, delay in units if delay <= until_ms],
        "sessions": [changes for session in sessions if (changes := list(_changes(session, until_ms)))],
    }


def _count_erased(sessions: Sessions, unit: LatencyUnit) -> int:
    return sum(erased_units(split_units(step.shown, unit) for step in session) for session in sessions)


def _changes(session: Sequence[ShownStep], until_ms: float) -> Iterator[list[Any]]:
    """Yield [ms, kept, added, committed] of each step that changed the text or what is committed.

    The first `kept` characters of the text before stay, and are followed by `added`; `committed` of them will not
    change. Characters are counted as a browser does, in UTF-16.
    """
    text, before = "", 0
    for step in itertools.takewhile(lambda step: step.audio_ms <= until_ms, session):
        committed = _utf16_length(step.shown[: common_prefix(step.shown, step.committed)])
        if (step.shown, committed) != (text, before):
            kept = common_prefix(text, step.shown)
            yield [round(step.audio_ms, 1), _utf16_length(text[:kept]), step.shown[kept:], committed]
        text, before = step.shown, committed


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


@functools.cache
def _chrf_metric() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _chrf(record: EmissionRecord) -> float:
    return float(_chrf_metric().sentence_score(record.prediction, [record.reference or ""]).score)


def _source(record: EmissionRecord) -> str:
    return record.source if isinstance(record.source, str) else next(iter(record.source), "")


def _sound(path: str, until: float | None, room: float) -> tuple[Json, float]:
    """Return the audio of an instance, or a note where there is none, and the seconds for which there is still room."""
    try:
        seconds = until or audio_info(path).seconds
        if seconds > room:
            return {"audio": None, "note": "The page has no room for more audio."}, room
        ((_, waveform),) = read_parts(path, [Span(0.0, until)])
        if isinstance(waveform, AudioError):
            raise waveform
    except SimulsaError:
        return {"audio": None, "note": "The audio cannot be read where the log says it is."}, room
    return {"audio": audio_address(waveform), "note": ""}, room - seconds
