"""Scores of a corpus of emission records: every value with its counts and its signature.

Records are added one by one and not kept: what stays is a number per instance and metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulsa_plugin.metrics.columns import Columns
from simulsa_plugin.metrics.degeneracy import is_degenerate
from simulsa_plugin.metrics.instance import (
    COMPUTATION_AWARE,
    CUT_OFF,
    LATENCY,
    PERCENT,
    RATIOS,
    SAME_UNITS,
    Measure,
    Values,
    computation_aware_latencies,
    latencies,
    ratio_terms,
    same_unit_latencies,
)
from simulsa_plugin.metrics.quality import QUALITY, QualityMetric, default_tokenizer, make_metrics
from simulsa_plugin.metrics.records import EmissionRecord, fits_unit, has_unpaired_elapsed, is_empty, is_non_monotone
from simulsa_plugin.metrics.significance import Bootstrap, Interval, Statistics, intervals

LATENCIES = (*LATENCY, *(name + COMPUTATION_AWARE for name in LATENCY), *(name + SAME_UNITS for name in CUT_OFF))
SENTENCE_METRICS = (*QUALITY, *LATENCIES)  # an instance has a value
METRICS = (*SENTENCE_METRICS, *RATIOS)
BATCH = 512  # sentences whose texts are kept until their n-grams are counted


@dataclass(frozen=True)
class CorpusScores:
    """What `score` reports.

    Attributes:
        corpus: metric → mean, or corpus score for BLEU and chrF, or ratio of sums for SWF, EFSW and NE; None where
            nothing was measured. Milliseconds; AP and NE are ratios; SWF and EFSW percent; BLEU and chrF 0…100.
        percentiles: latency → p50 and p90 over the instances.
        degenerate: OmniSTEval's verdict on the policy, see `metrics.degeneracy`; None where it has none.
        counts: instances; empty (nothing emitted); skipped {metric: instances without a value, the empty included};
            dropped {YAAL…: instances not empty that wrote nothing before the source ended}; non_monotone;
            unit_mismatch; unpaired_elapsed; no_reference.
        signatures: the exact definition of each value.
        intervals: metric → 95 % interval, or None where too few resamples have a value; None unless asked for.
        sentences: metric → value or None per record, in the order given; None unless asked for.
    """

    corpus: dict[str, float | None]
    percentiles: dict[str, dict[str, float | None]]
    degenerate: bool | None
    counts: dict[str, Any]
    signatures: dict[str, str]
    intervals: dict[str, Interval | None] | None = None
    sentences: dict[str, list[float | None]] | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The JSON object of `simulsa-eval score`."""
        scores = {"corpus": self.corpus, "percentiles": self.percentiles, "degenerate": self.degenerate,
                  "counts": self.counts, "signatures": self.signatures}
        if self.intervals is not None:
            scores["intervals"] = {name: found and [found.low, found.high] for name, found in self.intervals.items()}
        return scores if self.sentences is None else scores | {"sentences": self.sentences}


class CorpusScorer:
    """Scores records as they come.

    Args:
        measure: how latency is counted.
        tokenizer: sacrebleu's tokenizer for BLEU; None takes the one that goes with the unit.
        keep: keep the n-gram counts of every sentence, which `statistics` needs, and bootstrap intervals.
        sentences: also give the value of each record.

    Raises:
        UsageError: unknown tokenizer.
        MissingExtraError: the tokenizer's package is missing.
    """

    def __init__(
        self, measure: Measure, tokenizer: str | None = None, *, keep: bool = False, sentences: bool = False
    ) -> None:
        self.measure = measure
        self._latencies = Columns(LATENCIES)
        self._terms = Columns(f"{name} {term}" for name in RATIOS for term in _TERMS)
        self._texts = _Texts(make_metrics(tokenizer or default_tokenizer(measure.unit)), keep, sentences)
        self._sentences = sentences
        self._long_form = False
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._written = dict.fromkeys(_DROPPING, 0)

    def add(self, record: EmissionRecord) -> None:
        """Score a record."""
        plain = latencies(record, self.measure)
        aware = computation_aware_latencies(record, self.measure)
        same = same_unit_latencies(record, self.measure)
        self._latencies.append(plain | _suffixed(aware, COMPUTATION_AWARE) | _suffixed(same, SAME_UNITS))
        self._terms.append({f"{name} {term}": terms and value
                            for name, terms in ratio_terms(record, self.measure, plain["YAAL"]).items()
                            for term, value in zip(_TERMS, terms or (None, None), strict=True)})
        self._texts.add(record.prediction, record.reference)
        self._count(record)

    def scores(self, bootstrap: Bootstrap | None = None) -> CorpusScores:
        """The scores of all records that were added.

        Args:
            bootstrap: how to resample for intervals; only with `keep`.
        """
        quality = self._texts.scores()
        corpus = quality | {name: self._latencies.mean(name) for name in LATENCIES} | self._ratios()
        return CorpusScores(
            {name: corpus[name] for name in METRICS},
            {name: self._latencies.percentiles(name) for name in LATENCIES},
            is_degenerate(corpus["SWF"], corpus["EFSW"]),
            self._all_counts(),
            self._texts.signatures() | self.measure.signatures(long_form=self._long_form),
            None if bootstrap is None else intervals(self.statistics(), bootstrap),
            self._listed() if self._sentences else None,
        )

    def statistics(self) -> Statistics:
        """What can be resampled: all that the corpus scores are made of, per record."""
        ratios = {name: (self._terms.values(f"{name} {_TERMS[0]}") * _scale(name),
                         self._terms.values(f"{name} {_TERMS[1]}")) for name in RATIOS}
        return Statistics(self._texts.kept(), {name: self._latencies.values(name) for name in LATENCIES}, ratios)

    def _ratios(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for name in RATIOS:
            numerator, denominator = (float(self._terms.present(f"{name} {term}").sum()) for term in _TERMS)
            found[name] = _scale(name) * numerator / denominator if denominator > 0 else None
        return found

    def _count(self, record: EmissionRecord) -> None:
        self._long_form = self._long_form or record.recording_end is not None
        self._counts["instances"] += 1
        self._counts["empty"] += is_empty(record)
        self._counts["non_monotone"] += is_non_monotone(record)
        self._counts["unit_mismatch"] += not fits_unit(record, self.measure.unit)
        self._counts["unpaired_elapsed"] += has_unpaired_elapsed(record)
        self._counts["no_reference"] += record.reference is None
        for name, times in zip(_DROPPING, (record.delays, record.elapsed, record.elapsed), strict=True):
            self._written[name] += bool(times)

    def _all_counts(self) -> dict[str, Any]:
        instances = self._counts["instances"]
        skipped = self._texts.skipped() | {name: self._latencies.skipped(name) for name in LATENCIES}
        skipped |= {name: self._terms.skipped(f"{name} {_TERMS[0]}") for name in RATIOS}
        dropped = {name: skipped[name] - (instances - written) for name, written in self._written.items()}
        return self._counts | {"skipped": {name: skipped[name] for name in METRICS}, "dropped": dropped}

    def _listed(self) -> dict[str, list[float | None]]:
        return self._texts.listed() | {name: self._latencies.listed(name) for name in LATENCIES}


def score_records(
    records: Iterable[EmissionRecord],
    *,
    unit: str = "word",
    tokenizer: str | None = None,
    use_ref_len: bool = True,
    sentences: bool = False,
    bootstrap: Bootstrap | None = None,
) -> CorpusScores:
    """Score a corpus: BLEU, chrF, latencies with their computation-aware twins, and what it says of the policy.

    Args:
        records: one per utterance, in the order of the log.
        unit: latency unit, word or char.
        tokenizer: sacrebleu's tokenizer for BLEU; None takes the one that goes with the unit.
        use_ref_len: count Y of the formulas on the reference (SimulEval's default), else on the prediction.
        sentences: also give the value of each record.
        bootstrap: also give intervals.

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
    scorer = CorpusScorer(Measure(unit, use_ref_len), tokenizer, keep=bootstrap is not None, sentences=sentences)
    for record in records:
        scorer.add(record)
    return scorer.scores(bootstrap)


_TERMS = ("numerator", "denominator")
_COUNTED = ("instances", "empty", "non_monotone", "unit_mismatch", "unpaired_elapsed", "no_reference")
_DROPPING = ("YAAL", "YAAL" + COMPUTATION_AWARE, "YAAL" + SAME_UNITS)


def _suffixed(values: Values, suffix: str) -> Values:
    return {name + suffix: value for name, value in values.items()}


def _scale(name: str) -> float:
    return 100.0 if name in PERCENT else 1.0


class _Texts:
    """BLEU and chrF of sentences that come one by one.

    A sentence whose reference is null is skipped. Where no sentence has a word of reference nothing is measured: a
    zero would claim a bad translation.
    """

    def __init__(self, metrics: Sequence[QualityMetric], keep: bool, sentences: bool) -> None:
        self._metrics = metrics
        self._keep = keep
        self._with_sentences = sentences
        self._waiting: list[tuple[str, str | None]] = []
        self._sums: dict[str, Any] = dict.fromkeys(QUALITY, 0)
        self._kept: dict[str, list[NDArray[np.int32]]] = {name: [] for name in QUALITY}
        self._sentences: dict[str, list[float | None]] = {name: [] for name in QUALITY}
        self._total = self.measured = 0
        self._has_reference = False

    def add(self, hypothesis: str, reference: str | None) -> None:
        self._waiting.append((hypothesis, reference))
        self._total += 1
        self.measured += reference is not None
        self._has_reference = self._has_reference or bool(reference and reference.strip())
        if len(self._waiting) >= BATCH:
            self._flush()

    def scores(self) -> dict[str, float | None]:
        self._flush()
        return {metric.name: metric.score(self._sums[metric.name]) if self._has_reference else None
                for metric in self._metrics}

    def signatures(self) -> dict[str, str]:
        if not self._has_reference:
            return {}
        found = {metric.name: metric.signature for metric in self._metrics}
        if self._with_sentences:
            found |= {f"{metric.name}_sentence": metric.sentence_signature for metric in self._metrics}
        return found

    def skipped(self) -> dict[str, int]:
        return dict.fromkeys(QUALITY, self._total - self.measured if self._has_reference else self._total)

    def listed(self) -> dict[str, list[float | None]]:
        self._flush()
        return self._sentences if self._has_reference else {name: [None] * self._total for name in QUALITY}

    def kept(self) -> dict[str, tuple[QualityMetric, NDArray[np.int32]]]:
        self._flush()
        return {metric.name: (metric, np.concatenate(self._kept[metric.name]))
                for metric in self._metrics} if self._has_reference else {}

    def _flush(self) -> None:
        if not self._waiting:
            return
        measured = np.array([reference is not None for _, reference in self._waiting])
        hypotheses = [hypothesis for hypothesis, _ in self._waiting]
        references = [reference or "" for _, reference in self._waiting]
        for metric in self._metrics:
            # A null reference adds nothing: its row of counts is all zeros.
            counts = metric.statistics(hypotheses, references) * measured[:, None]
            self._sums[metric.name] = self._sums[metric.name] + counts.sum(axis=0)
            if self._keep:
                self._kept[metric.name].append(counts.astype(np.int32))
            if self._with_sentences:
                scores = zip(metric.sentence_scores(counts), measured, strict=True)
                self._sentences[metric.name] += [score if there else None for score, there in scores]
        self._waiting.clear()


