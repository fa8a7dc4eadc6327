"""The limit of a test set with truth: every unit of the reference at the first step at which it is supported.

Supported is what is certain from the audio heard, whatever may follow. No policy and no model translates it sooner
without guessing, so a cell's distance from it is what is left to gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from simulsa_plugin.metrics.corpus_scores import CorpusScorer
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit, count_units

LIMIT = "limit"  # stands for a policy in tables, never among the cells of scores.json
LIMITS = "limits"  # of scores.json
ABOVE = {name: f"{name}_above_limit" for name in ("LAAL", "YAAL")}  # of a cell: milliseconds
_ROUNDING = 1e-9  # of seconds that were multiplied


class SupportedPrefixes(Protocol):
    """What can be said of each row of a test set, whatever may follow."""

    def supported(self, row: int, reference: str) -> Sequence[tuple[float, str]] | None:
        """(Seconds heard, the part of the reference that they support), in order; ∞ is the end. None: not known."""
        ...


def limits(
    records: Iterable[tuple[int, EmissionRecord]],
    truth: SupportedPrefixes,
    chunks: Sequence[float],
    measure: Measure,
    tokenizer: str,
) -> list[dict[str, Any]]:
    """Score the limit for each chunk, and for a system that may write at any moment.

    Args:
        records: of the offline cell, with the rows of the test set: references and lengths of the source.
        truth: of the test set.
        chunks: k in milliseconds.
        measure: latency unit, and which length counts.
        tokenizer: of BLEU; the translation is the reference.

    Returns:
        Rows as those of `cells` in scores.json; none where nothing is known of any utterance.
    """
    known = [
        (record, said)
        for row, record in records
        if record.reference and record.source_length and (said := truth.supported(row, record.reference))
    ]
    return [_row(known, chunk, measure, tokenizer) for chunk in (None, *sorted(chunks))] if known else []


def earliest_delays(
    said: Sequence[tuple[float, str]], unit: LatencyUnit, chunk_ms: float | None, source_length: float
) -> tuple[float, ...]:
    """Milliseconds heard when each unit can be written first, in steps of a chunk or at once (None).

    The last step hears what is left, as in decoding.

    >>> earliest_delays([(0.4, ""), (0.9, "das Haus"), (math.inf, "das Haus ist alt")], "word", 500.0, 1400.0)
    (1000.0, 1000.0, 1400.0, 1400.0)
    """
    delays: list[float] = []
    for seconds, text in said:
        heard = seconds * 1000
        step = (
            heard
            if chunk_ms is None or math.isinf(heard)
            else max(1, math.ceil(heard / chunk_ms - _ROUNDING)) * chunk_ms
        )
        delays += [min(step, source_length)] * (count_units(text, unit) - len(delays))
    return tuple(delays)


def add_distances(cells: Iterable[dict[str, Any]], limit_rows: Iterable[Mapping[str, Any]]) -> None:
    """Add to each streaming cell how far its latency lies above the limit of its chunk."""
    by_chunk = {row["chunk_ms"]: row for row in limit_rows if row["chunk_ms"] is not None}
    for cell in cells:
        limit = by_chunk.get(cell["chunk_ms"])
        for name, key in ABOVE.items() if limit else ():
            known = cell[name] is not None and limit is not None and limit[name] is not None
            cell[key] = cell[name] - limit[name] if known and limit is not None else None


def _row(
    known: Sequence[tuple[EmissionRecord, Sequence[tuple[float, str]]]],
    chunk: float | None,
    measure: Measure,
    tokenizer: str,
) -> dict[str, Any]:
    scorer = CorpusScorer(measure, tokenizer, keep=False)
    for record, said in known:
        delays = earliest_delays(said, measure.unit, chunk, record.source_length or 0.0)
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
