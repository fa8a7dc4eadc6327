"""`simulsa-eval --dry-run` and `simulsa-eval tune --dry-run`: what they say is what runs do; they leave no trace."""

import json
import re
import shutil

import pytest
from helpers.files import tree

from simulsa_plugin.commands import evaluate as command
from simulsa_plugin.demo.checkpoint import checkpoint_path
from simulsa_plugin.demo.corpus import write_demo_corpus
from simulsa_plugin.files.checksums import write_sealed

KEYS = ["dataset=demo_test", "template=qwen2_audio"]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken")
    write_demo_corpus(folder, rows=0, test_rows=8, processes=1)
    return folder


@pytest.fixture
def bare(tmp_path):
    """The checkpoint without its weights: whoever loads them fails."""
    folder = tmp_path / "bare"
    shutil.copytree(checkpoint_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return f"model_name_or_path={folder}"


def test_an_evaluation_is_described_without_weights_and_nothing_is_written(spoken, bare, tmp_path, capsys):
    cells = ["simulsa_chunks=500,1000", "simulsa_rollbacks=0,3"]
    before = tree(tmp_path)
    words = [*KEYS, bare, f"dataset_dir={spoken}", *cells, "--out", str(tmp_path / "out")]
    assert command.main(["run", *words, "--dry-run"]) == 0
    text, _ = capsys.readouterr()
    assert tree(tmp_path) == before
    assert "demo_test: would decode 8 of 8 rows in 5 cells, 40 sessions\n" in text
    rows = [json.loads(line) for line in (spoken / "demo_test.jsonl").read_text(encoding="utf-8").splitlines()]
    import soundfile

    seconds = sum(soundfile.info(row["audios"][0]).duration for row in rows) / len(rows)
    assert f"audio: {seconds:.1f} s a row on average, of 8 rows that were read" in text
    assert re.search(r"model: 2\.3 M parameters, 0\.01 GB of weights; about [\d.]+ TFLOP .* that read [\d.]+ TB", text)
    assert re.search(r"time: about [\d.]+ (s|min) on one .*; calculated from the size of the model, not timed", text)
    assert "out: not finished" in text


def test_more_cells_and_rows_cost_more(spoken, bare, tmp_path, capsys):
    def cost(*keys):
        words = [*KEYS, bare, f"dataset_dir={spoken}", *keys, "--dry-run", "--out", str(tmp_path / "out")]
        assert command.main(words) == 0
        operations, num_bytes = re.search(r"about (\S+) TFLOP .* that read (\S+) TB", capsys.readouterr().out).groups()
        return float(operations), float(num_bytes)

    few = cost("simulsa_chunks=1000", "simulsa_rollbacks=0")
    shorter = cost("simulsa_chunks=500", "simulsa_rollbacks=0")
    assert shorter[0] > few[0] and shorter[1] > few[1]
    more = cost("simulsa_chunks=1000", "simulsa_rollbacks=0,3")
    assert more[0] == few[0] and more[1] > few[1]  # prompts are read once for all policies
    half = cost("simulsa_chunks=1000", "simulsa_rollbacks=0", "simulsa_eval_samples=4")
    assert half[0] < 0.7 * few[0] and half[1] < 0.7 * few[1]


def test_a_search_is_described(spoken, bare, tmp_path, capsys):
    words = [*KEYS, bare, f"dataset_dir={spoken}", "simulsa_dev_dataset=demo_test", "simulsa_policies=rollback"]
    words += ["simulsa_chunks=500,1000", "simulsa_rollbacks=0,1,2,3", "--out", str(tmp_path / "out")]
    assert command.main(["tune", *words, "--budget", "1000", "--dry-run"]) == 0
    # 8 cells on 6 utterances, and the 3 that are left on the other 2.
    assert "demo_test: would decode 8 of 8 rows in 8 cells, 54 sessions\n" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("done", [False, True])
def test_a_search_on_the_embedded_dev_set_is_described_once_that_is_there(spoken, tmp_path, capsys, done):
    corpus = tmp_path / "out" / "corpus"
    shutil.copytree(spoken, corpus)
    info = json.loads((corpus / "dataset_info.json").read_text(encoding="utf-8"))
    (corpus / "dataset_info.json").write_text(json.dumps({"demo_dev": info["demo_test"]}), encoding="utf-8")
    shutil.copy(corpus / "demo_test.jsonl", corpus / "demo_dev.jsonl")
    if done:
        write_sealed(tmp_path / "out" / "frontier.json", {})
    words = ["tune", "--budget", "1000", "--dry-run", "--out", str(tmp_path / "out")]
    assert command.main(words) == 0
    text = capsys.readouterr().out
    assert "demo_dev: would decode 8 of 8 rows in 248 cells" in text
    assert ("is finished" in text) == done


def test_what_has_to_be_made_first_is_said(tmp_path, capsys):
    assert command.main(["--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert "demo_test: would first synthesise the test set into " in capsys.readouterr().out
    assert command.main(["tune", "--budget", "1000", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert "demo_dev: would first be made in " in capsys.readouterr().out
    words = ["simulsa_longform=window", "--dry-run", "--out", str(tmp_path / "out")]
    assert command.main(words) == 0
    assert "demo_talks: would first synthesise the test set into " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_those_of_a_run(spoken, tmp_path, capsys):
    words = [*KEYS, "model_name_or_path=simulsa-demo", f"dataset_dir={spoken}", "simulsa_chunks=0", "--dry-run"]
    assert command.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "simulsa_chunks is 0" in capsys.readouterr().err


def test_of_long_recordings_nothing_is_estimated(spoken, bare, tmp_path, capsys):
    words = [*KEYS, bare, f"dataset_dir={spoken}", "simulsa_longform=window", "--dry-run", "--out", str(tmp_path / "o")]
    assert command.main(words) == 0
    assert "speech is found while decoding, so the cost is not estimated" in capsys.readouterr().out
