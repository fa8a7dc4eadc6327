"""Logs of OmniSTEval and simulstream, and what is written for them. Expected values: by hand, after those tools' code.

Whether the tools themselves agree is what tests/evaluation/test_other_tools.py asks them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.files import read_json_lines
from hypothesis import given, settings
from hypothesis import strategies as st

import simulsa_plugin
from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.errors import LogError, MissingExtraError
from simulsa_plugin.evaluation.score import ScoreOptions, score_log, score_table
from simulsa_plugin.logs import simulstream
from simulsa_plugin.logs.convert import record_events, shown_events
from simulsa_plugin.logs.reader import Log, ReadOptions
from simulsa_plugin.logs.simulstream import Event, Screen, make_detokenizer
from simulsa_plugin.metrics.delays import DELAY_KINDS, ShownStep, emission_record, split_units, unit_delays
from simulsa_plugin.metrics.latency import average_token_delay
from simulsa_plugin.metrics.records import EmissionRecord

DATA = Path(__file__).parents[1] / "data" / "latency"
SEGMENT = {
    "index": 0,
    "docid": 0,
    "segid": 0,
    "prediction": "a b",
    "reference": "a c",
    "source_length": 2000.0,
    "emission_cu": [500.0, 2500.0],
    "emission_ca": [600.0, 2700.0],
    "time_to_recording_end": 9000.0,
}


def audio(identity, *steps, name="talk.wav"):
    """Lines of one audio: (seconds heard, seconds computed, deleted, generated)."""
    rows = [{"id": identity, "metadata": {"wav_name": name}}]
    return rows + [
        {
            "id": identity,
            "total_audio_processed": heard,
            "computation_time": computed,
            "deleted_tokens": deleted.split(),
            "generated_tokens": generated.split(),
        }
        for heard, computed, deleted, generated in steps
    ]


def records(path, **options):
    return list(Log(path, ReadOptions(**options)).records())


def test_a_segment_of_omnisteval_becomes_a_record_of_a_recording(write):
    log = Log(write(SEGMENT))
    (record,) = log.records()
    assert log.form == "OmniSTEval"
    assert (record.prediction, record.reference, record.delays, record.elapsed) == (
        "a b",
        "a c",
        (500.0, 2500.0),
        (600.0, 2700.0),
    )
    assert (record.source_length, record.recording_end, record.source) == (2000.0, 9000.0, "0:0")


def test_what_is_written_for_omnisteval_keeps_its_recording(write, tmp_path):
    before = score_log(write(SEGMENT), ScoreOptions()).scores
    assert main(["convert", str(write(SEGMENT)), "--to", "omnisteval", "--out", str(tmp_path / "x.jsonl")]) == 0
    assert score_log(tmp_path / "x.jsonl", ScoreOptions()).scores.corpus == before.corpus
    assert before.corpus["SWF"] is before.corpus["EFSW"] is before.degenerate is None  # of whole utterances only


def test_a_segment_without_words_needs_no_times_and_one_with_words_does(write):
    empty = {key: value for key, value in SEGMENT.items() if not key.startswith(("emission", "time"))}
    log = Log(write(empty | {"prediction": ""}, SEGMENT | {"index": 1}))
    assert [record.delays for record in log.records()] == [(), (500.0, 2500.0)]
    assert log.form == "OmniSTEval"
    with pytest.raises(LogError, match="line 2: no emission_cu"):
        list(Log(write(SEGMENT, empty)).records())


def test_units_after_a_segments_end_count_until_the_recording_ends(write):
    scores = score_log(write(SEGMENT), ScoreOptions()).scores
    assert scores.corpus["YAAL"] == (500.0 + 2500.0 - 1000.0) / 2
    assert "form:long" in scores.signatures["YAAL"]


def test_an_audio_of_simulstream_becomes_a_record_in_milliseconds(write):
    path = write(*audio(1, (1.0, 0.25, "", "we saw"), (2.0, 0.5, "saw", "saw him"), (2.5, 0.125, "", "")))
    (record,) = records(path)
    assert (record.prediction, record.source, record.source_length) == ("we saw him", "talk.wav", 2500.0)
    assert record.delays == (1000.0, 2000.0, 2000.0)  # «saw» was deleted and written again
    assert record.elapsed == (1250.0, 2500.0, 2500.0)  # the computation of the step alone
    assert record.erased == 0  # on the screen nothing changed


def test_a_log_without_any_computation_was_not_measured(write):
    path = write(*audio(1, (1.0, 0.0, "", "we"), (2.0, 0.0, "", "go")))
    scores = score_log(path, ScoreOptions()).scores
    assert (scores.corpus["LAAL"], scores.corpus["LAAL_CA"]) == (1000.0, None)
    assert records(path)[0].elapsed is None


def test_a_word_that_grows_is_as_late_as_its_last_part(write):
    path = write(*audio(1, (1.0, 0.0, "", "▁we ▁sa"), (2.0, 0.0, "", "w ▁him")))
    (record,) = records(path, detokenizer="spm")
    assert (record.prediction, record.delays) == ("we saw him", (1000.0, 2000.0, 2000.0))


@pytest.mark.parametrize("unit", ["word", "char"])
def test_subwords_are_refused_unless_their_detokenizer_is_named(write, unit):
    path = write(*audio(1, (0.5, 0.0, "", "▁gu ten"), (1.0, 0.0, "", "▁Tag")))
    with pytest.raises(LogError, match="subwords"):
        records(path, unit=unit)
    (record,) = records(path, unit=unit, detokenizer="spm")
    assert record.prediction == "guten Tag"
    assert records(path, unit=unit, detokenizer=unit)  # whoever names another one is taken at their word


def test_the_clock_of_a_log_stands_in_the_signature(write):
    path = write(*audio(1, (1.0, 0.25, "", "we")))
    assert score_log(path, ScoreOptions()).scores.signatures["CA"] == "clock:per_step|as:simulstream-1.0.0"
    assert "cumulative" in score_log(DATA / "word.instances.log", ScoreOptions()).scores.signatures["CA"]


def test_references_and_segments_of_simulstream_come_from_files(write, tmp_path):
    path = write(*audio(1, (1.0, 0.0, "", "a b"), name="x/one.wav"), *audio(2, (2.0, 0.0, "", "c"), name="two.mp3"))
    (tmp_path / "refs.txt").write_text("C\nA B\n")
    (tmp_path / "segments.yaml").write_text(
        "- {wav: two.wav, offset: 0.5, duration: 1.5, speaker_id: x}\n- {wav: one.wav, offset: 0.0, duration: 3}\n"
    )
    first, second = records(path, references=tmp_path / "refs.txt", segments=tmp_path / "segments.yaml")
    assert (first.prediction, first.reference, first.delays, first.source_length) == ("c", "C", (1500.0,), 1500.0)
    assert (second.prediction, second.reference, second.source_length) == ("a b", "A B", 3000.0)


def test_without_references_the_predictions_length_counts(write):
    path = write(*audio(1, *[(float(i), 0.0, "", "word") for i in range(1, 6)]))
    scored = score_log(path, ScoreOptions())
    assert (scored.scores.corpus["AL"], scored.scores.corpus["BLEU"]) == (1000.0, None)
    assert "the reference is null" in scored.warnings[0]


def test_an_audio_of_which_nothing_is_heard_is_empty_and_not_absent(write):
    path = write(*audio(1, (1.0, 0.0, "", "a"), name="one.wav"), *audio(2, name="two.wav"))
    scores = score_log(path, ScoreOptions()).scores
    assert (scores.counts["instances"], scores.counts["empty"]) == (2, 1)


def test_an_audio_of_several_segments_is_aligned_with_its_references(write, tmp_path):
    pytest.importorskip("mweralign")
    path = write(*audio(1, (1.0, 0.0, "", "good morning all"), (3.0, 0.5, "", "we begin now")))
    (tmp_path / "refs.txt").write_text("good morning everyone\nwe begin\n")
    (tmp_path / "segments.yaml").write_text(
        "- {wav: talk.wav, offset: 0, duration: 1.5}\n- {wav: talk.wav, offset: 1.5, duration: 2}\n"
    )
    first, second = records(path, references=tmp_path / "refs.txt", segments=tmp_path / "segments.yaml")
    assert (first.prediction, second.prediction) == ("good morning all", "we begin now")
    assert (first.delays, second.delays) == ((1000.0,) * 3, (1500.0,) * 3)
    assert second.elapsed == (2000.0,) * 3


def test_without_the_aligner_the_extra_is_named(write, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mweralign", None)
    path = write(*audio(1, (1.0, 0.0, "", "a b")))
    (tmp_path / "s.yaml").write_text("- {wav: talk.wav, offset: 0, duration: 1}\n" * 2)
    (tmp_path / "refs.txt").write_text("a\nb\n")
    with pytest.raises(MissingExtraError, match=r"needs the package mweralign.*pip install '\.\[longform\]'"):
        records(path, segments=tmp_path / "s.yaml", references=tmp_path / "refs.txt", resegment="mwer")


LOADING = {"model_loading_time": 5.96}  # the first line that simulstream's inference and server write


@pytest.fixture
def in_segments(write, tmp_path):
    """A log with its segments (audio, offset, duration; seconds) and references, as options of `records`."""

    def in_segments(rows, segments, *references):
        (tmp_path / "refs.txt").write_text("".join(reference + "\n" for reference in references))
        (tmp_path / "segments.yaml").write_text(
            "".join(
                f"- {json.dumps({'wav': wav, 'offset': offset, 'duration': duration})}\n"
                for wav, offset, duration in segments
            )
        )
        return write(*rows), {
            "references": tmp_path / "refs.txt" if references else None,
            "segments": tmp_path / "segments.yaml",
        }

    return in_segments


def test_the_line_of_the_models_loading_is_passed_over(write):
    path = write(LOADING, *audio(1, (1.0, 0.5, "", "we go"), name="tst/ted_1096.wav"))
    assert Log(path).form == "simulstream"
    (record,) = records(path)
    assert (record.prediction, record.delays, record.source) == ("we go", (1000.0, 1000.0), "tst/ted_1096.wav")


def test_a_log_of_a_model_that_was_only_loaded_is_refused(write):
    with pytest.raises(LogError, match="has no metadata line"):
        records(write(LOADING))


def test_seconds_become_whole_milliseconds_and_no_token_of_the_source_more(write):
    # 16.1 · 1000 is 16100.000000000002 in floats, and .1 + .2 is .30000000000000004: ATD would find a token in the rest
    path = write(*audio(1, (0.1 + 0.2, 0.0, "", "a"), (15.8, 0.0, "", "b"), (16.1, 0.0, "", "c")))
    (record,) = records(path)
    assert (record.delays, record.source_length) == ((300.0, 15800.0, 16100.0), 16100.0)
    assert score_log(path, ScoreOptions()).scores.corpus["ATD"] == average_token_delay([300.0, 15800.0, 16100.0])


def test_delays_in_a_segment_are_whole_as_well(in_segments):
    path, options = in_segments(audio(1, (16.1, 0.5, "", "a")), [("talk.wav", 1.1, 15.3)])
    (record,) = records(path, **options)
    assert (record.delays, record.elapsed, record.source_length) == ((15000.0,), (15500.0,), 15300.0)


@pytest.mark.parametrize(
    "names", [("a/1.wav", "b/1.wav"), ("talk.v1", "talk.v2"), ("x.1.wav", "x.2.wav"), ("1.wav", "1.flac")]
)
def test_audios_are_told_apart_by_their_whole_names(in_segments, names):
    rows = [*audio(1, (1.0, 0.0, "", "one"), name=names[0]), *audio(2, (2.0, 0.0, "", "two"), name=names[1])]
    path, options = in_segments(rows, [(names[1], 0.0, 2.0), (names[0], 0.0, 1.0)], "two", "one")
    assert [record.prediction for record in records(path)] == ["one", "two"]
    assert [(record.prediction, record.source) for record in records(path, **options)] == [
        ("two", names[1]),
        ("one", names[0]),
    ]


@pytest.mark.parametrize(
    ("logged", "named"),
    [
        ("data/wav/ted_1.wav", "ted_1.wav"),
        ("wav/a/1.wav", "a/1.wav"),
        ("ted_1.mp3", "ted_1.wav"),
        ("talk.v1", "wav/talk.v1.wav"),
    ],
)
def test_an_audio_is_found_where_folder_or_suffix_differ(in_segments, logged, named):
    rows = [
        *audio(1, (1.0, 0.0, "", "one"), name=logged),
        *audio(2, (2.0, 0.0, "", "two"), name="talk.v2"),
        *audio(3, (2.0, 0.0, "", "three"), name="wav/b/1.wav"),
    ]
    path, options = in_segments(rows, [(named, 0.0, 1.0)])
    assert [record.prediction for record in records(path, **options)] == ["one"]


@pytest.mark.parametrize(
    ("logged", "named", "message"),
    [
        (["a/1.wav", "b/1.wav"], ["1.wav"], "The segments name 1.wav, which may be a/1.wav or b/1.wav of the log"),
        (["1.wav"], ["a/1.wav", "b/1.wav"], "The segments name a/1.wav and b/1.wav; the log has only 1.wav for both"),
        (["talk.v1"], ["talk.v2"], "The log has no audio named talk.v2"),
    ],
)
def test_an_audio_that_is_not_clear_is_refused(in_segments, logged, named, message):
    rows = [row for number, name in enumerate(logged) for row in audio(number, (1.0, 0.0, "", "a"), name=name)]
    path, options = in_segments(rows, [(name, 0.0, 1.0) for name in named])
    with pytest.raises(LogError, match=message):
        records(path, **options)


def test_a_second_run_added_to_the_log_is_refused(write):
    with pytest.raises(LogError, match=r"line 4: the audio talk.wav is repeated, as after a second run"):
        records(write(LOADING, *audio(1, (1.0, 0.0, "", "a")), *audio(2, (1.0, 0.0, "", "a"))))


def two_segments(in_segments, *references):
    """4 s with two segments of 2 s; the first text comes late in the second, the last unit after the recording."""
    rows = [LOADING, *audio(1, (1.0, 0.0, "", "a"), (2.5, 0.0, "", "b"), (3.5, 0.0, "", "c"), (4.0, 0.0, "", "d"))]
    return in_segments(rows, [("talk.wav", 0.0, 2.0), ("talk.wav", 2.0, 2.0)], *references)


@pytest.mark.parametrize("method", ["soft", "mwer"])
def test_yaal_of_segments_goes_on_to_the_recordings_end(in_segments, method):
    pytest.importorskip("mweralign")
    path, options = two_segments(in_segments, "a b", "c d")
    first, second = records(path, **options, resegment=method)
    assert (first.recording_end, second.recording_end) == (4000.0, 2000.0)
    assert (first.delays, second.delays) == ((1000.0, 2500.0), (1500.0, 2000.0))
    scored = score_log(path, ScoreOptions(**options, sentences=True, resegment=method)).scores
    # b, written after the segment but before the recording's end, counts: (1000 + 2500 − 1000) / 2; d does not: 1500
    assert scored.sentences["LongYAAL" if method == "soft" else "StreamYAAL"] == [1250.0, 1500.0]
    assert "form:long" in scored.signatures["latency"]
    assert scored.signatures["segments"].startswith(
        "aligned:SoftSegmenter" if method == "soft" else "aligned:mweralign-"
    )


def test_segments_that_are_listed_out_of_order_are_aligned_in_that_of_time(in_segments):
    pytest.importorskip("mweralign")
    rows = audio(1, (1.0, 0.0, "", "a"), (2.0, 0.0, "", "b"), (3.5, 0.0, "", "c"), (4.0, 0.0, "", "d"))
    path, options = in_segments(rows, [("talk.wav", 2.0, 2.0), ("talk.wav", 0.0, 2.0)], "c d", "a b")
    assert [(one.prediction, one.delays) for one in records(path, **options)] == [
        ("c d", (1500.0, 2000.0)),
        ("a b", (1000.0, 2000.0)),
    ]


def test_what_is_said_of_whole_utterances_is_not_said_of_segments(in_segments):
    pytest.importorskip("mweralign")
    path, options = two_segments(in_segments, "a b", "c d")
    scored = score_log(path, ScoreOptions(**options))
    assert not {"SWF", "EFSW", "YAAL"} & set(scored.scores.corpus)
    assert scored.scores.degenerate is None
    assert not any("degenerate" in line for line in score_table(scored))


def test_a_segment_for_each_audio_is_no_long_form(in_segments):
    path, options = in_segments(audio(1, (1.0, 0.0, "", "a"), (2.0, 0.0, "", "b")), [("talk.wav", 0.0, 2.0)], "a b")
    scores = score_log(path, ScoreOptions(**options)).scores
    assert ("form:short" in scores.signatures["YAAL"], scores.corpus["SWF"]) == (True, 50.0)


def test_several_segments_without_references_are_one_clear_error(in_segments, capsys):
    path, options = two_segments(in_segments)
    with pytest.raises(LogError, match=r"talk.wav has 2 segments and no references.*Give --references FILE"):
        records(path, **options)
    assert main(["score", str(path), "--segments", str(options["segments"])]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("references", "texts"),
    [
        (("a b c d", ""), ["a b c d", ""]),
        (("", "a b c d"), ["", "a b c d"]),
        (("", ""), ["a b c d", ""]),
        (("a b c d", " "), ["a b c d", ""]),
    ],
)
@pytest.mark.parametrize("unit", ["word", "char"])
def test_an_empty_reference_is_a_segment_in_which_nothing_is_said(in_segments, references, texts, unit):
    pytest.importorskip("mweralign")
    path, options = two_segments(in_segments, *references)
    found = records(path, **options, unit=unit, detokenizer="word", resegment="mwer")
    assert [record.prediction for record in found] == texts
    assert [len(record.delays) for record in found] == [len(split_units(text, unit)) for text in texts]


def test_what_the_aligner_cannot_keep_apart_is_one_clear_error(in_segments):
    pytest.importorskip("mweralign")
    rows = audio(1, (1.0, 0.0, "", "a b"))
    rows[1]["generated_tokens"] = ["a", "b\nc"]
    path, options = in_segments(rows, [("talk.wav", 0.0, 2.0), ("talk.wav", 2.0, 2.0)], "a b", "c")
    with pytest.raises(LogError, match="cannot be aligned with its 2 references"):
        records(path, **options, resegment="mwer")
    counts = score_log(path, ScoreOptions(**options)).scores.counts
    assert (counts["unaligned_recordings"], counts["skipped"]["StreamLAAL"]) == (1, 2)


@pytest.mark.parametrize("more", [{}, {"docid": None, "segid": None, "longform": True}])
def test_a_segment_that_does_not_say_when_its_recording_ends_has_no_end(write, more):
    # as OmniSTEval's longform: both units count, (500 + 2500 − 1000) / 2
    row = {name: value for name, value in (SEGMENT | more).items() if name != "time_to_recording_end"}
    scores = score_log(write({name: value for name, value in row.items() if value is not None}), ScoreOptions()).scores
    assert (scores.corpus["YAAL"], scores.corpus["SWF"]) == (1000.0, None)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*audio(1, (1.0, 0.0, "b", "a"))], r"line 2: deleted_tokens are \[\"b\"\]; expected the last tokens"),
        ([*audio(1, (1.0, 0.0, "", "a"))[1:]], "line 1: id 1 has no metadata line"),
        ([*audio(1)[:1], {"id": 1, "total_audio_processed": "x", "computation_time": 0}], "line 2: .*expected seconds"),
        (
            [
                *audio(1)[:1],
                {
                    "id": 1,
                    "total_audio_processed": 1,
                    "computation_time": 0,
                    "generated_tokens": "a",
                    "deleted_tokens": [],
                },
            ],
            'line 2: generated_tokens is "a"; expected a list of texts',
        ),
        ([{"id": 1, "metadata": "x"}], 'line 1: metadata is "x"'),
        ([*audio(1)[:1], "{"], "line 2: not valid JSON"),
    ],
)
def test_a_bad_line_of_simulstream_is_refused_with_its_number(write, rows, message):
    with pytest.raises(LogError, match=message):
        records(write(*rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "does not hold a list"),
        ("- {wav: talk.wav, offset: 0}", "entry 1: duration holds null; expected seconds"),
        ("- [1]", "entry 1: "),
        ("- {wav: none.wav, offset: 0, duration: 1}", "has no audio named none"),
        ("- !!python/object/apply:os.system [true]", "Cannot read the segments"),
        ("- {", "Cannot read the segments"),
        ("[]", "does not hold a list"),
        ("- {wav: 2020-01-01, offset: 0, duration: 1}", "entry 1: .*expected an object"),
        ("- {wav: talk.wav, offset: 2020-13-45, duration: 1}", "Cannot read the segments"),
        ("- &a {wav: *a}", "entry 1: "),
        ("- {wav: talk.wav, offset: -1, duration: 1}", "entry 1: offset is -1; allowed"),
        ("- {wav: talk.wav, offset: .nan, duration: 1}", "entry 1: offset is nan; allowed"),
        ("- {wav: [%s], offset: 0, duration: 1}" % ("&x [1, 1]," + "*x," * 1000), "entry 1: "),
    ],
)
def test_bad_segments_are_one_clear_error(write, tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(LogError, match=message) as caught:
        records(write(*audio(1, (1.0, 0.0, "", "a"))), segments=tmp_path / "s.yaml")
    assert "\n" not in str(caught.value)


def test_lines_that_are_segments_already_are_not_divided(write, tmp_path):
    (tmp_path / "s.yaml").write_text("- {wav: talk.wav, offset: 0, duration: 1}\n")
    with pytest.raises(LogError, match=r"a log of OmniSTEval, whose lines are segments already\. Leave --segments out"):
        records(write(SEGMENT), segments=tmp_path / "s.yaml")


texts = st.text(alphabet="ab ", max_size=8)
shown = st.lists(st.tuples(texts, st.integers(0, 8), st.integers(0, 900)), min_size=1, max_size=6)


def make_steps(shown) -> list[ShownStep]:
    steps: list[ShownStep] = []
    committed = ""
    for number, (text, more, spent) in enumerate(shown, 1):
        text = committed + text
        committed = text if number == len(shown) else text[: max(len(committed), more)]
        steps.append(ShownStep(500.0 * number, text.strip(), committed, number == len(shown), float(spent)))
    return steps


@given(shown, st.sampled_from(["word", "char"]), st.sampled_from(DELAY_KINDS))
@settings(max_examples=300)
def test_every_delay_reads_back_from_what_is_written_for_simulstream(shown, unit, name):
    steps, screen = make_steps(shown), Screen()
    for event in shown_events(steps, unit, name):
        screen.add(event, unit, make_detokenizer(unit))
    assert screen.delays == unit_delays(steps, unit, name)
    if name == "first_stable":  # the screen as it was
        assert screen.erased == emission_record(steps, 0, "", "", unit).erased


@given(shown)
def test_elapsed_times_read_back_per_step(shown):
    steps, screen = make_steps(shown), Screen()
    record = emission_record(steps, 0, "", "", "word")
    for event in record_events(record, "word"):
        screen.add(event, "word", " ".join)
    assert screen.delays == list(record.delays)
    spent = [late - now for late, now in zip(screen.elapsed, screen.delays, strict=True)]
    # What grew between one emission and the next is the computation of the steps between them.
    assert sum(dict(zip(screen.delays, spent, strict=True)).values()) == pytest.approx(
        record.elapsed[-1] - record.delays[-1] if record.elapsed else 0.0
    )


def test_a_log_goes_through_every_form_and_keeps_its_scores(tmp_path):
    source = DATA / "word_system2.instances.log"
    before = score_log(source, ScoreOptions()).scores
    for form in ("simuleval", "omnisteval"):
        assert main(["convert", str(source), "--to", form, "--out", str(tmp_path / form)]) == 0
        after = score_log(tmp_path / form, ScoreOptions()).scores
        assert (after.corpus, after.counts) == (before.corpus, before.counts)
    assert main(["convert", str(source), "--to", "simulstream", "--out", str(tmp_path / "s")]) == 0
    options = ScoreOptions(references=tmp_path / "s" / "references.txt", segments=tmp_path / "s" / "segments.yaml")
    after = score_log(tmp_path / "s" / "simulstream.jsonl", options).scores
    for name in ("BLEU", "chrF", "AL", "LAAL", "AP", "DAL", "ATD", "YAAL"):
        assert after.corpus[name] == pytest.approx(before.corpus[name], rel=1e-9)
    assert after.corpus["NE"] == 0.0


def test_a_log_of_text_stays_one_in_every_form_that_has_no_seconds(write, tmp_path, capsys):
    row = {
        "index": 0,
        "prediction": "a b",
        "reference": "a b",
        "source": "x y",
        "source_length": 2,
        "delays": [1, 2],
        "elapsed": [0, 0],
    }
    log = str(write(row))
    for form in ("simuleval", "omnisteval"):
        assert main(["convert", log, "--to", form, "--out", str(tmp_path / form)]) == 0
        (record,) = records(tmp_path / form)
        assert (record.text_source, record.elapsed) == (True, None)
    assert main(["convert", log, "--to", "simulstream", "--out", str(tmp_path / "s")]) == 1
    assert "Instance 0 has a source of text, and delays in its tokens" in capsys.readouterr().err


def test_texts_have_a_source_where_one_is_given(write, tmp_path, capsys):
    row = {"index": 0, "prediction": "a", "reference": "b", "delays": [1.0], "source_length": 1.0}
    (tmp_path / "src.txt").write_text("x\ny\n")
    log = str(write(row, row | {"prediction": ""}))
    out = tmp_path / "t.jsonl"
    assert main(["convert", log, "--to", "texts", "--out", str(out), "--sources", str(tmp_path / "src.txt")]) == 0
    assert read_json_lines(out) == [
        {"src": "x", "mt": "a", "ref": "b"},
        {"src": "y", "mt": "", "ref": "b"},
    ]
    assert main(["convert", log, "--to", "texts", "--out", str(out)]) == 0
    assert json.loads(out.read_text().splitlines()[0]) == {"mt": "a", "ref": "b"}
    (tmp_path / "src.txt").write_text("x\n")
    assert main(["convert", log, "--to", "texts", "--out", str(out), "--sources", str(tmp_path / "src.txt")]) == 1
    assert "src.txt holds 1 lines for 2 instances" in capsys.readouterr().err


def test_lists_have_an_audio_and_a_reference_per_line(write, tmp_path, capsys):
    row = {
        "index": 0,
        "prediction": "a",
        "reference": "b\nc",
        "delays": [500.5],
        "source_length": 900.5,
        "source": "x.wav",
    }
    theirs = row | {"index": 1, "reference": "d", "source": ["y z.wav", "samplerate: 16000 Hz"]}
    out = tmp_path / "lists"
    for _ in range(2):
        assert main(["convert", str(write(row, theirs)), "--to", "lists", "--out", str(out)]) == 0
    assert (out / "source.txt").read_text() == "x.wav\ny z.wav\n"
    assert (out / "target.txt").read_text() == "b c\nd\n"
    for wrong, message in (
        ({"reference": None}, "Instance 2 has no reference. Give --references FILE."),
        ({"source": ""}, "Instance 2 has no audio that a list can name. Give a log of speech."),
        ({"source": "x\ny.wav"}, "Instance 2 has no audio that a list can name"),
    ):
        assert main(["convert", str(write(row, row | {"index": 1} | wrong)), "--to", "lists", "--out", str(out)]) == 1
        assert message in capsys.readouterr().err
    assert (out / "source.txt").read_text() == "x.wav\ny z.wav\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--to", "simuleval", "--delays", "first_stable"], 2, "needs steps.jsonl; give the folder of a cell"),
        (["--to", "simuleval", "--sources", "x"], 2, "--sources goes with --to texts"),
        (["--to", "nothing"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_converted_is_one_line(words, code, message, tmp_path, capsys):
    assert main(["convert", str(DATA / "word.instances.log"), "--out", str(tmp_path / "x"), *words]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_delays_that_are_not_one_per_unit_cannot_become_events(tmp_path, capsys):
    assert main(["convert", str(DATA / "word.instances.log"), "--to", "simulstream", "--out", str(tmp_path / "x")]) == 1
    assert "its elapsed times imply negative computation" in capsys.readouterr().err
    with pytest.raises(LogError, match="2 delays for 1 units; simulstream has a time for each"):
        record_events(EmissionRecord(3, "a", "a", (1.0, 2.0)), "word")
    with pytest.raises(LogError, match="Instance 3 starts 500 ms before its segment"):
        record_events(EmissionRecord(3, "a b", "a", (-500.0, 2.0)), "word")


def test_an_event_that_deletes_more_than_there_is_is_refused():
    with pytest.raises(LogError, match="deleted_tokens"):
        Screen().add(Event(1.0, 0.0, ["a"], []), "word", " ".join)


def test_a_folder_that_is_no_tokenizer_is_one_line(tmp_path, write, capsys):
    path = str(write(*audio(1, (1.0, 0.0, "", "a"))))
    for name, message in ((str(tmp_path), "cannot read a tokenizer.json"), ("nothing", "allowed: word, char, spm")):
        assert main(["score", path, "--detokenizer", name]) == 2
        assert message in capsys.readouterr().err
    assert simulstream.make_detokenizer("char")(["a", "b"]) == "ab"


def test_a_models_own_tokens_become_its_text():
    from tokenizers import Tokenizer

    folder = Path(simulsa_plugin.__file__).parent / "demo" / "simulsa-demo"
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("für die alte Brücke").tokens
    assert simulstream.make_detokenizer(str(folder))(tokens) == "für die alte Brücke"


def test_of_a_result_folder_a_cell_is_named_to_convert(write, tmp_path, capsys):
    cell = tmp_path / "out" / "rollback_k500_b0"
    (tmp_path / "out" / "offline").mkdir(parents=True)
    cell.mkdir()
    for folder in (cell, tmp_path / "out" / "offline"):
        (folder / "instances.log").write_bytes(write(SEGMENT).read_bytes())
    assert main(["convert", str(tmp_path / "out"), "--to", "lists", "--out", str(tmp_path / "lists")]) == 1
    assert f"the folder of a cell of `simulsa-eval run`, such as {cell}." in capsys.readouterr().err
