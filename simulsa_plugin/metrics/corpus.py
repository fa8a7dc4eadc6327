"""Scores of a corpus of emission records: every value with its counts and its signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from simulsa_plugin.metrics import latency, quality
from simulsa_plugin.metrics.records import (
    EmissionRecord,
    check_unit,
    fits_unit,
    has_unpaired_elapsed,
    is_empty,
    is_non_monotone,
    simuleval_reference_length,
)

QUALITY = ("BLEU", "chrF")
LATENCY = ("AL", "LAAL", "AP", "DAL", "ATD", "YAAL")
COMPUTATION_AWARE = "_CA"
METRICS = (*QUALITY, *LATENCY, *(name + COMPUTATION_AWARE for name in LATENCY))

_SIMULEVAL = "1.1.4"
_OMNISTEVAL = "0.1.10"


@dataclass(frozen=True)
class Measure:
    """How latency is counted: in which unit, and against the reference's length or the prediction's."""

    unit: str = "word"
    use_ref_len: bool = True

    def __post_init__(self) -> None:
        check_unit(self.unit)

    def target_length(self, record: EmissionRecord, times: Sequence[float], *, stripped: bool = False) -> int:
        """Y of the formulas; `stripped` drops the white space around the reference first, as OmniSTEval does."""
        if not self.use_ref_len or record.reference is None:
            return len(times)
        reference = record.reference.strip() if stripped else record.reference
        return simuleval_reference_length(reference, self.unit)

    def signatures(self) -> dict[str, str]:
        """What makes two latencies comparable, in sacrebleu's way of writing it."""
        fields = f"unit:{self.unit}|len:{'ref' if self.use_ref_len else 'hyp'}|mean:nonempty"
        return {"latency": f"{fields}|as:SimulEval-{_SIMULEVAL}",
                "YAAL": f"{fields}|form:short|as:OmniSTEval-{_OMNISTEVAL}"}


@dataclass(frozen=True)
class CorpusScores:
    """What `score` reports.

    Attributes:
        corpus: metric → mean, or corpus score for BLEU and chrF; None where nothing was measured. Milliseconds; AP is
            a ratio; BLEU and chrF 0…100.
        counts: instances; empty (nothing emitted); skipped {metric: instances without a value, the empty included};
            dropped {YAAL…: instances not empty that wrote nothing before the source ended}; non_monotone;
            unit_mismatch; unpaired_elapsed; no_reference.
        signatures: the exact definition of each value.
        sentences: metric → value or None per record, in the order given; None unless asked for.
    """

    corpus: dict[str, float | None]
    counts: dict[str, Any]
    signatures: dict[str, str]
    sentences: dict[str, list[float | None]] | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The JSON object of `simulsa-eval score`."""
        scores = {"corpus": self.corpus, "counts": self.counts, "signatures": self.signatures}
        return scores if self.sentences is None else scores | {"sentences": self.sentences}


def score_records(
    records: Sequence[EmissionRecord],
    *,
    unit: str = "word",
    tokenizer: str | None = None,
    use_ref_len: bool = True,
    sentences: bool = False,
) -> CorpusScores:
    """Score a corpus: BLEU, chrF and the six latencies with their computation-aware twins.

    Args:
        records: one per utterance, in the order of the log.
        unit: latency unit, word or char.
        tokenizer: sacrebleu's tokenizer for BLEU; None takes the one that goes with the unit.
        use_ref_len: count Y of the formulas on the reference (SimulEval's default), else on the prediction.
        sentences: also give the value of each record.

    Returns:
        Means over the records that have a value; `counts` says how many have none.

    Raises:
        UsageError: unknown unit or tokenizer.
        MissingExtraError: the tokenizer's package is missing.

    >>> record = EmissionRecord(0, "a b c", "a b d", (1000.0, 2000.0, 4000.0), source_length=4000.0)
    >>> scores = score_records([record])
    >>> scores.corpus["AL"], scores.corpus["AL_CA"], scores.counts["skipped"]["AL_CA"]
    (1000.0, None, 1)
    """
    measure = Measure(unit, use_ref_len)
    quality_values, quality_corpus, signatures = _score_quality(
        records, tokenizer or quality.default_tokenizer(unit), sentences)
    values = quality_values | latency_values(records, measure)
    corpus = quality_corpus | {name: mean_of_values(values[name]) for name in METRICS if name not in QUALITY}
    return CorpusScores(
        {name: corpus[name] for name in METRICS},
        _count(records, unit, values),
        signatures | measure.signatures(),
        {name: values[name] for name in METRICS} if sentences else None,
    )


def latency_values(records: Sequence[EmissionRecord], measure: Measure) -> dict[str, list[float | None]]:
    """The latency of each record: metric → value, or None where it has none; computation-aware twins included."""
    formulas = _formulas(measure)
    values = {name: [formula(record, record.delays) for record in records] for name, formula in formulas.items()}
    return values | {name + COMPUTATION_AWARE: [formula(record, record.elapsed or ()) for record in records]
                     for name, formula in formulas.items()}


def mean_of_values(values: Sequence[float | None]) -> float | None:
    """Mean over the values that are there; None where none is.

    >>> mean_of_values([1.0, None, 3.0]), mean_of_values([None])
    (2.0, None)
    """
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def _formulas(measure: Measure) -> dict[str, Callable[[EmissionRecord, Sequence[float]], float | None]]:
    """Metric → function of a record and its times (delays or elapsed)."""
    length = measure.target_length
    return {
        "AL": lambda r, times: latency.average_lagging(times, r.source_length, length(r, times)),
        "LAAL": lambda r, times: latency.length_adaptive_average_lagging(times, r.source_length, length(r, times)),
        "AP": lambda r, times: latency.average_proportion(times, r.source_length, length(r, times)),
        "DAL": lambda r, times: latency.differentiable_average_lagging(times, r.source_length),
        "ATD": _token_delay,
        "YAAL": lambda r, times: latency.yet_another_average_lagging(
            times, r.source_length, length(r, times, stripped=True)),
    }


def _token_delay(record: EmissionRecord, times: Sequence[float]) -> float | None:
    """ATD aligns by the delays in both cases; elapsed times only add the time of computation."""
    return latency.average_token_delay(record.delays, None if times is record.delays else times)


def _score_quality(
    records: Sequence[EmissionRecord], tokenizer: str, sentences: bool
) -> tuple[dict[str, list[float | None]], dict[str, float | None], dict[str, str]]:
    """Values per record, corpus scores and signatures of BLEU and chrF.

    A record whose reference is null is skipped. Where no record has a word of reference nothing is measured: a zero
    would claim a bad translation.
    """
    measured = [i for i, record in enumerate(records) if record.reference is not None]
    hypotheses = [records[i].prediction for i in measured]
    references = [records[i].reference or "" for i in measured]
    if not any(reference.strip() for reference in references):
        quality.make_bleu(tokenizer)  # a wrong tokenizer is an error here too
        return {name: [None] * len(records) for name in QUALITY}, dict.fromkeys(QUALITY), {}
    scored = {"BLEU": quality.bleu(hypotheses, references, tokenizer, sentences=sentences),
              "chrF": quality.chrf(hypotheses, references, sentences=sentences)}
    values: dict[str, list[float | None]] = {}
    signatures = {name: score.signature for name, score in scored.items()}
    for name, score in scored.items():
        # Without sentence scores the corpus score marks the records that were measured: only None is looked at.
        by_record = dict(zip(measured, score.sentences or [score.score] * len(measured), strict=True))
        values[name] = [by_record.get(i) for i in range(len(records))]
        if score.sentence_signature:
            signatures[f"{name}_sentence"] = score.sentence_signature
    return values, {name: score.score for name, score in scored.items()}, signatures


def _count(
    records: Sequence[EmissionRecord], unit: str, values: dict[str, list[float | None]]
) -> dict[str, Any]:
    """The counts that go with the values."""
    emitted = {"YAAL": [bool(record.delays) for record in records],
               "YAAL_CA": [bool(record.elapsed) for record in records]}
    return {
        "instances": len(records),
        "empty": sum(map(is_empty, records)),
        "skipped": {name: sum(value is None for value in values[name]) for name in METRICS},
        "dropped": {name: sum(wrote and value is None for wrote, value in zip(flags, values[name], strict=True))
                    for name, flags in emitted.items()},
        "non_monotone": sum(map(is_non_monotone, records)),
        "unit_mismatch": sum(not fits_unit(record, unit) for record in records),
        "unpaired_elapsed": sum(map(has_unpaired_elapsed, records)),
        "no_reference": sum(record.reference is None for record in records),
    }
