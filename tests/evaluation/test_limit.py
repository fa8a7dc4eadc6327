"""The limit of a test set with truth. Expected values: arithmetic on paper."""

import json
import math

import pytest
from helpers.fakes import TEXT, ClockModel, noise_samples

from simulsa_plugin.demo.truth import RecordingTruth, TruthFile
from simulsa_plugin.evaluation.cells_table import cells_table
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.limit import add_distances, earliest_delays, limits
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.records import EmissionRecord

# The first two words are certain after the first word heard, the third after both, the last when nothing follows.
ROW = {"source": "hello world", "target": TEXT.split(), "needs": [1, 1, 2, 3], "word_ends": [0.4, 1.1]}


def record(seconds=2.0):
    return EmissionRecord(0, "", TEXT, (), source_length=1000 * seconds)


def test_the_truth_file_says_what_each_word_heard_adds():
    truth = TruthFile([ROW])
    assert truth.supported(0, TEXT) == [(0.4, "guten Tag"), (1.1, "guten Tag liebe"), (math.inf, TEXT)]
    assert truth.supported(0, "etwas anderes") is None
    assert truth.supported(1, TEXT) is None


@pytest.mark.parametrize(
    ("chunk", "delays"),
    [
        (None, (400.0, 400.0, 1100.0, 2000.0)),
        (400.0, (400.0, 400.0, 1200.0, 2000.0)),  # a word that ends with its chunk is heard in it
        (500.0, (500.0, 500.0, 1500.0, 2000.0)),
        (1500.0, (1500.0, 1500.0, 1500.0, 2000.0)),
        (9000.0, (2000.0, 2000.0, 2000.0, 2000.0)),
    ],
)
def test_units_come_with_the_first_step_that_supports_them(chunk, delays):
    assert earliest_delays(TruthFile([ROW]).supported(0, TEXT), "word", chunk, 2000.0) == delays


def test_characters_come_with_their_words():
    # "guten Tag" has 9 characters, "guten Tag liebe" 15, all of it 20
    assert (
        earliest_delays(TruthFile([ROW]).supported(0, TEXT), "char", 500.0, 2000.0)
        == (500.0,) * 9 + (1500.0,) * 6 + (2000.0,) * 5
    )


def test_what_is_certain_before_any_word_comes_with_the_first_step():
    assert earliest_delays([(0.0, "a"), (math.inf, "a b")], "word", 500.0, 700.0) == (500.0, 700.0)


def test_the_limit_is_scored_as_a_cell_would_be():
    at_once, in_chunks = limits([(0, record())], TruthFile([ROW]), [500.0], Measure("word"), "13a")
    # 4 words in 2 s: 500 ms each are due, AL counts up to the first delay at the end: (400 − 0 + 400 − 500 + …) / 4
    assert at_once["LAAL"] == pytest.approx((400 + (400 - 500) + (1100 - 1000) + (2000 - 1500)) / 4)
    assert in_chunks["LAAL"] == pytest.approx((500 + (500 - 500) + (1500 - 1000) + (2000 - 1500)) / 4)
    assert (at_once["chunk_ms"], in_chunks["chunk_ms"], in_chunks["instances"]) == (None, 500.0, 1)
    assert in_chunks["BLEU"] == pytest.approx(100.0)


def test_utterances_without_truth_have_no_limit():
    assert limits([(3, record())], TruthFile([ROW]), [500.0], Measure("word"), "13a") == []


def test_a_result_says_how_far_its_cells_are_from_the_limit(tmp_path):
    rows = noise_samples(tmp_path, [2.0, 2.0], TEXT)
    settings = EvaluationSettings(chunks=(500,), rollbacks=(3,))
    shown = run_evaluation(ClockModel(), "toy", rows, settings, tmp_path / "out", truth=TruthFile([ROW]))
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    offline, cell = scores["cells"]
    at_once, limit = scores["limits"]
    assert shown == [offline, cell, at_once, limit]
    assert (limit["instances"], limit["skipped"]) == (1, 1)  # the second row has no truth
    assert cell["LAAL_above_limit"] == cell["LAAL"] - limit["LAAL"]
    assert "LAAL_above_limit" not in offline
    lines = cells_table(shown)
    assert "LAAL_above_limit" in lines[0] and lines[4].startswith("limit")
    assert run_evaluation(ClockModel(), "toy", rows, settings, tmp_path / "out") == shown  # finished: only read
    assert "limit" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert [line.split("\t")[0] for line in (tmp_path / "out" / "scores.tsv").read_text().splitlines()] == [
        "policy",
        "offline",
        "rollback",
        "limit",
        "limit",
    ]


# Two sentences of TEXT in a recording of 6 s, the second 3 s later.
TALK = [
    ROW | {"audio": "a.wav", "offset": 0.1},
    ROW | {"audio": "a.wav", "offset": 3.1, "word_ends": [3.4, 4.1]},
]
WHOLE = f"{TEXT} {TEXT}"


def test_what_is_known_of_each_sentence_of_a_recording():
    truth = RecordingTruth([TALK])
    found = truth.parts(0, WHOLE, 6000.0)
    assert [(one.offset_seconds, one.end_seconds, one.reference) for one, _ in found] == [
        (0.1, 1.1, TEXT),
        (3.1, 4.1, TEXT),
    ]
    for _, supported in found:
        assert [(pytest.approx(seconds), text) for seconds, text in supported] == [
            (0.3, "guten Tag"),
            (1.0, "guten Tag liebe"),
            (math.inf, TEXT),
        ]
    assert truth.parts(0, TEXT, 6000.0) is None
    assert truth.parts(1, WHOLE, 6000.0) is None


def test_the_limit_of_recordings_is_scored_by_their_segments():
    whole = EmissionRecord(0, "", WHOLE, (), source_length=6000.0)
    at_once, in_chunks = limits([(0, whole)], RecordingTruth([TALK]), [500.0], Measure("word"), "13a")
    # Each segment has 4 words in 1 s, 250 ms are due for each.
    # LAAL of a segment counts up to the first unit at its end: (300 + (300 - 250) + (1000 - 500)) / 3
    assert at_once["LongLAAL"] == pytest.approx((300 + 50 + 500) / 3)
    # First steps, from the start of each segment: 500, 500, 1000.
    assert in_chunks["LongLAAL"] == pytest.approx((500 + 250 + 500) / 3)
    assert (at_once["chunk_ms"], in_chunks["chunk_ms"], in_chunks["instances"]) == (None, 500.0, len(TALK))
    assert in_chunks["BLEU"] == pytest.approx(100.0)
    cells = [{"chunk_ms": 500.0, "LongLAAL": 1000.0, "LongYAAL": None}]
    add_distances(cells, [at_once, in_chunks])
    assert cells[0]["LongLAAL_above_limit"] == 1000.0 - in_chunks["LongLAAL"]
    assert cells[0]["LongYAAL_above_limit"] is None
    assert "LAAL_above_limit" not in cells[0]
