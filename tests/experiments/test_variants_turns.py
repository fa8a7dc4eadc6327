"""Conversations of several cuts: what each turn hears and says, worked out on paper."""

import json
from pathlib import Path

import numpy as np
import pytest
from augmented_demo import UNSURE, UTTERANCES, scored, train, write_augmented

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.demo.grammar import PROMPT
from simulsa_plugin.experiments.variants import main
from simulsa_plugin.files.json_files import read_jsonl

GERMAN = [german for _, german, _, _ in UTTERANCES]


def three_cuts(folder):
    """Of row 0, out of order; the second by time supports less than the first. Of row 1 two that lie 0.1 s apart."""

    def cut(row, number, seconds, accepted):
        return scored(folder, row, number, seconds, [UNSURE] * len(GERMAN[row].split()), accepted)

    return [cut(0, 0, 1.2, 4), cut(0, 1, 0.5, 2), cut(0, 2, 0.8, 1), cut(1, 0, 0.6, 1), cut(1, 1, 0.7, 3)]


@pytest.fixture
def data(tmp_path):
    return write_augmented(tmp_path / "data", three_cuts)


def make(data, out, form):
    assert main(["turns", "--form", form, "--data", str(data), "--out", str(out)]) == 0
    entries = json.loads((out / "dataset_info.json").read_text())
    return list(read_jsonl(Path(entries["demo_simulsa"]["file_name"])))


def said(row):
    return [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]


def test_each_answer_adds_to_the_ones_before_and_never_takes_back(data, tmp_path):
    first, second = make(data, tmp_path / "out", "prefix")
    assert said(first) == ["Der Mann", "", " hat ein", " Auto gekauft."]
    assert said(second) == ["Heute", " muss die Tante die alte Lampe finden."]  # 0.1 s of new audio is no turn
    assert "".join(said(second)) == GERMAN[1]


def test_the_prompt_stands_in_the_first_turn_and_audio_in_all(data, tmp_path):
    first, _ = make(data, tmp_path / "out", "prefix")
    users = [turn["content"] for turn in first["messages"] if turn["role"] == "user"]
    assert users == [PROMPT, "<audio>", "<audio>", "<audio>"]
    assert [turn["role"] for turn in first["messages"]] == ["user", "assistant"] * 4
    assert [Path(audio).name for audio in first["audios"]] == [
        "demo-00000000-1.wav",
        "demo-00000000-2.wav",
        "demo-00000000-0.wav",
        "0.wav",
    ]


def test_clips_of_what_is_new_are_the_utterance_when_joined(data, tmp_path):
    for row, audio in zip(make(data, tmp_path / "out", "delta"), ("0.wav", "1.wav"), strict=True):
        parts = [read_mono(path) for path in row["audios"]]
        assert np.array_equal(np.concatenate(parts), read_mono(data / "offline" / audio))
        assert min(map(len, parts)) >= 0.2 * 16_000
        assert sum(turn["content"].count("<audio>") for turn in row["messages"]) == len(parts)


def test_single_turns_are_rows_of_monotone_partials(data, tmp_path):
    rows = make(data, tmp_path / "out", "single")
    assert [said(row) for row in rows] == [["Der Mann"], ["Der Mann"], ["Der Mann hat ein"], ["Heute"]]
    assert [Path(row["audios"][0]).name for row in rows] == [
        "demo-00000000-1.wav",
        "demo-00000000-2.wav",
        "demo-00000000-0.wav",
        "demo-00000001-0.wav",
    ]


def test_without_several_cuts_it_says_how_to_make_them(tmp_path, capsys):
    data = write_augmented(tmp_path / "one")
    assert main(["turns", "--data", str(data), "--out", str(tmp_path / "out")]) == 1
    assert "simulsa_cuts=3" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("form", ["prefix", "delta"])
def test_llamafactory_trains_on_conversations_with_several_audios(data, tmp_path, form):
    make(data, tmp_path / "out", form)
    first, second, _ = train("demo_simulsa.yaml", tmp_path / "out", tmp_path / "model")
    assert 0 < second["loss"] < 10
    assert first["grad_norm"] > 0
