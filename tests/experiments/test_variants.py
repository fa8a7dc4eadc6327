"""Variants of training data, on two utterances whose labels are worked out on paper."""

import json
from pathlib import Path

import pytest
from augmented_demo import UTTERANCES, write_augmented

from simulsa_plugin.experiments.variants import main
from simulsa_plugin.storage import SHAREGPT_ENTRY, read_jsonl


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
    assert "is not about demo-00000000-0" in capsys.readouterr().err
