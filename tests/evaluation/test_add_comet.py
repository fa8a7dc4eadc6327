"""COMET added to a result: a stand-in scores by the length of texts, so that every value can be told on paper."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.fakes import ClockModel, Killed, write_noise
from helpers.files import tree

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.comparison.compare import CompareOptions, compare_with_baseline, load_result
from simulsa_plugin.errors import LogError, MissingExtraError
from simulsa_plugin.evaluation import report
from simulsa_plugin.evaluation.comet import command as module
from simulsa_plugin.evaluation.comet.scoring import CometScores
from simulsa_plugin.evaluation.evaluation_settings import CometSettings, EvaluationSettings
from simulsa_plugin.evaluation.report import REPORT_FILES
from simulsa_plugin.evaluation.result_cells import COMET
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.files import atomic, json_files
from simulsa_plugin.metrics.significance import Bootstrap
from simulsa_plugin.model.values import Prompt, Sample, UnusableRow


@pytest.fixture
def scorer(monkeypatch):
    """What was scored, call by call; the score of a segment is the length of its translation, in hundreds."""
    calls: list = []

    def scores(triples, checkpoint, *, python, batch_size):
        calls.append((list(triples), str(checkpoint), python, batch_size))
        return CometScores(tuple(len(triple["mt"]) / 100 for triple in triples), "COMET|checkpoint:toy")

    monkeypatch.setattr(module, "comet_scores", scores)
    return calls


SETTINGS = EvaluationSettings(chunks=(500,), rollbacks=(0,))


def result_rows(folder):
    """Three rows of which the second cannot be decoded."""
    rows = [
        Sample(
            row,
            Prompt(({"role": "user", "content": "<audio>Translate."},)),
            "guten Tag",
            write_noise(folder / f"{row}.wav", seconds, seed=row),
        )
        for row, seconds in ((0, 1.0), (2, 0.5))
    ]
    return [rows[0], UnusableRow(1, "no_audio"), rows[1]]


@pytest.fixture
def result(tmp_path):
    """Two cells."""
    run_evaluation(ClockModel(), "toy", result_rows(tmp_path), SETTINGS, tmp_path / "out")
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


@pytest.mark.parametrize(
    ("lines", "taken"),
    [
        (["one", "three"], ["one", "three"]),
        (["one", "two", "three"], ["one", "three"]),
    ],
)
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


def test_what_goes_wrong_in_a_run_is_a_warning_and_costs_no_bleu(result, monkeypatch, caplog):
    def fail(*_, **__):
        raise MissingExtraError("There is no comet.")

    monkeypatch.setattr(module, "comet_scores", fail)
    before = read(result)
    module.add_comet_if_wanted(result, CometSettings(comet="toy"))
    assert caplog.messages == [
        f"COMET was not computed, all else was: There is no comet. Later: simulsa-eval comet {result} --checkpoint toy"
    ]
    assert read(result) == before


def test_a_recipe_with_a_checkpoint_is_scored_as_it_says(result, scorer):
    module.add_comet_if_wanted(result, CometSettings(comet="toy", comet_python="py", comet_batch_size=2))
    assert scorer[0][1:] == ("toy", "py", 2)
    assert read(result)["cells"][0]["COMET"] == pytest.approx(0.07)


def kill_at(monkeypatch, file):
    """Die where a file would be written; whatever was written before stays."""
    real = atomic.replacing

    def replacing(path, *rest, **more):
        if path.name == file:
            raise Killed
        return real(path, *rest, **more)

    for place in (json_files, atomic, report):
        monkeypatch.setattr(place, "replacing", replacing)


@pytest.mark.parametrize("file", ["comet.jsonl", *REPORT_FILES, "scores.json"])
def test_killed_between_its_files_the_next_run_completes_and_no_reader_takes_them_for_whole(
    result, scorer, monkeypatch, tmp_path, file
):
    def second(triples, checkpoint, *, python, batch_size):  # another checkpoint, whose scores are higher
        return CometScores(tuple(len(triple["mt"]) / 10 for triple in triples), "COMET|checkpoint:other")

    words = ["comet", str(result), "--checkpoint", "toy"]
    with monkeypatch.context() as patched:
        kill_at(patched, file)
        with pytest.raises(Killed):
            main(words)
    without = load_result(result, CompareOptions())
    assert not any(COMET in cell.values for cell in without.cells.values())
    options = CompareOptions(bootstrap=Bootstrap(20, 20))
    assert compare_with_baseline([without, without], options)  # comet.jsonl is not looked at
    assert main(words) == 0
    whole = tree(result)
    with monkeypatch.context() as patched:
        patched.setattr(module, "comet_scores", second)
        kill_at(patched, file)
        with pytest.raises(Killed):
            main(words)
    if file != "comet.jsonl":  # scores.json has the means of the first checkpoint
        stopped = load_result(result, CompareOptions())
        with pytest.raises(
            LogError,
            match=r"does not hold the scores of offline in scores.json: their mean is 0.7000, "
            r"there it is 0.0700; `simulsa-eval comet` may have been stopped",
        ):
            compare_with_baseline([stopped, stopped], CompareOptions(bootstrap=Bootstrap(20, 20)))
    assert main(words) == 0
    assert tree(result) == whole


def test_a_result_that_is_decoded_again_has_no_comet_of_the_one_before(result, scorer, tmp_path):
    assert main(["comet", str(result), "--checkpoint", "toy"]) == 0
    (result / "scores.json").unlink()
    run_evaluation(ClockModel(), "toy", result_rows(tmp_path), SETTINGS, result)
    assert not list(result.rglob("comet.jsonl"))


def test_a_damaged_log_is_not_scored(result, scorer, capsys):
    log = result / "offline" / "instances.log"
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    assert main(["comet", str(result), "--checkpoint", "toy"]) == 1
    assert f"{log} is missing or not as it was written" in capsys.readouterr().err
    assert scorer == []


def test_scores_that_change_while_comet_is_computed_are_not_overwritten(result, monkeypatch, capsys):
    def scores(triples, checkpoint, **_):
        changed = read(result)
        changed["cells"][0]["BLEU"] = 1.0
        (result / "scores.json").write_text(json.dumps(changed))
        return CometScores((0.5,) * len(triples), "COMET|checkpoint:toy")

    monkeypatch.setattr(module, "comet_scores", scores)
    assert main(["comet", str(result), "--checkpoint", "toy"]) == 1
    assert "was changed while COMET was computed. Start again." in capsys.readouterr().err
    assert read(result)["cells"][0]["BLEU"] == 1.0


def test_comet_of_different_checkpoints_is_refused_or_left_out(result, monkeypatch, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(result, other)
    for folder, name in ((result, "one"), (other, "two")):
        monkeypatch.setattr(
            module,
            "comet_scores",
            lambda triples, *_, name=name, **__: CometScores(
                tuple(len(triple["mt"]) / 100 for triple in triples), f"COMET|checkpoint:{name}"
            ),
        )
        assert main(["comet", str(folder), "--checkpoint", name]) == 0
    capsys.readouterr()
    said = f"COMET of {result} and of {other} was computed differently (COMET|checkpoint:one; COMET|checkpoint:two)."
    words = ["compare", str(result), str(other), "--samples", "20", "--trials", "20"]
    assert main([*words, "--quality", "COMET"]) == 2
    assert said in capsys.readouterr().err
    assert main([*words, "--json", str(tmp_path / "x.json")]) == 0
    captured = capsys.readouterr()
    assert f"warning: {said} It is left out.\n" in captured.err
    assert "COMET" not in captured.out
    (pair,) = json.loads((tmp_path / "x.json").read_text())["comparisons"]
    assert pair["left_out"] == said
    assert not any("COMET" in cell["metrics"] for cell in pair["cells"])
    assert main(["comet", str(result), "--checkpoint", "two"]) == 0
    assert main([*words, "--quality", "COMET"]) == 0
