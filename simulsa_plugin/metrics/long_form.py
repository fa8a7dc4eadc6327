"""Scores of long recordings: quality and latency of their reference segments, stability of the stream.

The translation of a recording is divided among its segments. By SoftSegmenter (`soft`) the segments give BLEU, chrF
and LongYAAL, LongAL, LongLAAL, LongDAL as OmniSTEval computes them, and mwerSegmenter gives StreamLAAL as simulstream
does. By mwerSegmenter alone (`mwer`) all metrics are those of its segments, under names that begin with Stream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulsa_plugin.errors import LogError
from simulsa_plugin.metrics.columns import MetricColumns
from simulsa_plugin.metrics.corpus_scores import (
    LATENCY_METRICS,
    SEGMENT_LATENCIES,
    CorpusScorer,
    CorpusScores,
    resampling_signature,
)
from simulsa_plugin.metrics.instance import CA_SUFFIX, LONG_PREFIX, STREAM_PREFIX, Measure, MetricValues, stream_laal
from simulsa_plugin.metrics.mwer_segmentation import aligner_name, is_installed
from simulsa_plugin.metrics.quality import QUALITY_METRICS
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
from simulsa_plugin.metrics.resegmentation import SegmentAlignment, align_segments, recording_name
from simulsa_plugin.metrics.significance import Bootstrap, Statistics, intervals
from simulsa_plugin.segments import Aligner, ReferenceSegment

STREAM_LAAL = STREAM_PREFIX + "LAAL"
STREAM_LAALS = (STREAM_LAAL, STREAM_LAAL + CA_SUFFIX)
LONG_LATENCY_METRICS = (*(LONG_PREFIX + name for name in SEGMENT_LATENCIES), *STREAM_LAALS)  # of soft
STREAM_LATENCY_METRICS = tuple(STREAM_PREFIX + name for name in LATENCY_METRICS)  # of mwer
NE = "NE"
LONG_METRICS = (*QUALITY_METRICS, *LONG_LATENCY_METRICS, NE)
STREAM_METRICS = (*QUALITY_METRICS, *STREAM_LATENCY_METRICS, NE)
ALL_LONG_METRICS = tuple(dict.fromkeys((*LONG_METRICS, *STREAM_METRICS)))
_STREAM_TERMS = ("erased", "units")


class LongFormScorer:
    """Scores whole recordings by their reference segments.

    Args:
        measure: how latency is counted.
        tokenizer: sacrebleu's tokenizer for BLEU; None takes the one that goes with the unit.
        method: the aligner.
        keep: keep what `statistics` needs, and bootstrap intervals.
        sentences: also give the value of each segment, in the order in which they were added.
        executor: counts n-grams in other processes; the scores are the same.

    Attributes:
        unclaimed_units: units that no segment has; they are in NE, and in no other value.

    Raises:
        UsageError: unknown tokenizer.
        MissingExtraError: the tokenizer's package is missing.
    """

    def __init__(
        self,
        measure: Measure,
        tokenizer: str | None = None,
        *,
        method: Aligner = "soft",
        keep: bool = True,
        sentences: bool = False,
        executor: Executor | None = None,
    ) -> None:
        self.measure = measure
        self.unclaimed_units = 0
        self._method: Aligner = method
        self._segments = CorpusScorer(measure, tokenizer, keep=keep, sentences=sentences, executor=executor)
        self._sentences = sentences
        self._streams = MetricColumns(_STREAM_TERMS)
        self._stream_laal = MetricColumns(STREAM_LAALS)
        self._unaligned = 0
        self._sizes: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return LONG_METRICS if self._method == "soft" else STREAM_METRICS

    def add(
        self,
        record: EmissionRecord,
        segments: Sequence[ReferenceSegment],
        aligned: RecordingAlignments | None = None,
    ) -> list[EmissionRecord]:
        """Score a recording.

        Args:
            record: of the whole recording; times in ms.
            segments: of the recording, with references; at least one.
            aligned: what `align_recording` gives for them, where it is known already; for `soft`.

        Returns:
            The records of its segments, in the order given; `index` goes on from recording to recording.

        Raises:
            LogError: there are no segments, one has no reference, the record has no time for each unit, or its name is
                that of an earlier one.
            MissingExtraError: mwerSegmenter is asked for, and is not installed.
        """
        self._check(record, segments)
        alignment = aligned.soft if aligned else align_segments(record, segments, self.measure.unit, self._method)
        first = sum(self._sizes.values())
        parts = [dataclasses.replace(one, index=first + one.index) for one in alignment.apply(record)]
        self.add_aligned(record, segments, parts, aligned)
        return parts

    def add_aligned(
        self,
        record: EmissionRecord,
        segments: Sequence[ReferenceSegment],
        parts: Sequence[EmissionRecord],
        aligned: RecordingAlignments | None = None,
    ) -> None:
        """Score a recording of which `add` has returned `parts`. Arguments and errors as `add`."""
        self._check(record, segments)
        for part in parts:
            self._segments.add(part)
        self._sizes[recording_name(record)] = len(parts)
        total = len(record.delays)
        self.unclaimed_units += total - sum(len(part.delays) for part in parts)
        self._streams.append({"erased": record.erased, "units": total})
        if self._method == "soft":
            by_mwer = aligned.mwer if aligned else align_by_mwer(record, segments, self.measure.unit)
            self._add_stream_laal(record, by_mwer, len(segments))

    def _check(self, record: EmissionRecord, segments: Sequence[ReferenceSegment]) -> None:
        name = recording_name(record)
        if not segments or name in self._sizes:
            raise LogError(f"The recording {name} {'is repeated' if segments else 'has no reference segments'}.")

    def scores(self, bootstrap: Bootstrap | None = None) -> CorpusScores:
        """Compute the scores of all recordings that were added.

        Args:
            bootstrap: how to resample for intervals; only with `keep`.
        """
        found = self._segments.scores()
        corpus = self._renamed(found.corpus) | {name: self._stream_laal.mean(name) for name in self._extra_names()}
        percentiles = self._renamed(found.percentiles)
        percentiles |= {name: self._stream_laal.percentiles(name) for name in self._extra_names()}
        corpus[NE] = self._normalised_erasure()
        bounds = None if bootstrap is None else dict.fromkeys(self.names) | intervals(self.statistics(), bootstrap)
        return CorpusScores(
            {name: corpus[name] for name in self.names},
            {name: percentiles[name] for name in self.names if name in percentiles},
            None,
            self._counts(found.counts),
            self._signatures(found.signatures),
            bounds and {name: bounds[name] for name in self.names},
            self._sentence_values(found.sentences),
        )

    def statistics(self) -> Statistics:
        """Return the statistics of each segment, from which the corpus scores of a resample are computed."""
        found = self._segments.statistics()
        erased, units = (self._streams.values(name) for name in _STREAM_TERMS)
        return Statistics(
            found.quality,
            self._renamed(dict(found.values)) | {name: self._stream_laal.values(name) for name in self._extra_names()},
            {},
            found.recordings,
            {NE: (erased, np.where(np.isnan(erased), np.nan, units))},
        )

    def _add_stream_laal(self, record: EmissionRecord, alignment: SegmentAlignment | None, count: int) -> None:
        """Add StreamLAAL of each segment; none where mwerSegmenter is not installed, or cannot align the recording."""
        values: list[MetricValues] = [dict.fromkeys(STREAM_LAALS)] * count
        if alignment is not None:
            values = [stream_laal(part, self.measure) for part in alignment.apply(record)]
        elif is_installed():
            self._unaligned += 1
        for one in values:
            self._stream_laal.append(one)

    def _extra_names(self) -> tuple[str, ...]:
        return STREAM_LAALS if self._method == "soft" else ()

    def _renamed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values of segments under the names of the aligner; what is not defined for segments is left out."""
        if self._method == "soft":
            return {name: value for name, value in values.items() if name in LONG_METRICS and name != NE}
        names = {name: STREAM_PREFIX + name for name in LATENCY_METRICS} | {name: name for name in QUALITY_METRICS}
        return {names[name]: value for name, value in values.items() if name in names}

    def _normalised_erasure(self) -> float | None:
        erased = self._streams.values("erased")
        units = float(self._streams.values("units")[~np.isnan(erased)].sum())
        return float(np.nansum(erased)) / units if units else None

    def _counts(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        skipped = self._renamed(counts["skipped"])
        skipped |= {name: self._stream_laal.skipped(name) for name in self._extra_names()}
        unknown = np.isnan(self._streams.values("erased"))
        skipped[NE] = int(np.array(list(self._sizes.values()), dtype=np.int64)[unknown].sum())
        rest = {name: value for name, value in counts.items() if name not in ("skipped", "dropped", "recordings")}
        return {
            "recordings": len(self._sizes),
            **rest,
            "unclaimed_units": self.unclaimed_units,
            **({"unaligned_recordings": self._unaligned} if self._method == "soft" else {}),
            "skipped": {name: skipped[name] for name in self.names},
            "dropped": self._renamed(counts["dropped"]),
        }

    def _signatures(self, signatures: Mapping[str, str]) -> dict[str, str]:
        quality = {name: value for name, value in signatures.items() if name.startswith(QUALITY_METRICS)}
        found = self.measure.long_form_signatures(None if self._method == "soft" else aligner_name())
        if self._method == "soft":
            found |= self.measure.stream_signature(aligner_name() if is_installed() else None)
        return quality | found | {"intervals": resampling_signature(len(self._sizes))}

    def _sentence_values(self, sentences: Mapping[str, Any] | None) -> dict[str, list[float | None]] | None:
        if sentences is None:
            return None
        return self._renamed(sentences) | {name: self._stream_laal.listed(name) for name in self._extra_names()}


@dataclass(frozen=True)
class RecordingAlignments:
    """A recording with its segments aligned by both aligners.

    Attributes:
        soft: by SoftSegmenter.
        mwer: by mwerSegmenter; None where `align_by_mwer` has none.
    """

    soft: SegmentAlignment
    mwer: SegmentAlignment | None


def align_recording(
    record: EmissionRecord, segments: Sequence[ReferenceSegment], unit: LatencyUnit
) -> RecordingAlignments:
    """Align a recording with its segments, for everything that is scored by them. Errors as `align_segments`."""
    return RecordingAlignments(align_segments(record, segments, unit), align_by_mwer(record, segments, unit))


def align_by_mwer(
    record: EmissionRecord, segments: Sequence[ReferenceSegment], unit: LatencyUnit
) -> SegmentAlignment | None:
    """Align a recording with mwerSegmenter; None where it is not installed, or would change the text of the recording.

    What SoftSegmenter found stands without it.
    """
    if not is_installed():
        return None
    try:
        return align_segments(record, segments, unit, "mwer")
    except LogError:
        return None
