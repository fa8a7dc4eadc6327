"""The latency limit of a test set with known alignment: each reference unit as soon as the audio supports it.

A unit is supported when it is certain from the audio so far, whatever follows. No policy can write it earlier without
guessing, so the distance of a cell from the limit is the possible gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from simulsa_plugin.metrics.corpus_scores import CorpusScorer, CorpusScores
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.long_form import LongFormScorer
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit, count_units
from simulsa_plugin.metrics.resegmentation import milliseconds
from simulsa_plugin.segments import ReferenceSegment

LIMIT = "limit"  # in place of a policy in tables; not among the cells of scores.json
LIMITS = "limits"  # of scores.json
ABOVE = {
    name: f"{name}_above_limit" for name in ("LAAL", "YAAL", "LongLAAL", "LongYAAL")
}  # keys of a cell, milliseconds
_ROUNDING = 1e-9  # relative, of products of floats


class SupportedPrefixes(Protocol):
    """Which part of the reference the audio supports at each time, for the rows of a test set."""

    def parts(self, row: int, reference: str, source_ms: float) -> Sequence[_Part] | None:
        """Return the parts of a source, one of an utterance or the sentences of a recording; None where unknown.

        Each with (seconds of the part, supported part of its reference) in order, ∞ for its end.
        """
        ...

    def segments(self, row: int) -> Sequence[ReferenceSegment]:
        """Return the reference segments of a row that is a recording; none where it is one utterance."""
        ...


_Part = tuple[ReferenceSegment, Sequence[tuple[float, str]]]
_Known = tuple[EmissionRecord, Sequence[_Part], Sequence[ReferenceSegment]]


def limits(
    records: Iterable[tuple[int, EmissionRecord]],
    truth: SupportedPrefixes,
    chunks: Sequence[float],
    measure: Measure,
    tokenizer: str,
) -> list[dict[str, Any]]:
    """Score the limit for each chunk length, and for a system that can write at any time.

    Args:
        records: of the offline cell, with the rows of the test set: references and lengths of the source.
        truth: supported parts of the references of the test set.
        chunks: k in milliseconds.
        measure: how latency is counted.
        tokenizer: of BLEU; the translation is the reference.

    Returns:
        Rows like those of `cells` in scores.json; empty where nothing is known about any utterance. Those of
        recordings have the metrics of `LongFormScorer`.
    """
    known = [
        (record, parts, truth.segments(row))
        for row, record in records
        if record.reference
        and record.source_length
        and (parts := truth.parts(row, record.reference, record.source_length))
    ]
    return [_score_limit(known, chunk, measure, tokenizer) for chunk in (None, *sorted(chunks))] if known else []


def earliest_delays(
    supported: Sequence[tuple[float, str]], unit: LatencyUnit, chunk_ms: float | None, source_length: float
) -> tuple[float, ...]:
    """Return the earliest delay of each unit, milliseconds, in steps of a chunk or at any time (None).

    The last step has the rest of the audio, as in decoding.

    >>> earliest_delays([(0.4, ""), (0.9, "das Haus"), (math.inf, "das Haus ist alt")], "word", 500.0, 1400.0)
    (1000.0, 1000.0, 1400.0, 1400.0)
    """
    delays: list[float] = []
    for seconds, text in supported:
        received = seconds * 1000
        step = (
            received
            if chunk_ms is None or math.isinf(received)
            else max(1, math.ceil(received / chunk_ms - _ROUNDING)) * chunk_ms
        )
        delays += [min(step, source_length)] * (count_units(text, unit) - len(delays))
    return tuple(delays)


def add_distances(cells: Iterable[dict[str, Any]], limit_rows: Iterable[Mapping[str, Any]]) -> None:
    """Add to each streaming cell its latency above the limit of its chunk."""
    by_chunk = {row["chunk_ms"]: row for row in limit_rows if row["chunk_ms"] is not None}
    for cell in cells:
        limit = by_chunk.get(cell["chunk_ms"])
        for name, key in ABOVE.items() if limit else ():
            if name in cell and limit is not None:
                known = cell[name] is not None and limit.get(name) is not None
                cell[key] = cell[name] - limit[name] if known else None


def _score_limit(known: Sequence[_Known], chunk: float | None, measure: Measure, tokenizer: str) -> dict[str, Any]:
    written = [(_at_the_limit(record, parts, chunk, measure.unit), segments) for record, parts, segments in known]
    long_form = any(segments for _, segments in written)
    scores = (_score_recordings if long_form else _score_utterances)(written, measure, tokenizer).as_json()
    counts = scores["counts"]
    return {
        "policy": LIMIT,
        "chunk_ms": chunk,
        "rollback": None,
        "parameters": {},
        **scores["corpus"],
        "instances": counts["instances"],
        "empty": counts["empty"],
        "counts": counts,
    }


def _at_the_limit(
    record: EmissionRecord, parts: Sequence[_Part], chunk: float | None, unit: LatencyUnit
) -> EmissionRecord:
    """Return a record of the same utterance or recording, with its reference written as early as can be.

    Chunks count from the start of each part, and its last step is at its end.
    """
    delays = [
        milliseconds(segment.offset_seconds) + delay
        for segment, supported in parts
        for delay in earliest_delays(supported, unit, chunk, milliseconds(segment.duration_seconds))
    ]
    reference = record.reference or ""
    name = str(record.index)
    return EmissionRecord(
        record.index, reference, reference, tuple(delays), source_length=record.source_length, source=name, erased=0
    )


_Written = Sequence[tuple[EmissionRecord, Sequence[ReferenceSegment]]]


def _score_utterances(written: _Written, measure: Measure, tokenizer: str) -> CorpusScores:
    scorer = CorpusScorer(measure, tokenizer, keep=False)
    for record, _ in written:
        scorer.add(record)
    return scorer.scores()


def _score_recordings(written: _Written, measure: Measure, tokenizer: str) -> CorpusScores:
    scorer = LongFormScorer(measure, tokenizer, keep=False)
    for record, segments in written:
        scorer.add(record, segments)
    return scorer.scores()
