"""What a training adds to LLaMA-Factory's README.md, and what it leaves alone there."""

import types

import pytest
from huggingface_hub import ModelCard

from simulsa_plugin.evaluation.during_training import History
from simulsa_plugin.files.json_files import write_json
from simulsa_plugin.llamafactory.training.card_section import add_to_model_card

CARD = "---\nlibrary_name: peft\ntags:\n- llama-factory\n---\n\n# simulsa\n\nMore information needed\n"
SIGNATURE = "simulsa|n:3|seed:42"


def row(bleu, laal, chunk_ms=500, policy="rollback"):
    key = {"policy": policy, "chunk_ms": chunk_ms, "rollback": 3, "parameters": {}}
    counts = {"instances": 7, "empty": 0, "skipped": 0, "truncated_steps": 0}
    return key | {"BLEU": bleu, "chrF": 2 * bleu, "LAAL": laal, "NE": 0.5} | counts


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "saves"
    folder.mkdir()
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data" / "demo_simulsa").mkdir(parents=True)
    write_json(tmp_path / "data" / "demo_simulsa" / "manifest.json", {"signature": SIGNATURE})
    return types.SimpleNamespace(dataset=["demo", "demo_simulsa"], dataset_dir=str(tmp_path / "data"))


@pytest.fixture
def history(output):
    history = History(output)
    history.add(10, 1.0, 1.0, [row(10.0, 800.0)])
    history.add(20, 2.0, 1.0, [row(12.0, 900.0)])
    return history


def training(output, best=False, do_train=True):
    return types.SimpleNamespace(do_train=do_train, output_dir=str(output), load_best_model_at_end=best)


def text(output):
    return (output / "README.md").read_text(encoding="utf-8")


def test_the_data_and_the_last_scores_follow_the_card_which_stays(output, data, history):
    add_to_model_card(data, training(output), history)
    assert text(output).startswith(CARD)
    card = ModelCard.load(output / "README.md")
    assert card.data.tags == ["llama-factory"]
    lines = card.text.splitlines()
    assert f"demo_simulsa: {SIGNATURE}" in lines
    assert "llamafactory-cli train RECIPE.yaml dataset=demo,demo_simulsa" in lines
    assert "| rollback k=500 b=3 | 12.00 | 24.00 | 900 | 0.500 |" in lines
    assert "![Quality over latency](simulsa_eval.png)" in lines and (output / "simulsa_eval.png").exists()
    assert "10.00" not in card.text
    once = text(output)
    add_to_model_card(data, training(output), history)
    assert text(output) == once


def test_the_scores_are_those_of_the_weights_that_were_kept(output, data, history):
    write_json(output / "trainer_state.json", {"best_global_step": 10})
    add_to_model_card(data, training(output, best=True), history)
    assert "| rollback k=500 b=3 | 10.00 |" in text(output) and "after step 10," in text(output)
    assert "12.00" not in text(output)


def test_a_training_without_simultaneous_samples_and_decoding_changes_nothing(output, data):
    data.dataset = ["demo"]
    add_to_model_card(data, training(output), None)
    assert text(output) == CARD


@pytest.mark.parametrize("in_place", ["nothing", "a link", "bytes"])
def test_no_card_is_made_where_llamafactory_made_none(output, data, in_place, tmp_path):
    (output / "README.md").unlink()
    if in_place == "a link":
        (output / "README.md").symlink_to(tmp_path / "elsewhere.md")
    elif in_place == "bytes":
        (output / "README.md").write_bytes(b"\xff")
    add_to_model_card(data, training(output), None)
    assert not (tmp_path / "elsewhere.md").exists()
    if in_place == "nothing":
        assert list(output.iterdir()) == []
    if in_place == "bytes":
        assert (output / "README.md").read_bytes() == b"\xff"


def test_an_evaluation_alone_leaves_the_card(output, data, history):
    add_to_model_card(data, training(output, do_train=False), history)
    assert text(output) == CARD


def test_what_cannot_be_read_is_one_line_and_no_failure(output, data, tmp_path, capsys):
    (tmp_path / "data" / "demo_simulsa" / "manifest.json").write_text("{", encoding="utf-8")
    add_to_model_card(data, training(output), None)
    assert text(output) == CARD
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{output / 'README.md'} could not be completed: " in line and "manifest.json" in line
