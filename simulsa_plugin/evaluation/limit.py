"""The latency limit of a test set with known alignment: each reference unit as soon as the audio supports it.

A unit is supported when it is certain from the audio so far, whatever follows. No policy can write it earlier without
guessing, so the distance of a cell from the limit is the possible gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from simulsa_plugin.metrics.corpus_scores import CorpusScorer
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit, count_units

LIMIT = "limit"  # in place of a policy in tables; not among the cells of scores.json
LIMITS = "limits"  # of scores.json
ABOVE = {name: f"{name}_above_limit" for name in ("LAAL", "YAAL")}  # keys of a cell, milliseconds
_ROUNDING = 1e-9  # relative, of products of floats


class SupportedPrefixes(Protocol):
    """Which part of the reference the audio supports at each time, for the rows of a test set."""

    def supported(self, row: int, reference: str) -> Sequence[tuple[float, str]] | None:
        """Return (seconds of audio, supported part of the reference) in order, ∞ for the end; None where unknown."""
        ...


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
        Rows like those of `cells` in scores.json; empty where nothing is known about any utterance.
    """
    known = [
        (record, supported)
        for row, record in records
        if record.reference and record.source_length and (supported := truth.supported(row, record.reference))
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
            known = cell[name] is not None and limit is not None and limit[name] is not None
            cell[key] = cell[name] - limit[name] if known and limit is not None else None


def _score_limit(
    known: Sequence[tuple[EmissionRecord, Sequence[tuple[float, str]]]],
    chunk: float | None,
    measure: Measure,
    tokenizer: str,
) -> dict[str, Any]:
    scorer = CorpusScorer(measure, tokenizer, keep=False)
    for record, supported in known:
        delays = earliest_delays(supported, measure.unit, chunk, record.source_length or 0.0)
        scorer.add(
            EmissionRecord(
                record.index,
                record.reference or "",
                record.reference,
                delays,
                source_length=record.source_length,
                erased=0,
            )
        )
    scores = scorer.scores().as_json()
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
