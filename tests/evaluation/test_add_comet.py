"""COMET added to a result: a stand-in scores by the length of texts, so that every value can be told on paper."""

from __future__ import annotations

import json

import pytest
from fakes import ClockModel, write_noise

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.errors import MissingExtraError
from simulsa_plugin.evaluation import add_comet as module
from simulsa_plugin.evaluation.comet import CometScores
from simulsa_plugin.evaluation.run import evaluate
from simulsa_plugin.evaluation.settings import CometSettings, EvaluationSettings
from simulsa_plugin.model import Prompt, Sample, UnusableRow


@pytest.fixture
def scorer(monkeypatch):
    """What was scored, call by call; the score of a segment is the length of its translation, in hundreds."""
    calls: list = []

    def scores(triples, checkpoint, *, python, batch_size):
        calls.append((list(triples), str(checkpoint), python, batch_size))
        return CometScores(tuple(len(triple["mt"]) / 100 for triple in triples), "COMET|checkpoint:toy")
    monkeypatch.setattr(module, "comet_scores", scores)
    return calls


@pytest.fixture
def result(tmp_path):
    """Three rows of which the second cannot be decoded, in two cells."""
    rows = [Sample(row, Prompt(({"role": "user", "content": "<audio>Translate."},)), "guten Tag",
                   write_noise(tmp_path / f"{row}.wav", seconds, seed=row)) for row, seconds in ((0, 1.0), (2, 0.5))]
    evaluate(ClockModel(), "toy", [rows[0], UnusableRow(1, "no_audio"), rows[1]],
             EvaluationSettings(chunks=(500,), rollbacks=(0,)), tmp_path / "out")
    return tmp_path / "out"


def read(result):
    return json.loads((result / "scores.json").read_text(encoding="utf-8"))


def test_every_cell_of_a_result_gets_a_mean_an_interval_and_the_signature(result, scorer, capsys):
    before = read(result)
    assert main(["comet", str(result), "--checkpoint", "toy", "--python", "py", "--batch-size", "3"]) == 0
    scores = read(result)
    # «guten Tag » and «guten»: 9 and 5 characters.
    assert [cell["COMET"] for cell in scores["cells"]] == [pytest.approx(0.07)] * 2
    assert scores["cells"][0]["intervals"]["COMET"] == [0.05, 0.09]
    assert scores["signatures"]["COMET"] == "COMET|checkpoint:toy"
    assert [cell["BLEU"] for cell in scores["cells"]] == [cell["BLEU"] for cell in before["cells"]]
    assert "COMET" in (result / "scores.tsv").read_text().splitlines()[0]
    lines = (result / "offline" / "comet.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"index": 0, "score": 0.09}, {"index": 1, "score": 0.05}]
    assert "rollback k=500 b=0: 0.0700" in capsys.readouterr().out
    (call,) = scorer  # one start of the model for all cells
    assert call[1:] == ("toy", "py", 3)
    assert call[0][0] == {"mt": "guten Tag", "ref": "guten Tag"}


@pytest.mark.parametrize(("lines", "taken"), [
    (["one", "three"], ["one", "three"]),
    (["one", "two", "three"], ["one", "three"]),
])
def test_sources_may_stand_for_instances_or_for_rows(result, scorer, tmp_path, lines, taken):
    (tmp_path / "src.txt").write_text("\n".join(lines) + "\n")
    assert main(["comet", str(result), "--checkpoint", "toy", "--sources", str(tmp_path / "src.txt")]) == 0
    assert [triple["src"] for triple in scorer[0][0]] == taken * 2


def test_sources_of_another_number_are_one_line(result, scorer, tmp_path, capsys):
    (tmp_path / "src.txt").write_text("one\n")
    assert main(["comet", str(result), "--checkpoint", "toy", "--sources", str(tmp_path / "src.txt")]) == 1
    assert "src.txt holds 1 lines for 2 instances of 3 rows" in capsys.readouterr().err
    assert scorer == []


def test_a_single_log_is_scored_and_nothing_is_written(result, scorer, capsys):
    log = result / "offline" / "instances.log"
    assert main(["comet", str(log), "--checkpoint", "toy"]) == 0
    assert capsys.readouterr().out == f"{log}: 0.0700\n"
    assert not (result / "offline" / "comet.jsonl").exists()


def test_a_recipe_without_a_checkpoint_asks_for_nothing(result, scorer):
    module.add_comet_if_wanted(result, CometSettings())
    assert scorer == []


def test_what_goes_wrong_in_a_run_is_a_warning_and_costs_no_bleu(result, monkeypatch, capsys):
    def fail(*_, **__):
        raise MissingExtraError("There is no comet.")
    monkeypatch.setattr(module, "comet_scores", fail)
    before = read(result)
    module.add_comet_if_wanted(result, CometSettings(comet="toy"))
    assert capsys.readouterr().err == (
        "simulsa-eval: warning: COMET was not computed, all else was: There is no comet. "
        f"Later: simulsa-eval comet {result} --checkpoint toy\n")
    assert read(result) == before


def test_a_recipe_with_a_checkpoint_is_scored_as_it_says(result, scorer):
    module.add_comet_if_wanted(result, CometSettings(comet="toy", comet_python="py", comet_batch_size=2))
    assert scorer[0][1:] == ("toy", "py", 2)
    assert read(result)["cells"][0]["COMET"] == pytest.approx(0.07)
