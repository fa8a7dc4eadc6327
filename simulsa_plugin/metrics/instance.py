"""Latencies and ratio terms of one emission record."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from simulsa_plugin.metrics import degeneracy, latency
from simulsa_plugin.metrics.mwer_segmentation import count_part
from simulsa_plugin.metrics.records import (
    EmissionRecord,
    LatencyUnit,
    check_unit,
    count_units,
    simuleval_reference_length,
)

BASE_LATENCIES = ("AL", "LAAL", "AP", "DAL", "ATD", "YAAL", "StartOffset", "EndOffset")
CA_SUFFIX = "_CA"
CA_CU_SUFFIX = "_CA_CU"  # computation-aware, over the units that the unaware value averages
SOURCE_BOUNDED = ("AL", "LAAL", "YAAL")  # stop at the end of the source: which units they average depends on the clock
LONG_PREFIX, STREAM_PREFIX = "Long", "Stream"  # of segments that SoftSegmenter, that mwerSegmenter has aligned
LONG_LATENCIES = ("YAAL", "AL", "LAAL", "DAL")  # of segments: the others are not defined where units come after the end
RATIO_METRICS = ("SWF", "EFSW", "NE")  # of sums over the corpus
PERCENT_METRICS = ("SWF", "EFSW")

_SIMULEVAL = "1.1.4"
_OMNISTEVAL = "0.1.10"
_SIMULSTREAM = "1.0.0"

MetricValues = dict[str, float | None]


@dataclass(frozen=True)
class Measure:
    """How latency is counted: in which unit, and against the reference's length or the prediction's."""

    unit: LatencyUnit = "word"
    use_ref_len: bool = True

    def __post_init__(self) -> None:
        check_unit(self.unit)

    def target_length(self, record: EmissionRecord, times: Sequence[float], *, stripped: bool = False) -> int:
        """Return Y of the formulas; `stripped` strips the reference first, as OmniSTEval does."""
        if not self.use_ref_len or record.reference is None:
            return len(times)
        reference = record.reference.strip() if stripped else record.reference
        return simuleval_reference_length(reference, self.unit)

    def stream_laal_length(self, record: EmissionRecord) -> int:
        """Return Y of StreamLAAL: words between spaces, or characters, of the stripped reference, as in simulstream."""
        if not self.use_ref_len or record.reference is None:
            return len(record.delays)
        return count_part(record.reference.strip(), self.unit)

    def signatures(self, *, long_form: bool = False, text_source: bool = False) -> dict[str, str]:
        """Return signatures in sacrebleu's notation; values are comparable where they are equal."""
        fields = f"unit:{self.unit}|len:{'ref' if self.use_ref_len else 'hyp'}|mean:nonempty"
        fields += "|time:source-tokens" if text_source else ""
        form = "long" if long_form else "short"
        # As SimulEval scores text while decoding; from a log it reads tokens as milliseconds, and its ATD is wrong
        text = {"ATD": f"{fields}|token:1|as:SimulEval-{_SIMULEVAL}-decoding"} if text_source else {}
        return {
            "latency": f"{fields}|as:SimulEval-{_SIMULEVAL}",
            **text,
            "YAAL": f"{fields}|form:{form}|as:OmniSTEval-{_OMNISTEVAL}",
            "SWF": f"unit:{self.unit}|sum:units|as:OmniSTEval-{_OMNISTEVAL}",
            "NE": f"unit:{self.unit}|sum:units|erased:after-common-prefix|grown:kept",
        }

    def long_form_signatures(self, mwer_aligner: str | None = None) -> dict[str, str]:
        """Return signatures of the segments of recordings: aligned by SoftSegmenter, or by the mwerSegmenter named."""
        fields = f"unit:{self.unit}|len:{'ref' if self.use_ref_len else 'hyp'}|mean:nonempty|form:long"
        aligner = "SoftSegmenter|tokens:nfkc-lower" if mwer_aligner is None else mwer_aligner
        tool = f"OmniSTEval-{_OMNISTEVAL}" if mwer_aligner is None else f"SimulEval-{_SIMULEVAL}"
        aligned_as = f"OmniSTEval-{_OMNISTEVAL}" if mwer_aligner is None else f"simulstream-{_SIMULSTREAM}"
        return {
            "latency": f"{fields}|as:{tool}",
            "segments": f"aligned:{aligner}|as:{aligned_as}",
            "NE": f"unit:{self.unit}|sum:units|of:recordings|erased:after-common-prefix|grown:kept",
        }

    def stream_signature(self, mwer_aligner: str | None) -> dict[str, str]:
        """Return the signature of StreamLAAL; None says that its aligner is not installed."""
        fields = f"unit:{self.unit}|len:{'ref' if self.use_ref_len else 'hyp'}|mean:nonempty|form:long"
        return {"StreamLAAL": f"{fields}|aligned:{mwer_aligner or 'not-installed'}|as:simulstream-{_SIMULSTREAM}"}


def latencies(record: EmissionRecord, measure: Measure) -> MetricValues:
    """Compute BASE_LATENCIES of a record from its delays; None where a metric has no value.

    >>> latencies(EmissionRecord(0, "a b", "a b", (1000.0, 2000.0), source_length=2000.0), Measure())["LAAL"]
    1000.0
    """
    return _latencies(record, record.delays, measure)


def computation_aware_latencies(record: EmissionRecord, measure: Measure) -> MetricValues:
    """Compute BASE_LATENCIES of a record from its elapsed times; all None where they were not measured."""
    return _latencies(record, record.elapsed or (), measure)


def same_unit_latencies(record: EmissionRecord, measure: Measure) -> MetricValues:
    """Compute SOURCE_BOUNDED from the elapsed times, over the units that the delays select: at least the plain value.

    >>> record = EmissionRecord(0, "a b", "a b", (500.0, 900.0), (600.0, 1300.0), source_length=1000.0)
    >>> latencies(record, Measure())["YAAL"], computation_aware_latencies(record, Measure())["YAAL"]
    (450.0, 600.0)
    >>> same_unit_latencies(record, Measure())["YAAL"]
    700.0
    """
    delays, elapsed = record.delays, record.elapsed or ()
    source_length, length = record.source_length, measure.target_length(record, delays)
    return {
        "AL": latency.average_lagging(delays, source_length, length, elapsed),
        "LAAL": latency.length_adaptive_average_lagging(delays, source_length, length, elapsed),
        "YAAL": latency.yet_another_average_lagging(
            delays,
            source_length,
            measure.target_length(record, delays, stripped=True),
            elapsed,
            recording_end=record.recording_end,
        ),
    }


def stream_laal(record: EmissionRecord, measure: Measure) -> MetricValues:
    """Compute StreamLAAL and StreamLAAL_CA of a segment that mwerSegmenter has aligned; None where it is empty.

    Source: Papi et al. 2024 (StreamAtt), as simulstream 1.0.0 computes it: LAAL of the segment, from its offset.
    """
    length = measure.stream_laal_length(record)
    return {
        STREAM_PREFIX + "LAAL" + suffix: latency.length_adaptive_average_lagging(times, record.source_length, length)
        for suffix, times in (("", record.delays), (CA_SUFFIX, record.elapsed or ()))
    }


def ratio_terms(record: EmissionRecord, measure: Measure, yaal: float | None) -> dict[str, tuple[float, float] | None]:
    """Return what a record adds to numerator and denominator of RATIO_METRICS; None where it has no value."""
    source_length = record.source_length
    # OmniSTEval's test is for whole utterances: in a segment of a recording units may well come after its end.
    if record.recording_end is not None:
        source_length = yaal = None
    known = source_length is not None and bool(record.delays)
    return {
        "SWF": (degeneracy.simultaneous_units(record.delays, source_length), len(record.delays))
        if known and source_length is not None
        else None,
        "EFSW": (degeneracy.expected_milliseconds(yaal, source_length), source_length)
        if yaal is not None and source_length is not None
        else None,
        "NE": None if record.erased is None else (record.erased, count_units(record.prediction, measure.unit)),
    }


def with_delays(record: EmissionRecord, delays: Sequence[float]) -> EmissionRecord:
    """Replace the delays, and remove the elapsed times."""
    return dataclasses.replace(record, delays=tuple(delays), elapsed=None)


def with_elapsed(record: EmissionRecord, elapsed: Sequence[float]) -> EmissionRecord:
    """Replace the elapsed times by those of another clock."""
    return dataclasses.replace(record, elapsed=tuple(elapsed))


def _latencies(record: EmissionRecord, times: Sequence[float], measure: Measure) -> MetricValues:
    source_length, length = record.source_length, measure.target_length(record, times)
    tokens = {"source_token": latency.TEXT_TOKEN, "target_token": latency.TEXT_TOKEN} if record.text_source else {}
    return {
        "AL": latency.average_lagging(times, source_length, length),
        "LAAL": latency.length_adaptive_average_lagging(times, source_length, length),
        "AP": latency.average_proportion(times, source_length, length),
        "DAL": latency.differentiable_average_lagging(times, source_length),
        # ATD aligns by the delays in both cases; elapsed times only add the time of computation.
        "ATD": latency.average_token_delay(record.delays, None if times is record.delays else times, **tokens),
        "YAAL": latency.yet_another_average_lagging(
            times,
            source_length,
            measure.target_length(record, times, stripped=True),
            recording_end=record.recording_end,
        ),
        "StartOffset": latency.start_offset(times),
        "EndOffset": latency.end_offset(times, source_length),
    }
