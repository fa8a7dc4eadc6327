"""Logs of cells as statistics that are resampled, all cells of all systems with the same utterances."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulsa_plugin.errors import LogError
from simulsa_plugin.evaluation.formatting import format_number
from simulsa_plugin.evaluation.result_cells import COMET, COMET_SCORES, Cell, CellKey
from simulsa_plugin.files.json_files import read_jsonl
from simulsa_plugin.logs.log_checker import LogChecker
from simulsa_plugin.logs.omnisteval import RESEGMENTED
from simulsa_plugin.logs.reader import Log, ReadOptions
from simulsa_plugin.logs.recordings import join_segments, join_sessions
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, read_segments
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.logs.steps import STEPS, read_sessions
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.corpus_scores import CorpusScorer
from simulsa_plugin.metrics.delays import split_units
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.long_form import LongFormScorer
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
from simulsa_plugin.metrics.resegmentation import recording_name
from simulsa_plugin.metrics.significance import LEAST_UTTERANCES, Bootstrap, Statistics, bootstrap_metrics
from simulsa_plugin.metrics.stability import erased_units

_ROUNDING = 1e-6  # relative, of values that are computed again


@dataclass(frozen=True)
class ResampledLog:
    """The resampled log of a cell.

    Attributes:
        path: the log.
        statistics: per utterance.
        values: metric → its value on each resample, shape (samples,), NaN where it has none.
        references: a hash of each utterance's reference; shape (n,).
    """

    path: Path
    statistics: Statistics
    values: Mapping[str, FloatArray]
    references: NDArray[np.int64]


ResampledCells = Mapping[CellKey, ResampledLog]
ResampledPair = tuple[ResampledCells, ResampledCells]  # of the baseline, of the other


def resample_cells(
    cells: Mapping[CellKey, Cell], measure: Measure, tokenizer: str, read: ReadOptions, bootstrap: Bootstrap
) -> dict[CellKey, ResampledLog]:
    """Read and resample the cells that have a log.

    Raises:
        LogError: a log cannot be read, has another unit, or is not the log of its cell.
    """
    return {
        key: _resample_cell(cell, measure, tokenizer, read, bootstrap)
        for key, cell in cells.items()
        if cell.log is not None
    }


def check_same_references(first: ResampledCells, second: ResampledCells) -> None:
    """Check that all cells have the same utterances.

    Raises:
        LogError: the numbers of instances or the references differ; the files and the line are named.
    """
    everything = [*first.values(), *second.values()]
    for other in everything[1:]:
        one, two = everything[0], other
        if len(one.references) != len(two.references):
            raise LogError(
                f"{one.path} holds {len(one.references)} instances, {two.path} holds "
                f"{len(two.references)}; a comparison needs the same utterances. Run both on the same test "
                f"set, with the same row limit (simulsa_eval_samples); scores.json lists rows that were skipped."
            )
        differing = np.flatnonzero(one.references != two.references)
        if len(differing):
            raise LogError(
                f"{one.path} and {two.path}, line {differing[0] + 1}: the references differ; a comparison "
                f"needs the same utterances in the same order. Run both on the same test set."
            )


def _resample_cell(
    cell: Cell, measure: Measure, tokenizer: str, read: ReadOptions, bootstrap: Bootstrap
) -> ResampledLog:
    path = cell.log or Path()
    log = Log(path, read)
    scorer: CorpusScorer | LongFormScorer
    if path.name == RESEGMENTED and path.with_name(INSTANCES_LOG).is_file():
        scorer, texts = _score_long_cell(path, log, measure, tokenizer)
    elif log.is_long_form:
        scorer, texts = _score_long_log(log, measure, tokenizer)
    else:
        scorer, texts = _score_log(path, log, measure, tokenizer)
    references = array("q", map(hash, texts))
    _check_scores_match(cell, path, scorer.scores().corpus)
    statistics = scorer.statistics()
    comet = _read_comet(cell, path.with_name(COMET_SCORES), len(references))
    if comet is not None:
        statistics = dataclasses.replace(statistics, values={**statistics.values, COMET: comet})
    values = bootstrap_metrics(statistics, len(references), bootstrap) if len(references) >= LEAST_UTTERANCES else {}
    return ResampledLog(path, statistics, values, np.frombuffer(references, dtype=np.int64))


def _score_log(path: Path, log: Log, measure: Measure, tokenizer: str) -> tuple[CorpusScorer, list[str | None]]:
    """Score a log of utterances, or of segments; return the references with the scores."""
    scorer, references = CorpusScorer(measure, tokenizer, keep=True), []
    for record in _with_erasure(path, LogChecker(log, measure.unit).checked_records(), measure.unit):
        scorer.add(record)
        references.append(record.reference)
    return scorer, references


def _score_long_log(log: Log, measure: Measure, tokenizer: str) -> tuple[LongFormScorer, list[str | None]]:
    """Score a log of whole recordings by their segments."""
    scorer, references = LongFormScorer(measure, tokenizer, method=log.aligner), list[str | None]()
    for one in LogChecker(log, measure.unit).checked_recordings():
        references += [part.reference for part in scorer.add(one.record, one.segments)]
    return scorer, references


def _score_long_cell(path: Path, log: Log, measure: Measure, tokenizer: str) -> tuple[LongFormScorer, list[str | None]]:
    """Score a cell of whole recordings, whose segments are aligned already."""
    folder = path.parent.parent
    segments = read_segments(folder / SEGMENTS, folder / REFERENCES)
    whole = Log(path.with_name(INSTANCES_LOG), ReadOptions(unit=measure.unit)).records()
    parts: dict[str | None, list[EmissionRecord]] = {}
    for part in LogChecker(log, measure.unit).checked_records():
        parts.setdefault(part.recording, []).append(part)
    scorer = LongFormScorer(measure, tokenizer)
    for one in join_segments(list(_with_stream_erasure(path, whole, measure.unit)), segments):
        aligned = parts.get(recording_name(one.record), [])
        if len(aligned) != len(one.segments):
            raise LogError(
                f"{path} has {len(aligned)} segments of {recording_name(one.record)}, {folder / SEGMENTS} has "
                f"{len(one.segments)}. Run `simulsa-eval run` again."
            )
        scorer.add_aligned(one.record, one.segments, aligned)
    return scorer, [part.reference for found in parts.values() for part in found]


def _with_erasure(path: Path, records: Iterator[EmissionRecord], unit: LatencyUnit) -> Iterator[EmissionRecord]:
    """Add the erased units to records, from the steps beside their log; unchanged where there are none."""
    steps = path.with_name(STEPS)
    if path.name != INSTANCES_LOG or not steps.is_file():
        yield from records
        return
    sessions = read_sessions([steps])
    for record in records:
        _, shown = next(sessions, ("", ()))
        yield dataclasses.replace(record, erased=erased_units(split_units(step.shown, unit) for step in shown))


def _with_stream_erasure(path: Path, records: Iterator[EmissionRecord], unit: LatencyUnit) -> Iterator[EmissionRecord]:
    """Add the erased units to records of recordings, as `_with_erasure` does to those of utterances."""
    steps = path.with_name(STEPS)
    if not steps.is_file():
        yield from records
        return
    for record, sessions in join_sessions(records, read_sessions([steps]), unit):
        erased = sum(erased_units(split_units(step.shown, unit) for step in shown) for shown in sessions)
        yield dataclasses.replace(record, erased=erased)


def _check_scores_match(cell: Cell, path: Path, corpus: Mapping[str, float | None]) -> None:
    """Raise LogError for a log whose scores differ from those in scores.json."""
    for name in ("BLEU", "LAAL", "LongYAAL"):
        expected, found = cell.values.get(name), corpus.get(name)
        if expected is not None and (found is None or abs(expected - found) > _ROUNDING * max(1.0, abs(expected))):
            raise LogError(
                f"{path} is not the log of {cell.key} in scores.json: its {name} is "
                f"{format_number(found, 4)}, there it is {expected:.4f}. "
                f"Run `simulsa-eval run` again."
            )


def _read_comet(cell: Cell, path: Path, count: int) -> FloatArray | None:
    """Read the COMET scores of a cell; None where there are none, or scores.json has none."""
    expected = cell.values.get(COMET)
    if expected is None or not path.is_file():
        return None
    scores = [row.get("score") for row in read_jsonl(path)]
    if len(scores) != count or not all(isinstance(score, float) for score in scores):
        raise LogError(f"{path} does not hold a score for each of {count} instances. Run `simulsa-eval comet` again.")
    found = np.array(scores, dtype=np.float64)
    if not abs(found.mean() - expected) <= _ROUNDING * max(1.0, abs(expected)):
        raise LogError(
            f"{path} does not hold the scores of {cell.key} in scores.json: their mean is "
            f"{found.mean():.4f}, there it is {expected:.4f}; `simulsa-eval comet` may have been stopped. "
            "Run it again."
        )
    return found
