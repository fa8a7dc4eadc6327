"""Corpus scores: no value without its counts. Expected values: arithmetic on paper."""

from __future__ import annotations

import subprocess
import sys

import pytest

from simulsa_plugin.errors import UsageError
from simulsa_plugin.metrics.corpus import METRICS, score_records
from simulsa_plugin.metrics.records import EmissionRecord

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
    assert scores.counts["dropped"] == {"YAAL": 1, "YAAL_CA": 0}
    assert scores.counts["skipped"]["YAAL"] == 2


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
    code = "import sys, simulsa_plugin.metrics.corpus, simulsa_plugin.metrics.stability; " \
           "print([m for m in ('torch', 'transformers', 'llamafactory', 'sacrebleu') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
