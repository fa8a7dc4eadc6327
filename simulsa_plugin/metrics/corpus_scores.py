"""Scores of a corpus of emission records: every value with its counts and its signature.

Records are added one by one and not kept: only a number per instance and metric is.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulsa_plugin.metrics.columns import MetricColumns
from simulsa_plugin.metrics.degeneracy import is_degenerate
from simulsa_plugin.metrics.instance import (
    BASE_LATENCIES,
    CA_CU_SUFFIX,
    CA_SUFFIX,
    LONG_LATENCIES,
    LONG_PREFIX,
    PERCENT_METRICS,
    RATIO_METRICS,
    SOURCE_BOUNDED,
    Measure,
    MetricValues,
    computation_aware_latencies,
    latencies,
    ratio_terms,
    same_unit_latencies,
)
from simulsa_plugin.metrics.quality import QUALITY_METRICS, default_tokenizer
from simulsa_plugin.metrics.quality_scorer import QualityScorer
from simulsa_plugin.metrics.records import (
    EmissionRecord,
    LatencyUnit,
    fits_unit,
    has_unpaired_elapsed,
    is_empty,
    is_non_monotone,
)
from simulsa_plugin.metrics.significance import LEAST_RECORDINGS, Bootstrap, Interval, Statistics, intervals

LATENCY_METRICS = (
    *BASE_LATENCIES,
    *(name + CA_SUFFIX for name in BASE_LATENCIES),
    *(name + CA_CU_SUFFIX for name in SOURCE_BOUNDED),
)
SENTENCE_METRICS = (*QUALITY_METRICS, *LATENCY_METRICS)  # an instance has a value
METRICS = (*SENTENCE_METRICS, *RATIO_METRICS)
SEGMENT_LATENCIES = (  # of segments of recordings
    *LONG_LATENCIES,
    *(name + CA_SUFFIX for name in LONG_LATENCIES),
    *(name + CA_CU_SUFFIX for name in LONG_LATENCIES if name in SOURCE_BOUNDED),
)


@dataclass(frozen=True)
class CorpusScores:
    """The result of `simulsa-eval score`.

    Of a log of segments of recordings, `corpus`, `percentiles`, `intervals` and `sentences` also have LONG_LATENCIES
    with their prefix.

    Attributes:
        corpus: metric → mean, or corpus score for BLEU and chrF, or ratio of sums for SWF, EFSW and NE; None where
            nothing was measured. Milliseconds; AP and NE are ratios; SWF and EFSW percent; BLEU and chrF 0…100.
        percentiles: latency → p50 and p90 over the instances.
        degenerate: whether OmniSTEval's test finds the policy degenerate, see `metrics.degeneracy`; None if untestable.
        counts: instances; empty (nothing emitted); skipped {metric: instances without a value, the empty included};
            dropped {YAAL…: instances not empty that wrote nothing before the source ended}; non_monotone;
            unit_mismatch; unpaired_elapsed; no_reference; text_source (the source is text, and latencies are in its
            tokens instead of milliseconds).
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
        """Return the JSON object of `simulsa-eval score`."""
        scores = {
            "corpus": self.corpus,
            "percentiles": self.percentiles,
            "degenerate": self.degenerate,
            "counts": self.counts,
            "signatures": self.signatures,
        }
        if self.intervals is not None:
            scores["intervals"] = {name: found and found.as_json() for name, found in self.intervals.items()}
        return scores if self.sentences is None else scores | {"sentences": self.sentences}


class CorpusScorer:
    """Scores a stream of records.

    Args:
        measure: how latency is counted.
        tokenizer: sacrebleu's tokenizer for BLEU; None takes the one that goes with the unit.
        keep: keep the n-gram counts of every sentence, which `statistics` needs, and bootstrap intervals.
        sentences: also give the value of each record.
        executor: counts n-grams in other processes; the scores are the same.

    Raises:
        UsageError: unknown tokenizer.
        MissingExtraError: the tokenizer's package is missing.
    """

    def __init__(
        self,
        measure: Measure,
        tokenizer: str | None = None,
        *,
        keep: bool = False,
        sentences: bool = False,
        executor: Executor | None = None,
    ) -> None:
        self.measure = measure
        self._latencies = MetricColumns(LATENCY_METRICS)
        self._terms = MetricColumns(f"{name} {term}" for name in RATIO_METRICS for term in _TERMS)
        self._texts = QualityScorer(
            tokenizer or default_tokenizer(measure.unit), keep=keep, sentences=sentences, executor=executor
        )
        self._sentences = sentences
        self._long_form = False
        self._recordings: dict[str, int] = {}
        self._recording_of = array("q")
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._dropped = dict.fromkeys(_DROPPING, 0)

    def add(self, record: EmissionRecord) -> None:
        """Score a record."""
        plain = latencies(record, self.measure)
        aware = computation_aware_latencies(record, self.measure)
        same = same_unit_latencies(record, self.measure)
        self._latencies.append(plain | _add_suffix(aware, CA_SUFFIX) | _add_suffix(same, CA_CU_SUFFIX))
        self._terms.append(
            {
                f"{name} {term}": terms and value
                for name, terms in ratio_terms(record, self.measure, plain["YAAL"]).items()
                for term, value in zip(_TERMS, terms or (None, None), strict=True)
            }
        )
        self._texts.add(record.prediction, record.reference)
        self._count(record)
        self._count_dropped(record, (plain["YAAL"], aware["YAAL"], same["YAAL"]))

    def scores(self, bootstrap: Bootstrap | None = None) -> CorpusScores:
        """Compute the scores of all records that were added.

        Args:
            bootstrap: how to resample for intervals; only with `keep`.
        """
        quality = self._texts.scores()
        corpus = quality | {name: self._latencies.mean(name) for name in LATENCY_METRICS} | self._ratios()
        statistics = None if bootstrap is None else self.statistics()
        return CorpusScores(
            self._with_long_names({name: corpus[name] for name in METRICS}),
            self._with_long_names({name: self._latencies.percentiles(name) for name in LATENCY_METRICS}),
            is_degenerate(corpus["SWF"], corpus["EFSW"]),
            self._all_counts(),
            self._texts.signatures()
            | self.measure.signatures(long_form=self._long_form, text_source=self._has_text_sources())
            | self._resampling_signature(),
            None
            if bootstrap is None or statistics is None
            else self._with_long_names(dict.fromkeys(METRICS)) | intervals(statistics, bootstrap),
            self._with_long_names(self._sentence_values()) if self._sentences else None,
        )

    def statistics(self) -> Statistics:
        """Return the statistics of each record, from which the corpus scores of a resample are computed."""
        ratios = {
            name: (
                self._terms.values(f"{name} {_TERMS[0]}") * _ratio_scale(name),
                self._terms.values(f"{name} {_TERMS[1]}"),
            )
            for name in RATIO_METRICS
        }
        return Statistics(
            self._texts.kept(),
            self._with_long_names({name: self._latencies.values(name) for name in LATENCY_METRICS}),
            ratios,
            np.frombuffer(self._recording_of, dtype=np.int64) if self._all_of_recordings() else None,
        )

    def _all_of_recordings(self) -> bool:
        """Return whether every record is a segment of a known recording."""
        return bool(self._recordings) and self._counts["instances"] == len(self._recording_of)

    def _with_long_names(self, values: dict[str, Any]) -> dict[str, Any]:
        """Add the values of segments of recordings under their own names; of whole utterances nothing."""
        if not self._long_form:
            return values
        return values | {LONG_PREFIX + name: values[name] for name in SEGMENT_LATENCIES if name in values}

    def _resampling_signature(self) -> dict[str, str]:
        if not self._all_of_recordings():
            return {}
        return {"intervals": resampling_signature(len(self._recordings))}

    def _ratios(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for name in RATIO_METRICS:
            numerator, denominator = (float(self._terms.present(f"{name} {term}").sum()) for term in _TERMS)
            found[name] = _ratio_scale(name) * numerator / denominator if denominator > 0 else None
        return found

    def _count(self, record: EmissionRecord) -> None:
        self._long_form = self._long_form or record.recording_end is not None
        if record.recording is not None:
            self._recording_of.append(self._recordings.setdefault(record.recording, len(self._recordings)))
        self._counts["instances"] += 1
        self._counts["empty"] += is_empty(record)
        self._counts["non_monotone"] += is_non_monotone(record)
        self._counts["unit_mismatch"] += not fits_unit(record, self.measure.unit)
        self._counts["unpaired_elapsed"] += has_unpaired_elapsed(record)
        self._counts["no_reference"] += record.reference is None
        self._counts["text_source"] += record.text_source

    def _has_text_sources(self) -> bool:
        return 0 < self._counts["instances"] == self._counts["text_source"]

    def _count_dropped(self, record: EmissionRecord, yaal: tuple[float | None, ...]) -> None:
        """Count instances that YAAL drops, as they wrote nothing before the end; others without YAAL are skipped."""
        if not record.source_length:
            return
        elapsed = record.elapsed or ()
        written = record.delays, elapsed, elapsed if len(elapsed) >= len(record.delays) else ()
        for name, times, value in zip(_DROPPING, written, yaal, strict=True):
            self._dropped[name] += bool(times) and value is None

    def _all_counts(self) -> dict[str, Any]:
        skipped = self._texts.skipped() | {name: self._latencies.skipped(name) for name in LATENCY_METRICS}
        skipped |= {name: self._terms.skipped(f"{name} {_TERMS[0]}") for name in RATIO_METRICS}
        return {
            **self._counts,
            "skipped": self._with_long_names({name: skipped[name] for name in METRICS}),
            "dropped": self._with_long_names(dict(self._dropped)),
            **({"recordings": len(self._recordings)} if self._all_of_recordings() else {}),
        }

    def _sentence_values(self) -> dict[str, list[float | None]]:
        return self._texts.listed() | {name: self._latencies.listed(name) for name in LATENCY_METRICS}


def score_records(
    records: Iterable[EmissionRecord],
    *,
    unit: LatencyUnit = "word",
    tokenizer: str | None = None,
    use_ref_len: bool = True,
    sentences: bool = False,
    bootstrap: Bootstrap | None = None,
) -> CorpusScores:
    """Score a corpus: BLEU, chrF, latencies with their computation-aware counterparts, normalised erasure, degeneracy.

    Args:
        records: one per utterance, in the order of the log.
        unit: latency unit, word or char.
        tokenizer: sacrebleu's tokenizer for BLEU; None takes the one that goes with the unit.
        use_ref_len: count Y of the formulas on the reference (SimulEval's default), else on the prediction.
        sentences: also give the value of each record.
        bootstrap: also give intervals.

    Returns:
        Means over the records that have a value; `counts` has how many have none.

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


def resampling_signature(recordings: int) -> str:
    """Return what is drawn for the intervals of segments: recordings and segments within them, or segments of one.

    >>> resampling_signature(5), resampling_signature(1)
    ('draws:recordings-then-segments|recordings:5', 'draws:segments|recordings:1')
    """
    drawn = "recordings-then-segments" if recordings >= LEAST_RECORDINGS else "segments"
    return f"draws:{drawn}|recordings:{recordings}"


_TERMS = ("numerator", "denominator")
_COUNTED = ("instances", "empty", "non_monotone", "unit_mismatch", "unpaired_elapsed", "no_reference", "text_source")
_DROPPING = ("YAAL", "YAAL" + CA_SUFFIX, "YAAL" + CA_CU_SUFFIX)


def _add_suffix(values: MetricValues, suffix: str) -> MetricValues:
    return {name + suffix: value for name, value in values.items()}


def _ratio_scale(name: str) -> float:
    return 100.0 if name in PERCENT_METRICS else 1.0
