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
from simulsa_plugin.logs.reader import Log, ReadOptions
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.logs.steps import STEPS, read_sessions
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.corpus_scores import CorpusScorer
from simulsa_plugin.metrics.delays import split_units
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
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
                f"set, with the same row limit (simulsa_eval_samples)."
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
    scorer = CorpusScorer(measure, tokenizer, keep=True)
    references = array("q")
    for record in _with_erasure(path, LogChecker(Log(path, read), measure.unit).checked_records(), measure.unit):
        scorer.add(record)
        references.append(hash(record.reference))
    _check_scores_match(cell, path, scorer.scores().corpus)
    statistics = scorer.statistics()
    comet = _read_comet(cell, path.with_name(COMET_SCORES), len(references))
    if comet is not None:
        statistics = Statistics(statistics.quality, {**statistics.values, COMET: comet}, statistics.ratios)
    values = bootstrap_metrics(statistics, len(references), bootstrap) if len(references) >= LEAST_UTTERANCES else {}
    return ResampledLog(path, statistics, values, np.frombuffer(references, dtype=np.int64))


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


def _check_scores_match(cell: Cell, path: Path, corpus: Mapping[str, float | None]) -> None:
    """Raise LogError for a log whose scores differ from those in scores.json."""
    for name in ("BLEU", "LAAL"):
        expected, found = cell.values.get(name), corpus[name]
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
