"""Candidates of a search: settings decoded on parts of the dev set, and their scores there."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulsa_plugin.evaluation.block_decoding import DecodingJob, decode_blocks, read_instances, read_steps
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.long_form import recording_record, recordings_with_steps
from simulsa_plugin.evaluation.test_set import TestSet, skipped_rows
from simulsa_plugin.logs.steps import SEGMENT
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.corpus_scores import CorpusScorer, CorpusScores
from simulsa_plugin.metrics.delays import emission_record
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.long_form import LongFormScorer
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.significance import LEAST_UTTERANCES, Bootstrap, Statistics, bootstrap_metrics
from simulsa_plugin.model.values import Sample
from simulsa_plugin.streaming.engine import DecodingSetting
from simulsa_plugin.tuning.halving import Goal, best_within


@dataclass(frozen=True)
class CandidateScore:
    """Score of a candidate on the utterances on which it has been decoded.

    Attributes:
        utterances: their number; of recordings that of their reference segments.
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
        job: its rows are all that may be decoded, its cells the candidates, its folder that of the parts.
        dev_set: the dev set: utterances, or recordings.
        goal: metrics and budgets.
        settings: of the evaluation.
        order: positions of the rows in the order in which they are decoded.
        neighbours: neighbours of each candidate.
        utterances: number of rows on which each candidate was decoded, the first ones of `order`.
        records: candidate → row → emission record, of a whole recording where rows are these.
        scores: candidate → its score on its records.
        shares: candidate → its share at each budget, from the last comparison.
        skipped: id of a row → reason.
        sessions: number of decoded sessions.
        parts: number of decoded parts.
    """

    job: DecodingJob
    dev_set: TestSet
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
        return [cell for cell, count in enumerate(self.utterances) if count == len(self.dev_set.rows)]

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
        dev_part = candidates.dev_set.part(sorted(candidates.order[decoded:utterances]))
        part = dataclasses.replace(
            candidates.job,
            rows=dev_part.decoded,
            cells=[candidates.job.cells[cell] for cell in group],
            folder=candidates.job.folder / f"{candidates.parts:03d}",
            complete_blocks=set(),
        )
        candidates.parts += 1
        decode_blocks(part)
        _collect_records(candidates, part, dev_part, group)
        for cell in group:
            candidates.utterances[cell] = utterances
    candidates.scores |= {cell: _score_candidate(candidates, cell) for cell in cells}


def _collect_records(candidates: Candidates, part: DecodingJob, dev_part: TestSet, cells: Sequence[int]) -> None:
    """Add the records of a decoded part."""
    instances = list(read_instances(part))
    skipped = [*dev_part.skipped(part.identifier), *skipped_rows(instances)]
    candidates.skipped |= {_skipped_name(one): one["reason"] for one in skipped}
    candidates.sessions += len(cells) * sum("skipped" not in one for one in instances)
    for cell in cells:
        for row, record in _decoded_records(part, dev_part, candidates.job.cells[cell], candidates.settings):
            candidates.records[cell][row] = record


def _skipped_name(one: Mapping[str, Any]) -> str:
    """Return the id of something skipped, and where it is in its recording."""
    return " ".join(f"{one[key]}" for key in ("id", SEGMENT, "offset") if key in one)


def _decoded_records(
    part: DecodingJob, dev_part: TestSet, cell: DecodingSetting, settings: EvaluationSettings
) -> Iterator[tuple[int, EmissionRecord]]:
    """Yield (row, record) of every utterance or recording that was decoded in a cell."""
    unit = settings.latency_unit
    if dev_part.recordings is not None:
        for recording, decoded in recordings_with_steps(part, cell, dev_part.usable):
            sessions = [steps for _, steps in decoded]
            yield recording.row, recording_record(recording, sessions, recording.row, unit)
        return
    samples = {part.identifier(row): row for row in part.rows if isinstance(row, Sample)}
    for identifier, steps in read_steps(part, cell):
        sample = samples[identifier]
        yield sample.row, emission_record(steps, sample.row, sample.reference, sample.audio, unit)


def _score_candidate(candidates: Candidates, cell: int) -> CandidateScore:
    goal, records = candidates.goal, candidates.records[cell]
    scorer = make_scorer(candidates, records.values())
    scores, statistics = scorer.scores(), scorer.statistics()
    instances = scores.counts["instances"]
    measured = instances - scores.counts["skipped"][goal.latency]
    value = goal_value(goal, scores) if records else (None, None)
    if instances < LEAST_UTTERANCES:
        return CandidateScore(instances, measured, value, None)
    needed = Statistics(
        {goal.quality: statistics.quality[goal.quality]},
        {goal.latency: statistics.values[goal.latency]},
        {},
        statistics.recordings,
    )
    found = bootstrap_metrics(needed, instances, Bootstrap())
    return CandidateScore(instances, measured, value, np.stack([found[goal.quality], found[goal.latency]]))


def make_scorer(candidates: Candidates, records: Iterable[EmissionRecord]) -> CorpusScorer | LongFormScorer:
    """Return a scorer of these records, added in the order of the dev set."""
    measure, tokenizer = Measure(candidates.settings.latency_unit), candidates.settings.bleu_tokenizer
    ordered = sorted(records, key=lambda record: record.index)
    if candidates.dev_set.recordings is not None:
        references = {recording.row: recording.references for recording in candidates.dev_set.usable}
        recordings = LongFormScorer(measure, tokenizer, keep=True)
        for record in ordered:
            recordings.add(record, references[record.index])
        return recordings
    scorer = CorpusScorer(measure, tokenizer, keep=True)
    for record in ordered:
        scorer.add(record)
    return scorer


def goal_value(goal: Goal, scores: CorpusScores) -> tuple[float | None, float | None]:
    """Return (quality, latency)."""
    return scores.corpus[goal.quality], scores.corpus[goal.latency]
