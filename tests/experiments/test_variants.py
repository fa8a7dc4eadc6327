"""Variants of training data, on two utterances whose labels are worked out on paper."""

import json
from pathlib import Path

import pytest
from augmented_demo import UTTERANCES, train, write_augmented

from simulsa_plugin.demo import corpus
from simulsa_plugin.demo.grammar import PROMPT
from simulsa_plugin.demo.truth import find_truth
from simulsa_plugin.experiments.variants import main
from simulsa_plugin.experiments.variants_data import Augmented, write_datasets
from simulsa_plugin.experiments.variants_preferences import preferences
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.files.json_files import read_jsonl
from simulsa_plugin.model.values import Continuation


@pytest.fixture
def data(tmp_path):
    return write_augmented(tmp_path / "data")


def make(kind, data, out, *words):
    assert main([kind, "--data", str(data), "--out", str(out), *words]) == 0
    return json.loads((out / "dataset_info.json").read_text())


def answers(path):
    return [row["messages"][-1]["content"] for row in read_jsonl(Path(path))]


def test_true_labels_take_the_place_of_accepted_ones(data, tmp_path):
    entries = make("truth", data, tmp_path / "out")
    offline = str(data / "offline" / "demo.jsonl")
    assert entries["demo"] == {"file_name": offline, **SHAREGPT_ENTRY}
    assert entries["demo_simulsa"] == {"file_name": str(tmp_path / "out" / "demo_simulsa.jsonl"), **SHAREGPT_ENTRY}
    # 0.85 s: "the man bought", so far as accepted; 0.75 s: "today the aunt", where the verb that comes second waits.
    assert answers(entries["demo_simulsa"]["file_name"]) == ["Der Mann hat", "Heute"]
    first, _ = read_jsonl(tmp_path / "out" / "demo_simulsa.jsonl")
    assert first["audios"] == [str(data / "demo_simulsa" / "clips" / "demo-00000000-0.wav")]


def test_the_same_command_again_writes_the_same(data, tmp_path):
    out = tmp_path / "out"
    make("truth", data, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    make("truth", data, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_without_truth_or_of_others_is_one_line(data, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "demo_simulsa.jsonl").write_text("{}\n")
    assert main(["truth", "--data", str(data), "--out", str(tmp_path / "mine")]) == 1
    assert "was not made by this command" in capsys.readouterr().err
    (data / "offline" / "demo_truth.jsonl").unlink()
    assert main(["truth", "--data", str(data), "--out", str(tmp_path / "out")]) == 1
    assert "is not the embedded corpus with its truth" in capsys.readouterr().err


def test_a_truth_of_another_corpus_is_refused(data, tmp_path, capsys):
    truth = data / "offline" / "demo_truth.jsonl"
    truth.write_text(truth.read_text().replace(UTTERANCES[0][1].split()[-1], "verkauft."))
    assert main(["truth", "--data", str(data), "--out", str(tmp_path / "out")]) == 1
    assert "does not contain demo-00000000-0" in capsys.readouterr().err


@pytest.fixture
def few_evaluation_rows(monkeypatch):
    monkeypatch.setattr(corpus, "TEST_ROWS", 2)
    monkeypatch.setattr(corpus, "DEV_ROWS", 1)


def test_a_latency_word_says_how_the_label_was_decided(data, tmp_path, few_evaluation_rows):
    entries = make("latency_words", data, tmp_path / "out", "--low", "0.001", "--high", "0.9")
    rows = list(read_jsonl(Path(entries["demo_simulsa"]["file_name"])))
    asked = [(row["messages"][0]["content"].removeprefix(PROMPT), row["messages"][1]["content"]) for row in rows]
    # p is 1, 1, 1, .08, .002, .002 and 1, .82, .82, .002, 1, .002, .002, .002; 100 / V is .13
    assert asked == [
        (" Latency: low.", UTTERANCES[0][1]),
        (" Latency: normal.", "Der Mann hat"),
        (" Latency: high.", "Der Mann hat"),
        (" Latency: low.", UTTERANCES[1][1]),
        (" Latency: normal.", "Heute muss die"),
        (" Latency: high.", "Heute"),
    ]
    offline = list(read_jsonl(Path(entries["demo"]["file_name"])))
    assert [row["messages"][0]["content"][-4:] for row in offline] == ["low.", "mal."]  # in turn: normal is the second
    assert [row["messages"][1]["content"] for row in offline] == [german for _, german, _, _ in UTTERANCES]


def test_every_cut_may_have_one_word_in_turn(data, tmp_path, few_evaluation_rows):
    entries = make("latency_words", data, tmp_path / "out", "--low", "0.001", "--one-word")
    assert answers(entries["demo_simulsa"]["file_name"]) == [UTTERANCES[0][1], "Heute muss die"]


def test_the_test_and_dev_sets_ask_for_each_latency(data, tmp_path, few_evaluation_rows):
    entries = make("latency_words", data, tmp_path / "out")
    spoken = list(read_jsonl(tmp_path / "out" / "corpus" / "demo_test.jsonl"))
    for word in ("low", "normal", "high"):
        test = list(read_jsonl(Path(entries[f"demo_test_{word}"]["file_name"])))
        assert [row["audios"] for row in test] == [row["audios"] for row in spoken]
        assert {row["messages"][0]["content"] for row in test} == {f"{PROMPT} Latency: {word}."}
        truth = find_truth(f"demo_test_{word}", entries[f"demo_test_{word}"])
        assert all(truth.supported(number, row["messages"][1]["content"]) for number, row in enumerate(test))
        assert len(answers(entries[f"demo_dev_{word}"]["file_name"])) == 1


def test_a_threshold_that_is_no_probability_is_one_line(data, tmp_path, capsys):
    assert main(["latency_words", "--data", str(data), "--out", str(tmp_path / "out"), "--high", "99"]) == 2
    assert "--high" in capsys.readouterr().err


class Talker:
    """A stand-in for the offline model: whatever it must begin with, it goes on in the same words, and then stops."""

    def __init__(self, words):
        self.words = words

    def render_prompt(self, prompt, waveform):
        return (len(waveform),)

    def encode_prompts(self, prompts, waveforms):
        return prompts

    def generate(self, prompts, requests):
        return [Continuation(tuple(range(len(one.prefix), len(self.words))), truncated=False) for one in requests]

    def decode(self, token_ids):
        return " ".join(self.words[number] for number in token_ids)


def test_what_a_cut_supports_is_preferred_to_what_the_model_goes_on_to_say(data):
    rows = preferences(Augmented.open(data), Talker("Der Mann hat das Haus gesehen.".split()))["demo_preferences"].rows
    pairs = [(Path(row["audios"][0]).name, row["chosen"]["content"], row["rejected"]["content"]) for row in rows]
    assert pairs[:2] == [
        ("demo-00000000-0.wav", "Der Mann hat", "Der Mann hat das Haus gesehen."),
        ("0.wav", "Der Mann hat ein Auto gekauft.", "Der Mann hat"),  # of the whole utterance the partial is too little
    ]
    assert {row["messages"][0]["content"] for row in rows} == {PROMPT}


def test_where_the_model_stops_as_well_a_cut_gives_no_pair(data):
    rows = preferences(Augmented.open(data), Talker("Der Mann hat".split()))["demo_preferences"].rows
    assert [Path(row["audios"][0]).name for row in rows][:1] == ["0.wav"]


@pytest.mark.slow
def test_llamafactory_trains_on_the_pairs(data, tmp_path):
    """As the recipe does, but for two steps; the rewards show that there is a reference model."""
    write_datasets(
        tmp_path / "out",
        Augmented.open(data).entry,
        preferences(Augmented.open(data), Talker("Der Mann hat das Haus gesehen.".split())),
    )
    first, second, _ = train("experiments/training/demo_dpo.yaml", tmp_path / "out", tmp_path / "model")
    assert first["rewards/margins"] == 0.0  # the reference is the model itself
    assert second["rewards/margins"] != 0.0
