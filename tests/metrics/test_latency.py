"""Latency of single utterances and of corpora.

Expected values: SimulEval 1.1.4 and OmniSTEval 0.1.10 (tests/data/latency/README.md), or arithmetic on paper.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from helpers.files import read_json_lines
from hypothesis import given
from hypothesis import strategies as st

from simulsa_plugin.metrics import latency
from simulsa_plugin.metrics.corpus_scores import score_records
from simulsa_plugin.metrics.records import EmissionRecord

DATA = Path(__file__).parents[1] / "data" / "latency"
ORACLE = json.loads((DATA / "oracle.json").read_text(encoding="utf-8"))["files"]
EDGE = "edge.instances.log"
LOGS = [name for name in ORACLE if name != EDGE]
MODES = {"use_ref_len": True, "no_use_ref_len": False}
SIMULEVAL_METRICS = [
    name + clock for clock in ("", "_CA") for name in ("AL", "LAAL", "AP", "DAL", "ATD", "StartOffset", "EndOffset")
]
YAAL = {"YAAL": "yaal", "YAAL_CA": "ca_yaal"}


def read_rows(name: str) -> list[dict]:
    return read_json_lines(DATA / name)


def to_record(row: dict) -> EmissionRecord:
    elapsed = row.get("elapsed")
    return EmissionRecord(
        row["index"],
        row["prediction"],
        row.get("reference", ""),
        tuple(row["delays"]),
        None if elapsed is None else tuple(elapsed),
        row.get("source_length"),
    )


def score(name: str, mode: str):
    records = [to_record(row) for row in read_rows(name)]
    return score_records(records, unit=ORACLE[name]["latency_unit"], use_ref_len=MODES[mode], sentences=True)


def assert_same(ours: list, theirs: list) -> None:
    assert [value is None for value in ours] == [value is None for value in theirs]
    assert [v for v in ours if v is not None] == pytest.approx([v for v in theirs if v is not None], rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("mode", MODES)
def test_every_sentence_and_mean_is_simulevals(name, mode):
    scores, expected = score(name, mode), ORACLE[name]["simuleval"][mode]
    for metric in SIMULEVAL_METRICS:
        assert_same(scores.sentences[metric], expected["sentences"][metric])
        assert scores.corpus[metric] == pytest.approx(expected["corpus"][metric], rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("name", LOGS)
def test_every_sentence_and_mean_of_yaal_is_omnistevals(name):
    scores, expected = score(name, "use_ref_len"), ORACLE[name]["omnisteval_shortform"]
    for ours, theirs in YAAL.items():
        assert_same(scores.sentences[ours], expected["sentences"][theirs])
        assert scores.corpus[ours] == pytest.approx(expected["corpus"][theirs], rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("name", LOGS)
def test_yaal_drops_are_counted_apart_from_empty_hypotheses(name):
    counts = score(name, "use_ref_len").counts
    nulls = sum(value is None for value in ORACLE[name]["omnisteval_shortform"]["sentences"]["yaal"])
    empty = ORACLE[name]["simuleval"]["use_ref_len"]["sentences"]["AL"].count(None)
    assert (counts["skipped"]["YAAL"], counts["empty"], counts["dropped"]["YAAL"]) == (nulls, empty, nulls - empty)


# The reader refuses a line without delays, see tests/logs/test_logs.py.
EDGE_CASES = [case for case in ORACLE[EDGE]["cases"] if case["tag"] != "missing_delays_key"]


@pytest.mark.parametrize("case", EDGE_CASES, ids=lambda case: case["tag"])
@pytest.mark.parametrize("mode", MODES)
def test_an_edge_case_has_simulevals_value_or_is_a_counted_skip(case, mode):
    scores = score_records([to_record(read_rows(EDGE)[case["index"]])], use_ref_len=MODES[mode])
    for metric in SIMULEVAL_METRICS:
        expected = case["simuleval"][mode][metric]
        if isinstance(expected, dict):  # SimulEval raises
            assert (scores.corpus[metric], scores.counts["skipped"][metric]) == (None, 1), metric
        else:
            assert scores.corpus[metric] == pytest.approx(expected, rel=1e-9, abs=1e-6), metric
            assert scores.counts["skipped"][metric] == 0


# OmniSTEval raises on a null reference; like SimulEval we count the prediction's length then.
@pytest.mark.parametrize(
    "case", [case for case in EDGE_CASES if case["tag"] != "null_reference"], ids=lambda case: case["tag"]
)
def test_an_edge_case_has_omnistevals_yaal_or_is_a_counted_skip(case):
    scores = score_records([to_record(read_rows(EDGE)[case["index"]])])
    for ours, theirs in YAAL.items():
        expected = case["omnisteval_shortform"]["scorers_one_by_one"][theirs]
        if expected == "nan" or isinstance(expected, dict):
            assert (scores.corpus[ours], scores.counts["skipped"][ours]) == (None, 1)
        else:
            assert scores.corpus[ours] == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_waiting_for_all_of_the_source_lags_by_its_length():
    delays = [3000.0] * 4
    assert latency.average_lagging(delays, 3000.0, 4) == 3000.0
    assert latency.differentiable_average_lagging(delays, 3000.0) == 3000.0
    assert latency.average_proportion(delays, 3000.0, 4) == 1.0
    assert latency.yet_another_average_lagging(delays, 3000.0, 4) is None


def test_a_translation_at_the_pace_of_speech_lags_by_one_unit():
    delays = [500.0, 1000.0, 1500.0, 2000.0]  # one unit per 500 ms of 2000 ms: each is 500 ms behind the ideal
    for value in (
        latency.average_lagging(delays, 2000.0, 4),
        latency.differentiable_average_lagging(delays, 2000.0),
        latency.length_adaptive_average_lagging(delays, 2000.0, 4),
        latency.yet_another_average_lagging(delays, 2000.0, 4),
    ):
        assert value == pytest.approx(500.0)


def test_writing_too_much_lowers_al_but_not_laal():
    delays = [1000.0] * 10  # 10 units for a reference of 2: AL 1000 − 4.5 · 1000, LAAL 1000 − 4.5 · 200
    assert latency.average_lagging(delays, 2000.0, 2) == pytest.approx(-3500.0)
    assert latency.length_adaptive_average_lagging(delays, 2000.0, 2) == pytest.approx(100.0)


def test_token_delay_of_years_of_source_needs_no_list_of_tokens():
    # One unit per 3e12 ms: token t ends where source token t ends, at 300·t ms.
    assert latency.average_token_delay([3e12, 6e12]) == pytest.approx((3e12 - 300 + 6e12 - 600) / 2)


def test_a_source_without_length_has_no_yaal_even_before_its_start():
    assert latency.yet_another_average_lagging([-5.0], 0.0, 1) is None


def test_elapsed_times_that_are_all_zero_are_not_measured_for_atd():
    assert latency.average_token_delay([1000.0, 2000.0], [0.0, 0.0]) == latency.average_token_delay([1000.0, 2000.0])


times = st.lists(st.integers(0, 8000).map(float), min_size=1, max_size=12).map(sorted)


@given(times, st.integers(1, 20), st.integers(1, 500).map(float))
def test_a_later_emission_lags_by_as_much_more(delays, target_length, later):
    source_length = 10000.0  # beyond every delay, before and after the shift
    for metric in (
        latency.average_lagging,
        latency.length_adaptive_average_lagging,
        latency.yet_another_average_lagging,
    ):
        shifted = metric([delay + later for delay in delays], source_length, target_length)
        assert shifted == pytest.approx(metric(delays, source_length, target_length) + later, abs=1e-6)


@given(times, st.integers(1, 20), st.integers(500, 9000).map(float))
def test_laal_never_falls_below_al(delays, target_length, source_length):
    al = latency.average_lagging(delays, source_length, target_length)
    assert latency.length_adaptive_average_lagging(delays, source_length, target_length) >= al - 1e-6


@given(times, st.integers(1, 20), st.integers(500, 9000).map(float), st.sampled_from([0.25, 2.0, 8.0]))
def test_slower_clocks_scale_every_lag_and_no_proportion(delays, target_length, source_length, factor):
    slowed = [delay * factor for delay in delays]
    assert latency.average_lagging(slowed, source_length * factor, target_length) == pytest.approx(
        factor * latency.average_lagging(delays, source_length, target_length), abs=1e-6
    )
    assert latency.average_proportion(slowed, source_length * factor, target_length) == pytest.approx(
        latency.average_proportion(delays, source_length, target_length)
    )


@given(times, st.integers(0, 11), st.integers(1, 20), st.integers(1, 500).map(float))
def test_writing_a_unit_later_never_lowers_a_latency_without_cut_off(delays, which, target_length, later):
    # AL, LAAL and YAAL stop at the end of the source: beyond it a later unit may count less. The others are monotone.
    source_length = 10000.0
    slower = list(delays)
    slower[which % len(delays) :] = [delay + later for delay in slower[which % len(delays) :]]
    for metric in (
        lambda d: latency.average_proportion(d, source_length, target_length),
        lambda d: latency.differentiable_average_lagging(d, source_length),
        latency.start_offset,
        lambda d: latency.end_offset(d, source_length),
        lambda d: latency.average_lagging(d, source_length, target_length),  # no delay reaches the end here
        lambda d: latency.length_adaptive_average_lagging(d, source_length, target_length),
        lambda d: latency.yet_another_average_lagging(d, source_length, target_length),
    ):
        assert metric(slower) >= metric(delays) - 1e-6


@given(
    times,
    st.lists(st.integers(0, 900).map(float), min_size=12, max_size=12),
    st.integers(1, 20),
    st.integers(1, 9000).map(float),
)
def test_computation_over_the_same_units_never_lowers_a_latency(delays, computing, target_length, source_length):
    elapsed = [delay + spent for delay, spent in zip(delays, itertools.accumulate(computing), strict=False)]
    for metric in (
        latency.average_lagging,
        latency.length_adaptive_average_lagging,
        latency.yet_another_average_lagging,
    ):
        plain = metric(delays, source_length, target_length)
        aware = metric(delays, source_length, target_length, elapsed)
        assert (plain is None and aware is None) or aware >= plain - 1e-6
        assert metric(delays, source_length, target_length, delays) == plain


@given(times, st.integers(1, 500).map(float))
def test_offsets_shift_with_the_delays(delays, later):
    shifted = [delay + later for delay in delays]
    assert latency.start_offset(shifted) == latency.start_offset(delays) + later
    assert latency.end_offset(shifted, 3000.0) == latency.end_offset(delays, 3000.0) + later


@given(times, st.integers(500, 9000).map(float), st.sampled_from([0.25, 2.0, 8.0]))
def test_slower_clocks_scale_dal_and_offsets(delays, source_length, factor):
    slowed = [delay * factor for delay in delays]
    for metric in (latency.differentiable_average_lagging, latency.end_offset):
        assert metric(slowed, source_length * factor) == pytest.approx(factor * metric(delays, source_length), abs=1e-6)


@pytest.mark.parametrize("name", LOGS)
def test_shares_of_units_and_their_expectation_are_omnistevals(name):
    scores, expected = score(name, "use_ref_len"), ORACLE[name]["omnisteval_shortform"]["corpus"]
    assert scores.corpus["SWF"] == pytest.approx(expected["swf"], rel=1e-9)
    assert scores.corpus["EFSW"] == pytest.approx(expected["efsw"], rel=1e-9)
    assert scores.degenerate is bool(expected["degenerate_policy"])


@pytest.mark.parametrize("name", LOGS)
def test_without_an_end_of_recording_the_long_form_counts_every_unit_as_omnisteval_does(name):
    expected = ORACLE[name]["omnisteval_shortform"]["sentences"]
    records = [dataclasses.replace(to_record(row), recording_end=1e12) for row in read_rows(name)]
    scores = score_records(records, unit=ORACLE[name]["latency_unit"], sentences=True)
    assert_same(scores.sentences["YAAL"], expected["yaal_longform_flag"])
    assert_same(scores.sentences["YAAL_CA"], expected["ca_yaal_longform_flag"])


@given(st.permutations(list(range(12))))
def test_the_order_of_the_log_does_not_matter(order):
    records = [to_record(row) for row in read_rows("word.instances.log")[80:92]]
    shuffled = score_records([records[i] for i in order])
    for name, value in score_records(records).corpus.items():
        assert shuffled.corpus[name] == (value if value is None else pytest.approx(value, rel=1e-12)), name
