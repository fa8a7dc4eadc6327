"""Candidates of a search: settings decoded on parts of the dev set, and their scores there."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from simulsa_plugin.evaluation.block_decoding import DecodingJob, decode_blocks, read_instances, read_steps
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.corpus_scores import CorpusScorer, CorpusScores
from simulsa_plugin.metrics.delays import emission_record
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.significance import LEAST_UTTERANCES, Bootstrap, Statistics, bootstrap_metrics
from simulsa_plugin.model.values import Sample
from simulsa_plugin.tuning.halving import Goal, best_within


@dataclass(frozen=True)
class CandidateScore:
    """Score of a candidate on the utterances on which it has been decoded.

    Attributes:
        utterances: their number.
        measured: number of those with a latency.
        value: (quality, latency).
        samples: both on each resample, shape (2, resamples); None for fewer than two utterances.
    """

    utterances: int
    measured: int
    value: tuple[float | None, float | None]
    samples: FloatArray | None


@dataclass
class Candidates:
    """Candidates of a search with everything that has been decoded.

    Attributes:
        job: its rows are the dev set, its cells the candidates, its folder that of the parts.
        goal: metrics and budgets.
        settings: of the evaluation.
        order: positions of the rows in the order in which they are decoded.
        neighbours: neighbours of each candidate.
        utterances: number of rows on which each candidate was decoded, the first ones of `order`.
        records: candidate → row → emission record.
        scores: candidate → its score on its records.
        shares: candidate → its share at each budget, from the last comparison.
        skipped: id of a row → reason.
        sessions: number of decoded sessions.
        parts: number of decoded parts.
    """

    job: DecodingJob
    goal: Goal
    settings: EvaluationSettings
    order: Sequence[int]
    neighbours: Sequence[Sequence[int]]
    utterances: list[int]
    records: list[dict[int, EmissionRecord]]
    scores: dict[int, CandidateScore] = field(default_factory=dict)
    shares: dict[int, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    sessions: int = 0
    parts: int = 0

    def decoded_on_all(self) -> list[int]:
        """Return the candidates that were decoded on the whole dev set."""
        return [cell for cell, count in enumerate(self.utterances) if count == len(self.job.rows)]

    def best_within(self, cells: Sequence[int], budget: float) -> int | None:
        """Return the best of some candidates within a budget; None where none is within it."""
        values = [self.scores[cell].value for cell in cells]
        position = best_within([value[0] for value in values], [value[1] for value in values], budget)
        return None if position is None else cells[position]


def decode_and_score(candidates: Candidates, cells: Sequence[int], utterances: int) -> None:
    """Decode cells on the first `utterances` of the order, and score them on these."""
    groups: dict[int, list[int]] = defaultdict(list)
    for cell in cells:
        groups[candidates.utterances[cell]].append(cell)
    for decoded, group in sorted(groups.items()):
        rows = [candidates.job.rows[position] for position in sorted(candidates.order[decoded:utterances])]
        part = dataclasses.replace(
            candidates.job,
            rows=rows,
            cells=[candidates.job.cells[cell] for cell in group],
            folder=candidates.job.folder / f"{candidates.parts:03d}",
            complete_blocks=set(),
        )
        candidates.parts += 1
        decode_blocks(part)
        _collect_records(candidates, part, group)
        for cell in group:
            candidates.utterances[cell] = utterances
    candidates.scores |= {cell: _score_candidate(candidates, cell) for cell in cells}


def _collect_records(candidates: Candidates, part: DecodingJob, cells: Sequence[int]) -> None:
    """Add the records of a decoded part."""
    instances = list(read_instances(part))
    candidates.skipped |= {one["id"]: one["skipped"] for one in instances if "skipped" in one}
    candidates.sessions += len(cells) * sum("skipped" not in one for one in instances)
    samples = {part.identifier(row): row for row in part.rows if isinstance(row, Sample)}
    for cell in cells:
        for identifier, steps in read_steps(part, candidates.job.cells[cell]):
            sample = samples[identifier]
            candidates.records[cell][sample.row] = emission_record(
                steps, sample.row, sample.reference, sample.audio, candidates.settings.latency_unit
            )


def _score_candidate(candidates: Candidates, cell: int) -> CandidateScore:
    goal, records = candidates.goal, candidates.records[cell]
    scorer = corpus_scorer(candidates, records.values())
    scores, statistics = scorer.scores(), scorer.statistics()
    measured = len(records) - scores.counts["skipped"][goal.latency]
    value = goal_value(goal, scores) if records else (None, None)
    if len(records) < LEAST_UTTERANCES:
        return CandidateScore(len(records), measured, value, None)
    needed = Statistics(
        {goal.quality: statistics.quality[goal.quality]}, {goal.latency: statistics.values[goal.latency]}, {}
    )
    found = bootstrap_metrics(needed, len(records), Bootstrap())
    return CandidateScore(len(records), measured, value, np.stack([found[goal.quality], found[goal.latency]]))


def corpus_scorer(candidates: Candidates, records: Iterable[EmissionRecord]) -> CorpusScorer:
    """Return a scorer of these records, added in the order of the dev set."""
    scorer = CorpusScorer(Measure(candidates.settings.latency_unit), candidates.settings.bleu_tokenizer, keep=True)
    for record in sorted(records, key=lambda record: record.index):
        scorer.add(record)
    return scorer


def goal_value(goal: Goal, scores: CorpusScores) -> tuple[float | None, float | None]:
    """Return (quality, latency)."""
    return scores.corpus[goal.quality], scores.corpus[goal.latency]
