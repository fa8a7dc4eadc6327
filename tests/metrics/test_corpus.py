"""Corpus scores: no value without its counts. Expected values: arithmetic on paper."""

from __future__ import annotations

import subprocess
import sys

import pytest

from simulsa_plugin.errors import UsageError
from simulsa_plugin.metrics.corpus_scores import METRICS, score_records
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.significance import Bootstrap

PLAIN = EmissionRecord(0, "a b", "a b", (1000.0, 2000.0), (1100.0, 2200.0), 2000.0)
UNMEASURED = EmissionRecord(1, "a b", "a b", (2000.0, 2000.0), None, 2000.0)
EMPTY = EmissionRecord(2, "", "a b", (), (), 2000.0)


def test_means_skip_the_empty_and_say_so():
    scores = score_records([PLAIN, UNMEASURED, EMPTY], sentences=True)
    assert scores.sentences["AL"] == [1000.0, 2000.0, None]
    assert scores.corpus["AL"] == 1500.0
    assert (scores.counts["instances"], scores.counts["empty"], scores.counts["skipped"]["AL"]) == (3, 1, 1)


def test_computation_aware_values_are_never_taken_from_delays():
    scores = score_records([PLAIN, UNMEASURED], sentences=True)
    assert scores.sentences["LAAL_CA"] == [1150.0, None]  # (1100 + 2200 − 1000) / 2
    assert score_records([UNMEASURED]).corpus["LAAL_CA"] is None
    assert score_records([UNMEASURED]).counts["skipped"]["LAAL_CA"] == 1


def test_yaal_drops_what_was_written_after_the_end_and_says_so():
    scores = score_records([PLAIN, UNMEASURED, EMPTY])
    assert scores.corpus["YAAL"] == 1000.0
    assert scores.counts["dropped"] == {"YAAL": 1, "YAAL_CA": 0, "YAAL_CA_CU": 0}
    assert scores.counts["skipped"]["YAAL"] == 2


def test_computation_aware_values_are_given_over_the_units_of_the_unaware_too():
    # By its own clock LAAL_CA ends with the first unit, (600) / 1, below LAAL = (500 + 1000 − 500) / 2.
    slow = EmissionRecord(0, "a b", "a b", (500.0, 1000.0), (1100.0, 1700.0), 1000.0)
    scores = score_records([slow, UNMEASURED], sentences=True)
    assert scores.sentences["LAAL"][0] == 500.0
    assert scores.sentences["LAAL_CA"][0] == 1100.0
    assert scores.sentences["LAAL_CA_CU"] == [(1100.0 + 1700.0 - 500.0) / 2, None]
    # YAAL_CA drops the instance, as all of it comes after the end; over YAAL's units there is a value.
    assert (scores.sentences["YAAL"][0], scores.sentences["YAAL_CA"][0]) == (500.0, None)
    assert scores.sentences["YAAL_CA_CU"][0] == 1100.0


def test_a_policy_that_waits_but_for_a_word_is_called_degenerate():
    # One of ten words before the end (SWF 10 %), with a YAAL that promises 90 % of them (EFSW).
    waiting = EmissionRecord(0, "w " * 10, "w " * 9 + "w", (1000.0, *[10000.0] * 9), None, 10000.0)
    scores = score_records([waiting])
    assert (scores.corpus["SWF"], scores.corpus["EFSW"], scores.degenerate) == (10.0, 90.0, True)
    steady = EmissionRecord(0, "w " * 10, "w " * 9 + "w", tuple(1000.0 * i for i in range(1, 11)), None, 10000.0)
    scores = score_records([steady])
    assert (scores.corpus["SWF"], scores.corpus["EFSW"], scores.degenerate) == (90.0, 90.0, False)


def test_percentiles_are_over_the_instances_that_have_a_value():
    records = [EmissionRecord(i, "a", "a", (100.0 * i,), None, 5000.0) for i in range(1, 12)]
    scores = score_records([*records, EMPTY])
    assert scores.percentiles["StartOffset"] == {"p50": 600.0, "p90": 1000.0}
    assert scores.percentiles["AL_CA"] == {"p50": None, "p90": None}


def test_a_segment_of_a_recording_counts_units_until_the_recording_ends():
    segment = EmissionRecord(0, "a b", "a b", (1000.0, 3000.0), None, 2000.0, recording_end=9000.0)
    scores = score_records([segment])
    assert scores.corpus["YAAL"] == (1000.0 + 3000.0 - 1000.0) / 2
    assert "|form:long|" in scores.signatures["YAAL"]


def test_intervals_hold_the_mean_and_are_missing_where_nothing_was_measured():
    records = [
        EmissionRecord(i, "a b c d", "a b c d" if i % 2 else "a b c e", (100.0 * i,) * 4, None, 5000.0)
        for i in range(1, 40)
    ]
    scores = score_records(records, bootstrap=Bootstrap(samples=200))
    for name in ("BLEU", "chrF", "AL", "StartOffset"):
        found = scores.intervals[name]
        assert found.low < scores.corpus[name] < found.high
    assert scores.intervals["SWF"].low == 100.0  # all are written before the end
    assert scores.intervals["AL_CA"] is None
    assert scores.as_json()["intervals"]["AL"] == [scores.intervals["AL"].low, scores.intervals["AL"].high]


def test_odd_records_are_scored_and_counted():
    falling = EmissionRecord(3, "a b", "a b", (1000.0, 500.0), None, 2000.0)
    longer = EmissionRecord(4, "a", "a b", (500.0, 1000.0), (500.0,), 2000.0)
    scores = score_records([falling, longer], sentences=True)
    assert scores.sentences["AL"] == [250.0, 250.0]  # (1000 + 500 − 1000) / 2 and (500 + 1000 − 1000) / 2
    assert [scores.counts[kind] for kind in ("non_monotone", "unit_mismatch", "unpaired_elapsed")] == [1, 1, 1]


def test_without_any_reference_quality_is_not_measured_rather_than_zero():
    scores = score_records([EmissionRecord(0, "a", None, (1.0,), None, 2.0)])
    assert (scores.corpus["BLEU"], scores.corpus["chrF"]) == (None, None)
    assert (scores.counts["skipped"]["BLEU"], scores.counts["no_reference"]) == (1, 1)


def test_a_null_reference_is_skipped_by_quality_only():
    good = EmissionRecord(0, "a b c d", "a b c d", (1.0,) * 4, None, 2.0)
    null = EmissionRecord(1, "x y z w", None, (1.0,) * 4, None, 2.0)
    scores = score_records([null, good], sentences=True)
    assert scores.corpus["BLEU"] == pytest.approx(100.0)
    assert scores.sentences["chrF"] == [None, pytest.approx(100.0)]
    assert (scores.counts["skipped"]["BLEU"], scores.counts["skipped"]["AL"]) == (1, 0)


def test_every_metric_is_there_with_a_count_and_the_signature_says_how():
    scores = score_records([PLAIN], unit="char", use_ref_len=False).as_json()
    assert list(scores["corpus"]) == list(scores["counts"]["skipped"]) == list(METRICS)
    assert "tok:zh" in scores["signatures"]["BLEU"]
    assert scores["signatures"]["latency"].startswith("unit:char|len:hyp|")
    assert "sentences" not in scores


def test_no_record_at_all_has_no_value():
    scores = score_records([])
    assert set(scores.corpus.values()) == {None}
    assert scores.counts["instances"] == 0


def test_a_wrong_tokenizer_is_an_error_even_where_nothing_is_measured():
    with pytest.raises(UsageError, match="tokenizer"):
        score_records([], tokenizer="nope")


def test_metrics_import_neither_torch_nor_a_model():
    code = (
        "import sys, simulsa_plugin.metrics.corpus_scores, simulsa_plugin.metrics.stability; "
        "print([m for m in ('torch', 'transformers', 'llamafactory', 'sacrebleu') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_yaal_cannot_compute_is_skipped_and_not_dropped():
    unknown = EmissionRecord(0, "a", "a", (1.0,), (2.0,), None)
    short = EmissionRecord(1, "a b", "a b", (1.0, 2.0), (2.0,), 9.0)
    counts = score_records([unknown, short]).counts
    assert counts["skipped"]["YAAL"] == 1
    assert counts["dropped"] == {"YAAL": 0, "YAAL_CA": 0, "YAAL_CA_CU": 0}


def test_one_record_has_values_and_no_interval():
    scores = score_records([PLAIN], bootstrap=Bootstrap(samples=20))
    assert scores.corpus["AL"] == 1000.0
    assert set(scores.intervals.values()) == {None}
