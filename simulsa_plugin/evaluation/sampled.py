"""Logs of cells as numbers that can be resampled: all cells of all systems with the same utterances."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulsa_plugin.errors import LogError
from simulsa_plugin.evaluation.cells import COMET, COMET_SCORES, Cell, CellKey
from simulsa_plugin.evaluation.logs.read import Log, ReadOptions
from simulsa_plugin.metrics.corpus import CorpusScorer
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.significance import Array, Bootstrap, Statistics, resampled
from simulsa_plugin.storage import read_jsonl


@dataclass(frozen=True)
class Sampled:
    """A cell's log.

    Attributes:
        path: the log.
        statistics: per utterance.
        values: metric → its value on each resample, shape (samples,), NaN where it has none.
        references: a hash of each utterance's reference; shape (n,).
    """

    path: Path
    statistics: Statistics
    values: Mapping[str, Array]
    references: NDArray[np.int64]


Side = Mapping[CellKey, Sampled]


def sample_cells(
    cells: Mapping[CellKey, Cell], measure: Measure, tokenizer: str, read: ReadOptions, bootstrap: Bootstrap
) -> dict[CellKey, Sampled]:
    """The cells that have a log, read and resampled.

    Raises:
        LogError: a log cannot be read.
    """
    return {key: _sample(cell.log, measure, tokenizer, read, bootstrap)
            for key, cell in cells.items() if cell.log is not None}


def check_same_references(first: Side, second: Side) -> None:
    """Refuse to compare cells of other utterances.

    Raises:
        LogError: the numbers of instances or the references differ; the files and the line are named.
    """
    everything = [*first.values(), *second.values()]
    for other in everything[1:]:
        one, two = everything[0], other
        if len(one.references) != len(two.references):
            raise LogError(f"{one.path} holds {len(one.references)} instances, {two.path} holds "
                           f"{len(two.references)}; a comparison needs the same utterances. Run both on the same test "
                           f"set.")
        differing = np.flatnonzero(one.references != two.references)
        if len(differing):
            raise LogError(f"{one.path} and {two.path}, line {differing[0] + 1}: the references differ; a comparison "
                           f"needs the same utterances in the same order. Run both on the same test set.")


def _sample(path: Path, measure: Measure, tokenizer: str, read: ReadOptions, bootstrap: Bootstrap) -> Sampled:
    scorer = CorpusScorer(measure, tokenizer, keep=True)
    references = array("q")
    for record in Log(path, read).records():
        scorer.add(record)
        references.append(hash(record.reference))
    statistics = scorer.statistics()
    comet = _read_comet(path.parent / COMET_SCORES, len(references))
    if comet is not None:
        statistics = Statistics(statistics.quality, {**statistics.values, COMET: comet}, statistics.ratios)
    return Sampled(path, statistics, resampled(statistics, len(references), bootstrap),
                   np.frombuffer(references, dtype=np.int64))


def _read_comet(path: Path, count: int) -> Array | None:
    """The COMET scores of a cell; None where there are none."""
    if not path.is_file():
        return None
    scores = [row.get("score") for row in read_jsonl(path)]
    if len(scores) != count or not all(isinstance(score, float) for score in scores):
        raise LogError(f"{path} does not hold a score for each of {count} instances. Run `simulsa-eval comet` again.")
    return np.array(scores, dtype=np.float64)
