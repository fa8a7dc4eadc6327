"""Recordings and segments that are odd or cannot be used: skipped and counted, or one line; nothing is made up."""

import dataclasses
import sys

import numpy as np
import pytest
import soundfile
from helpers.files import read_json, read_json_lines
from helpers.reading_model import ReadingModel, text_of
from helpers.talks import VOICE_ACTIVITY, energy_detector, sentences, write_talk

from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.commands import evaluate
from simulsa_plugin.errors import AudioError, DatasetError, UsageError
from simulsa_plugin.evaluation import loading
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.model.values import UnusableRow
from simulsa_plugin.segments import ReferenceSegment

__all__ = ["energy_detector"]
pytestmark = pytest.mark.usefixtures("small_blocks", "energy_detector")


@pytest.fixture
def talk(tmp_path):
    return write_talk(tmp_path / "talk.wav", sentences(1), sentences(6, 11))


def run(rows, out, model=None, **settings):
    keys = {"chunks": (500,), "rollbacks": (0,), "longform": "window"} | VOICE_ACTIVITY | settings
    return run_evaluation(model or ReadingModel(), "odd", rows, EvaluationSettings(**keys), out)


def lines(out, cell="rollback_k500_b0"):
    return read_json_lines(out / cell / "instances.log")


def rewritten(row, path, change, rate=SAMPLE_RATE, **options):
    """The row with its audio changed: `change(waveform)` written to `path`."""
    waveform, _ = soundfile.read(row.audio, dtype="float32")
    soundfile.write(path, change(waveform), rate, **options)
    return dataclasses.replace(row, audio=str(path))


def test_a_talk_without_speech_is_scored_as_empty(talk, tmp_path):
    silent = rewritten(dataclasses.replace(talk, row=1), tmp_path / "silent.wav", np.zeros_like)
    cells = run([talk, silent], tmp_path / "out")
    for cell in cells:
        said, nothing = lines(tmp_path / "out", cell["folder"])
        assert (said["prediction"], nothing["prediction"], nothing["delays"]) == (talk.reference, "", [])
        assert (cell["instances"], cell["empty"], cell["skipped"]) == (6, 3, 0)
    assert read_json(tmp_path / "out" / "scores.json")["longform"]["without_speech"] == 1


def test_a_test_set_without_any_speech_is_scored_as_empty(talk, tmp_path):
    cells = run([rewritten(talk, tmp_path / "silent.wav", np.zeros_like)], tmp_path / "out")
    assert [(cell["instances"], cell["empty"], cell["BLEU"], cell["LongLAAL"]) for cell in cells] == [
        (3, 3, 0, None)
    ] * 2
    assert [line["prediction"] for line in lines(tmp_path / "out")] == [""]


def test_one_word_is_read(tmp_path):
    run([write_talk(tmp_path / "word.wav", [range(3, 4)])], tmp_path / "out")
    assert [line["prediction"] for line in lines(tmp_path / "out")] == ["w3"]


def test_ten_minutes_of_silence_delay_nothing(talk, tmp_path):
    def pause(waveform):
        middle = round(3.4 * SAMPLE_RATE)  # after the first paragraph
        return np.concatenate([waveform[:middle], np.zeros(600 * SAMPLE_RATE), waveform[middle:]])

    segments = tuple(
        dataclasses.replace(one, offset_seconds=one.offset_seconds + (600 if number else 0))
        for number, one in enumerate(talk.segments)
    )
    long = dataclasses.replace(rewritten(talk, tmp_path / "long.wav", pause), segments=segments)
    cells = run([talk], tmp_path / "plain"), run([long], tmp_path / "out")
    for plain, paused in zip(*cells, strict=True):
        if plain["policy"] != "offline":
            assert (paused["BLEU"], paused["LongLAAL"]) == (plain["BLEU"], plain["LongLAAL"])
    (plain,), (paused,) = lines(tmp_path / "plain"), lines(tmp_path / "out")
    assert paused["delays"] == plain["delays"][:5] + [delay + 600_000 for delay in plain["delays"][5:]]


def test_stereo_is_read_as_mono(talk, tmp_path):
    stereo = rewritten(talk, tmp_path / "stereo.wav", lambda mono: np.stack([mono, mono], axis=1))
    run([talk], tmp_path / "mono")
    run([stereo], tmp_path / "out")
    assert [line["delays"] for line in lines(tmp_path / "out")] == [line["delays"] for line in lines(tmp_path / "mono")]


@pytest.mark.parametrize("rate", [8000, 44_100])
def test_other_sample_rates_have_their_speech_at_the_same_places(talk, tmp_path, rate):
    import soxr

    other = rewritten(talk, tmp_path / "other.wav", lambda mono: soxr.resample(mono, SAMPLE_RATE, rate), rate)
    run([talk], tmp_path / "plain")
    run([other], tmp_path / "out")
    plain, found = (read_json(tmp_path / name / "scores.json")["longform"] for name in ("plain", "out"))
    assert found["seconds"] == pytest.approx(plain["seconds"], abs=0.001)
    assert found["speech_segments"] == plain["speech_segments"]
    assert found["speech_seconds"] == pytest.approx(plain["speech_seconds"], abs=0.1)  # a filter rings


def test_audio_that_cannot_be_used_is_skipped_and_counted(talk, tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_bytes(b"no audio at all" * 99)

    def with_nan(waveform):
        waveform[len(waveform) // 2] = np.nan
        return waveform

    def row(number, name):
        return dataclasses.replace(talk, row=number, audio=str(tmp_path / name))

    rows = [
        talk,
        row(1, "gone.wav"),
        row(2, "empty.wav"),
        row(3, "text.wav"),
        rewritten(row(4, "talk.wav"), tmp_path / "nan.wav", with_nan, subtype="FLOAT"),
        rewritten(row(5, "talk.wav"), tmp_path / "short.wav", lambda waveform: waveform[:2399]),  # under 150 ms
        row(6, "talk.wav"),
        UnusableRow(7, "no_audio"),
    ]
    cells = run(rows, tmp_path / "out")
    assert {(cell["instances"], cell["skipped"]) for cell in cells} == {(3, 7)}
    reasons = ["audio_missing", "audio_empty", "audio_broken", "audio_broken", "too_short", "repeated_recording"]
    assert read_json(tmp_path / "out" / "scores.json")["skipped"] == [
        {"id": f"odd-{number:08d}", "reason": reason} for number, reason in enumerate([*reasons, "no_audio"], 1)
    ]
    with pytest.raises(DatasetError, match=r"audio_missing 1\. The first audio is .*/gone\.wav\. Correct its path"):
        run(rows[1:2], tmp_path / "none")


def test_segments_that_do_not_fit_are_skipped_and_counted(talk, tmp_path):
    outside = ReferenceSegment(900.0, 1.0, "w1"), ReferenceSegment(1.0, 0.0, "w2"), ReferenceSegment(1.0, 1.0, " ")
    cells = run([dataclasses.replace(talk, segments=(*talk.segments, *outside))], tmp_path / "out")
    assert {(cell["instances"], cell["skipped"], round(cell["BLEU"], 6)) for cell in cells} == {(3, 3, 100)}
    reasons = [("beyond_end", 900.0), ("no_duration", 1.0), ("empty_reference", 1.0)]
    assert read_json(tmp_path / "out" / "scores.json")["skipped"] == [
        {"id": "odd-00000000", "offset": offset, "reason": reason} for reason, offset in reasons
    ]


def test_a_row_of_which_no_segment_fits_is_skipped(talk, tmp_path):
    none = dataclasses.replace(talk, row=1, segments=(ReferenceSegment(900.0, 1.0, "w1"),))
    cells = run([none, talk], tmp_path / "out")  # though another one has the same audio
    assert {(cell["instances"], cell["skipped"]) for cell in cells} == {(3, 1)}
    with pytest.raises(DatasetError, match=r"reasons: no_reference_segment 1"):
        run([none], tmp_path / "none")


def test_overlapping_segments_are_scored(talk, tmp_path):
    segments = tuple(dataclasses.replace(one, duration_seconds=one.duration_seconds + 1) for one in talk.segments)
    cells = run([dataclasses.replace(talk, segments=segments)], tmp_path / "out")
    assert {(cell["instances"], round(cell["BLEU"], 6)) for cell in cells} == {(3, 100)}


def test_a_row_without_segments_is_one_segment(talk, tmp_path):
    cells = run([dataclasses.replace(talk, segments=())], tmp_path / "out")
    assert {(cell["instances"], round(cell["BLEU"], 6)) for cell in cells} == {(1, 100)}
    assert (tmp_path / "out" / "references.txt").read_text() == f"{talk.reference}\n"


def test_text_about_audio_without_a_reference_is_counted_as_hallucinated(talk, tmp_path):
    cells = run([dataclasses.replace(talk, segments=talk.segments[:1])], tmp_path / "out")
    for cell in cells:
        assert cell["counts"]["hallucinated_units"] == 10  # of the second paragraph
        # 0.3 s before it, two sentences of 2 s with a breath of 0.13 s, and the 0.16 s of silence that close it
        assert cell["counts"]["hallucinated_seconds"] == pytest.approx(4.59, abs=0.064)


def test_a_speech_segment_too_short_to_be_decoded_takes_no_time_and_leaves_that_of_the_others(talk, tmp_path):
    def with_click(waveform):
        frames = np.pad(waveform, (0, -len(waveform) % 512))
        return np.concatenate([frames, np.full(4 * 512, 0.05), np.zeros(SAMPLE_RATE)])  # 128 ms

    row = rewritten(talk, tmp_path / "click.wav", with_click)
    cells = run([row], tmp_path / "out", measure_time=True, vad_pad_ms=0)
    for cell in cells:
        assert len(lines(tmp_path / "out", cell["folder"])[0]["elapsed"]) == 15
        assert cell["LongLAAL_CA"] > cell["LongLAAL"]


def test_a_recording_that_changes_meanwhile_is_told(talk, tmp_path, monkeypatch):
    load = loading.load_utterances

    def change(wanted):
        if shorter is None:
            (tmp_path / "talk.wav").unlink()
        else:
            soundfile.write(tmp_path / "talk.wav", shorter, SAMPLE_RATE)
        return load(wanted)

    monkeypatch.setattr(loading, "load_utterances", change)
    shorter = soundfile.read(talk.audio, dtype="float32")[0][: 4 * SAMPLE_RATE]
    cells = run([talk], tmp_path / "out")
    assert {cell["skipped"] for cell in cells} == {1}
    assert read_json(tmp_path / "out" / "scores.json")["skipped"] == [
        {"id": "odd-00000000", "segment": 1, "reason": "audio_beyond_end"}
    ]
    assert [line["prediction"] for line in lines(tmp_path / "out")] == [text_of(range(1, 6))]
    shorter = None
    talk = write_talk(tmp_path / "talk.wav", sentences(1))
    with pytest.raises(AudioError, match=r"talk\.wav: cannot be opened"):
        run([talk], tmp_path / "gone")


def test_chunks_that_do_not_fit_into_the_models_window_are_one_line(talk, tmp_path):
    with pytest.raises(UsageError, match=r"more than half of the window of 2\.5 s\. Set shorter chunks, or simulsa_lo"):
        run([talk], tmp_path / "out", ReadingModel(window_seconds=2.5), window_seconds=None)
    run([talk], tmp_path / "out", ReadingModel(window_seconds=2.5), window_seconds=None, longform="vad")


@pytest.mark.parametrize("command", [["run"], ["tune", "--budget", "2000"]])
def test_a_missing_detector_is_one_line_before_the_model_is_loaded(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    monkeypatch.setattr("simulsa_plugin.api.loading.load_model_and_data", lambda *_: pytest.fail("loaded"))
    assert evaluate.main([*command, "simulsa_longform=window", "--out", "out"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "simulsa_longform needs the package silero-vad. Install it: pip install silero-vad" in said
    assert not (tmp_path / "out").exists()
