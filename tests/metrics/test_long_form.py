"""Scores of long recordings. Expected values: OmniSTEval 0.1.10 (data/longform/make_cases.py), or by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulsa_plugin.errors import LogError, MissingExtraError
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.long_form import LONG_METRICS, STREAM_METRICS, LongFormScorer
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.resegmentation import resegment
from simulsa_plugin.metrics.significance import Bootstrap
from simulsa_plugin.segments import ReferenceSegment

CASES = json.loads((Path(__file__).parents[1] / "data" / "longform" / "cases.json").read_text(encoding="utf-8"))
HALVES = [ReferenceSegment(0.0, 2.0, "a b"), ReferenceSegment(2.0, 2.0, "c d")]


def whole(text="a b c d", delays=(1000.0, 2500.0, 3500.0, 4000.0), source="talk.wav", **fields):
    return EmissionRecord(0, text, None, delays, source_length=4000.0, source=source, **fields)


def records_of(case):
    for one in case["recordings"]:
        record = EmissionRecord(
            0, one["prediction"], None, tuple(one["delays"]), tuple(one["elapsed"]), None, one["source"]
        )
        yield (
            record,
            [ReferenceSegment(part["offset"], part["duration"], part["reference"]) for part in one["segments"]],
        )


@pytest.mark.parametrize("case", CASES)
def test_segments_and_scores_are_omnistevals(case):
    scorer = LongFormScorer(Measure(case["unit"]))
    found = [part for record, segments in records_of(case) for part in scorer.add(record, segments)]
    assert [part.prediction for part in found] == [text for text, _ in case["segments"]]
    for part, (_, delays) in zip(found, case["segments"], strict=True):
        assert part.delays == pytest.approx(delays, abs=1e-6)
    corpus = scorer.scores().corpus
    for name, value in case["scores"].items():
        assert corpus[name] == (None if value is None else pytest.approx(value, rel=1e-9)), name
    assert scorer.scores().counts["unit_mismatch"] == 0


def test_the_cases_cover_both_units_and_units_after_the_end():
    assert {case["unit"] for case in CASES} == {"word", "char"}
    assert sum(case["scores"]["LongYAAL"] != case["scores"]["LongLAAL"] for case in CASES) > 10


def test_a_segment_has_its_own_clock_its_duration_and_the_end_of_the_recording():
    first, second = resegment(whole(elapsed=(1100.0, 2700.0, 3800.0, 4400.0)), HALVES, "word")
    assert (first.delays, second.delays) == ((1000.0, 2500.0), (1500.0, 2000.0))
    assert second.elapsed == (1800.0, 2400.0)
    assert (second.source_length, first.recording_end, second.recording_end) == (2000.0, 4000.0, 2000.0)
    assert (second.prediction, second.reference, second.recording, second.index) == ("c d", "c d", "talk.wav", 1)


def test_segments_in_any_order_are_aligned_in_that_of_time():
    second, first = resegment(whole(), HALVES[::-1], "word")
    assert (first.prediction, second.prediction) == ("a b", "c d")


@pytest.mark.parametrize("method", ["soft", "mwer"])
def test_characters_without_delays_for_their_spaces_keep_them_in_the_text(method):
    pytest.importorskip("mweralign")
    record = whole("你好 吗 我很好", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    parts = [ReferenceSegment(0.0, 2.0, "你好 吗"), ReferenceSegment(2.0, 2.0, "我很好")]
    found = resegment(record, parts, "char", method)
    assert "".join(part.prediction for part in found) == record.prediction
    assert [len(part.delays) for part in found] == [3, 3]


@pytest.mark.parametrize(
    ("record", "segments", "message"),
    [
        (whole(delays=(1.0,)), HALVES, "talk.wav: 1 delays for 4 units"),
        (whole(elapsed=(1.0,)), HALVES, "4 delays and 1 elapsed times for 4 units"),
        (
            whole(),
            [HALVES[0], ReferenceSegment(2.0, 2.0, None)],
            r"2 segments and 1 references.*--references",
        ),
        (whole(), [], "talk.wav has no reference segments"),
    ],
)
def test_what_cannot_be_divided_is_refused(record, segments, message):
    with pytest.raises(LogError, match=message):
        LongFormScorer(Measure()).add(record, segments)


def test_a_recording_that_comes_twice_is_refused():
    scorer = LongFormScorer(Measure())
    scorer.add(whole(), HALVES)
    with pytest.raises(LogError, match=r"talk\.wav is repeated"):
        scorer.add(whole(), HALVES)


def test_a_mark_before_the_first_word_is_claimed_by_no_segment_and_counted():
    scorer = LongFormScorer(Measure())
    first, _ = scorer.add(whole("- a b c d", (500.0, 1000.0, 2500.0, 3500.0, 4000.0), erased=1), HALVES)
    scores = scorer.scores()
    assert (first.prediction, scores.counts["unclaimed_units"]) == ("a b", 1)
    assert scores.corpus["NE"] == 1 / 5  # of the stream, which has it


def test_streamlaal_is_laal_of_the_segments_of_mwersegmenter():
    pytest.importorskip("mweralign")
    scorer = LongFormScorer(Measure())
    scorer.add(whole(elapsed=(1100.0, 2700.0, 3800.0, 4400.0)), HALVES)
    corpus = scorer.scores().corpus
    # ((1000 + 2500 − 1000) / 2 + (1500 + 2000 − 1000) / 2) / 2, and with 100, 200, 300, 400 ms of computation
    assert corpus["StreamLAAL"] == 1250.0
    assert corpus["StreamLAAL_CA"] == (1100.0 + 2700.0 - 1000.0 + 1800.0 + 2400.0 - 1000.0) / 4
    assert tuple(corpus) == LONG_METRICS


def test_without_the_aligner_streamlaal_is_null_and_the_rest_is_there(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mweralign", None)
    scorer = LongFormScorer(Measure())
    scorer.add(whole(), HALVES)
    scores = scorer.scores()
    assert (scores.corpus["StreamLAAL"], scores.counts["skipped"]["StreamLAAL"]) == (None, 2)
    assert "aligned:not-installed" in scores.signatures["StreamLAAL"]
    assert scores.corpus["LongLAAL"] == 1250.0
    with pytest.raises(MissingExtraError, match=r"pip install .\.\[longform\]"):
        resegment(whole(), HALVES, "word", "mwer")


def test_by_mwer_every_latency_is_of_its_segments():
    pytest.importorskip("mweralign")
    scorer = LongFormScorer(Measure(), method="mwer")
    scorer.add(whole(), HALVES)
    scores = scorer.scores()
    assert tuple(scores.corpus) == STREAM_METRICS
    assert (scores.corpus["StreamLAAL"], scores.corpus["StreamStartOffset"]) == (1250.0, 1250.0)
    assert scores.signatures["segments"].startswith("aligned:mweralign-")


def scored(*talks):
    scorer = LongFormScorer(Measure())
    for number, delay in enumerate(talks):
        delays = (1000.0 + delay, 2500.0 + delay, 3500.0 + delay, 4000.0 + delay)
        scorer.add(whole(delays=delays, source=str(number), erased=number), HALVES)
    return scorer.scores(Bootstrap(samples=200))


def test_intervals_draw_recordings_and_then_their_segments():
    several = scored(0.0, 0.0, -4000.0)
    assert several.signatures["intervals"] == "draws:recordings-then-segments|recordings:3"
    # segments alone would rarely all come from the third talk; a draw of talks does once in 27
    assert several.intervals["LongDAL"].low < -2500.0
    assert several.intervals["NE"].low < several.corpus["NE"] < several.intervals["NE"].high


def test_of_a_single_recording_segments_are_drawn_and_its_erasure_has_no_interval():
    single = scored(0.0)
    assert single.signatures["intervals"] == "draws:segments|recordings:1"
    assert (single.corpus["NE"], single.intervals["NE"]) == (0.0, None)
    assert single.intervals["BLEU"] is not None


def test_the_aligner_leaves_the_log_of_the_program_as_it_is():
    pytest.importorskip("mweralign")
    program = (
        "import logging; from simulsa_plugin.metrics.mwer_segmentation import divide_text; "
        "assert len(divide_text('a b', ['a', 'b'], 'word')) == 2; root = logging.getLogger(); "
        "assert not root.handlers and root.level == logging.WARNING, root.handlers"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
