"""Disturbed test sets: what is done to the audio, and word times that follow it."""

import json

import numpy as np
import pytest
from helpers.files import tree

from simulsa_plugin.demo.corpus import iterate_utterances, write_demo_corpus
from simulsa_plugin.demo.speech import VARIANTS, VOICES, Synthesizer, Voice
from simulsa_plugin.experiments import disturbed
from simulsa_plugin.experiments.disturbed import CONDITIONS, UNSEEN_VARIANTS, UNSEEN_VOICES, main
from simulsa_plugin.files.json_files import read_jsonl

ROWS = 3
VOICE = Voice("en-us", 200, 50, 50)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_demo_corpus(folder, rows=0, test_rows=ROWS, processes=1)
    return folder


@pytest.fixture(scope="module")
def utterances(data):
    return disturbed.read_test_set(data)


def under(condition, utterances):
    return list(disturbed.disturb_test_set(utterances, condition))


def test_clean_is_the_test_set_itself(data, tmp_path):
    assert main(["--data", str(data), "--out", str(tmp_path), "--conditions", "clean"]) == 0
    for row in range(ROWS):
        one, other = data / f"demo_test/{row:05d}.wav", tmp_path / f"demo_test_clean/{row:05d}.wav"
        assert one.read_bytes() == other.read_bytes()
    first, second = (
        list(read_jsonl(path)) for path in (data / "demo_test_truth.jsonl", tmp_path / "demo_test_clean_truth.jsonl")
    )
    assert [row | {"audio": ""} for row in first] == [row | {"audio": ""} for row in second]


def test_every_condition_is_a_registered_dataset_and_has_the_same_bytes_when_written_again(data, tmp_path):
    words = ["--data", str(data), "--out", str(tmp_path), "--conditions", "noise10,lead500"]
    assert main(words) == 0
    before = tree(tmp_path)
    assert main(words) == 0
    assert tree(tmp_path) == before
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert list(info) == ["demo_test_noise10", "demo_test_lead500"]
    rows = list(read_jsonl(tmp_path / "demo_test_lead500.jsonl"))
    assert info["demo_test_lead500"]["file_name"] == str(tmp_path / "demo_test_lead500.jsonl")
    assert [row["messages"] for row in rows] == [row["messages"] for row in read_jsonl(data / "demo_test.jsonl")]


def test_leading_silence_delays_every_word_and_trailing_silence_none(utterances):
    for name, lead, trail in (("lead500", 8000, 0), ("trail1000", 0, 16000), ("both500", 8000, 8000)):
        for before, now in zip(utterances, under(name, utterances), strict=True):
            assert len(now.waveform) == lead + len(before.waveform) + trail
            assert not now.waveform[:lead].any()
            assert not now.waveform[lead + len(before.waveform) :].any()
            assert np.array_equal(now.waveform[lead : lead + len(before.waveform)], before.waveform)
            assert np.allclose(np.subtract(now.word_ends, before.word_ends), lead / 16000)


def test_a_rooms_own_noise_is_as_loud_as_the_quietest_part_of_the_recording(utterances):
    for now in under("room_lead1000", utterances):
        level = np.sqrt(np.mean(now.waveform[:16000].astype(float) ** 2))
        quietest = min(
            np.sqrt(np.mean(frame.astype(float) ** 2))
            for frame in np.split(
                now.waveform[16000 : len(now.waveform) // 320 * 320], (len(now.waveform) - 16000) // 320
            )
        )
        assert level == pytest.approx(quietest, rel=0.05)


@pytest.mark.parametrize("decibels", [10, 20])
def test_noise_has_the_ratio_that_its_name_says(utterances, decibels):
    for before, now in zip(utterances, under(f"noise{decibels}", utterances), strict=True):
        noise = now.waveform - before.waveform
        ratio = 10 * np.log10(np.mean(before.waveform.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))
        assert ratio == pytest.approx(decibels, abs=0.3)
        assert now.word_ends == before.word_ends


def test_8_khz_keeps_what_is_below_4_khz_and_nothing_above():
    times = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * hertz * times).astype(np.float32) / 2 for hertz in (1000, 6000))
    utterance = next(iterate_utterances("test", 1, 1))
    for tone, kept in ((low, 1.0), (high, 0.0)):
        heard = (
            CONDITIONS["8khz"]
            .disturb(disturbed.dataclasses.replace(utterance, waveform=tone), np.random.default_rng(0))
            .waveform
        )
        inner = slice(1000, -1000)  # the filter rings at the ends
        assert np.std(heard[inner]) / np.std(tone[inner]) == pytest.approx(kept, abs=0.01)


@pytest.mark.parametrize(("name", "factor"), [("slow", 1 / 0.85), ("fast", 1 / 1.15)])
def test_another_speed_says_the_same_in_other_time(utterances, name, factor):
    spoken = [
        (len(before.waveform), len(now.waveform), before.word_ends[-1], now.word_ends[-1])
        for before, now in zip(utterances, under(name, utterances), strict=True)
    ]
    # the silence around the speech stays, so the whole changes by less than the speech
    long_before, long_now, ends_before, ends_now = map(sum, zip(*spoken, strict=True))
    assert (long_now - long_before) * (factor - 1) > 0
    assert ends_now / ends_before == pytest.approx(factor, rel=0.12)


def test_silence_and_sentences_stay_where_the_voice_is_another(utterances):
    again = under("voices", utterances)
    assert [one.sentence for one in again] == [one.sentence for one in utterances]
    assert not any(np.array_equal(one.waveform, two.waveform) for one, two in zip(again, utterances, strict=True))
    names = {disturbed.unseen(index, VOICE).name for index in range(18)}
    assert len(names) == len(UNSEEN_VOICES) * len(UNSEEN_VARIANTS)
    for name in names:
        accent, variant = name.split("+")
        assert accent not in VOICES
        assert variant not in VARIANTS


def test_espeak_has_the_unseen_voices():
    synthesizer = Synthesizer(seed=1)
    for index in range(18):
        assert len(synthesizer.speak(["today"], disturbed.unseen(index, VOICE)).waveform) > 1000


def test_a_set_of_other_sentences_is_refused(data, tmp_path, capsys):
    rows = list(read_jsonl(data / "demo_test_truth.jsonl"))
    rows[1]["source"] = "another sentence"
    rows[1]["word_ends"] = [0.1, 0.2]
    other = tmp_path / "data"
    other.mkdir()
    (other / "demo_test_truth.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (other / "dataset_info.json").write_text(json.dumps({"demo_test": {"file_name": str(other / "demo_test.jsonl")}}))
    assert main(["--data", str(other), "--out", str(tmp_path / "out"), "--conditions", "fast"]) == 1
    assert "Row 1 of demo_test is 'another sentence'; this version" in capsys.readouterr().err


def test_mistakes_are_one_line(data, tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no dataset demo_test with its truth. Create it: simulsa-augment --out" in capsys.readouterr().err
    assert main(["--data", str(data), "--out", str(tmp_path / "out"), "--conditions", "lead700"]) == 2
    assert "there is no condition 'lead700'; allowed: clean, lead500" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_others_have_made_stays(data, tmp_path, capsys):
    (tmp_path / "demo_test_clean.jsonl").write_text("mine")
    assert main(["--data", str(data), "--out", str(tmp_path), "--conditions", "clean"]) == 1
    assert "was not made by this command" in capsys.readouterr().err
    assert (tmp_path / "demo_test_clean.jsonl").read_text() == "mine"
    assert len(tree(tmp_path)) == 1
