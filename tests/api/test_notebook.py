"""The Python API as a notebook uses it: the example runs, and its results are those of the files and the commands."""

import json
import logging
import runpy
from pathlib import Path

import pytest

from simulsa_plugin import (
    ComparisonResult,
    EvaluationResult,
    SimulsaError,
    UsageError,
    augment,
    compare,
    evaluate,
    tune,
)
from simulsa_plugin import score as score_log
from simulsa_plugin.commands.evaluate import main

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "notebook.py"
LOGS = Path(__file__).parents[1] / "data" / "latency"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The variables of the example when it has run, and the folder that it ran in."""
    place = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HF_DATASETS_CACHE", str(place / "cache"))
        variables = runpy.run_path(str(EXAMPLE))
    return variables, place


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_augment_gives_the_samples_that_it_wrote(notebook):
    variables, place = notebook
    result, rows = variables["augmented"], (place / "notebook/data/demo_simulsa.jsonl").read_text("utf-8").splitlines()
    frame = result.to_frame()
    assert len(frame) == len(rows) == result.counts["demo"]["samples"] == 20
    assert list(frame["partial"]) == [json.loads(row)["messages"][-1]["content"] for row in rows]
    assert (frame["cut_seconds"] <= frame["duration_seconds"]).all()
    written = read_json(place / "notebook/data/demo_simulsa/manifest.json")
    assert result.manifests["demo"] == {key: value for key, value in written.items() if key != "checksum"}
    assert (place / result.reports["demo"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_evaluate_gives_the_cells_of_scores_json(notebook):
    variables, place = notebook
    cells = read_json(place / "notebook/rollback/scores.json")["cells"]
    frame = variables["baseline"].to_frame()
    assert list(frame["BLEU"]) == [cell["BLEU"] for cell in cells]
    assert list(frame["LAAL_high"]) == [cell["intervals"]["LAAL"][1] for cell in cells]
    assert list(frame["policy"]) == ["offline"] + ["rollback"] * 4
    assert EvaluationResult.read(place / "notebook/rollback").cells == cells
    figure = variables["baseline"].figure(quality="chrF", latency="AL")
    assert [figure.axes[0].get_ylabel(), figure.axes[0].get_xlabel()[:7]] == ["chrF", "AL (ms)"]
    with pytest.raises(UsageError, match=r"quality is 'BLUE'; allowed: BLEU, .* Did you mean BLEU\?"):
        variables["baseline"].figure(quality="BLUE")


def test_score_and_compare_give_what_the_commands_give(notebook, tmp_path, monkeypatch):
    variables, place = notebook
    monkeypatch.chdir(place)
    assert main(["score", str(variables["log"]), "--json", str(tmp_path / "score.json"), "--intervals"]) == 0
    result = score_log(variables["log"], intervals=True)
    assert json.loads(json.dumps(result.as_json())) == read_json(tmp_path / "score.json")
    values = result.to_frame().set_index("metric")["value"]
    assert values["BLEU"] == result.corpus["BLEU"] == variables["baseline"].cells[1]["BLEU"]
    comparison = variables["comparison"]
    folders = [str(variables["baseline"].out), str(variables["other"].out)]
    assert main(["compare", *folders, "--json", str(tmp_path / "compare.json")]) == 0
    assert json.loads(json.dumps(comparison.comparison)) == read_json(tmp_path / "compare.json")
    assert comparison.verdict in [one["verdict"] for one in comparison.comparison["comparisons"][0]["equal_latency"]]
    lines = comparison.figure().axes[0].get_lines()
    assert [len(line.get_xdata()) > 0 for line in lines] == [True, True]
    frame = comparison.to_frame()
    offline = frame[(frame["policy"] == "offline") & (frame["metric"] == "BLEU")].iloc[0]
    assert (offline["baseline"], offline["difference"]) == (variables["baseline"].cells[0]["BLEU"], 0.0)


def test_tune_gives_the_frontier_and_a_recipe_for_the_test_set(notebook):
    variables, place = notebook
    tuned = variables["tuned"]
    frontier = read_json(place / "notebook/tuned/frontier.json")
    assert tuned.chosen == {one["budget"]: one["cell"] for one in frontier["budgets"]}
    assert list(tuned.to_frame()["cell"]) == [point["cell"] for point in frontier["points"]]
    assert len(tuned.figure().axes[0].get_lines()) >= len(tuned.chosen)
    assert {cell["folder"] for cell in variables["result"].cells} == {"offline", *tuned.chosen.values()} - {None}


def test_logs_have_no_curve_and_so_no_verdict():
    result = compare(LOGS / "word.instances.log", LOGS / "word_system2.instances.log", samples=100, trials=100)
    assert isinstance(result, ComparisonResult) and result.verdict == ""
    assert set(result.to_frame()["policy"]) == {"log"}
    with pytest.raises(UsageError, match="compare needs two results or more"):
        compare(LOGS / "word.instances.log")


def test_the_sentences_of_a_score_are_a_frame():
    result = score_log(LOGS / "word.instances.log", sentences=True)
    assert len(result.sentences_to_frame()) == result.counts["instances"] == 186
    assert len(score_log(LOGS / "word.instances.log").sentences_to_frame()) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: evaluate(simulsa_chunk=[500], out=out), "Unknown key simulsa_chunk: did you mean simulsa_chunks"),
        (lambda out: augment(3, out=out), "The recipe is 3; allowed: a path, keys with their values, or None"),
        (lambda out: evaluate({1: 2}, out=out), "The recipe has the key 1; allowed: keys that are text"),
        (lambda out: evaluate("missing.yaml", out=out), "Cannot read the recipe missing.yaml"),
        (lambda out: augment(simulsa_ratio="much", out=out), "simulsa_ratio is 'much'; allowed: a number"),
        (lambda out: augment(from_scores="scores.jsonl", audit=3, out=out), "audit needs the model"),
        (lambda out: tune(budgets=[], out=out), "No budget is given"),
        (lambda out: tune(budgets=[-1], out=out), "budget is -1.0; allowed: a number > 0"),
    ],
)
def test_mistakes_are_the_packages_own_errors_and_print_nothing(call, message, tmp_path, capsys):
    with pytest.raises(UsageError, match=message):
        call(tmp_path / "out")
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "out").exists()


def test_an_exit_and_a_full_disk_are_errors_of_the_package(monkeypatch, tmp_path):
    for problem, message in ((SystemExit(3), r"sys\.exit\(3\)"), (OSError(28, "No space left", "a.json"), "a.json")):

        def fail(*_, raised=problem, **__):
            raise raised

        monkeypatch.setattr("simulsa_plugin.api.evaluate_recipe.evaluate_recipe", fail)
        with pytest.raises(SimulsaError, match=message):
            evaluate(out=tmp_path)


def test_warnings_are_logged_and_nothing_is_printed(tmp_path, capsys, caplog):
    log = tmp_path / "instances.log"
    rows = [json.loads(line) for line in (LOGS / "word.instances.log").read_text(encoding="utf-8").splitlines()[:3]]
    log.write_text("".join(json.dumps(row | {"delays": row["delays"][::-1]}) + "\n" for row in rows), encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="simulsa_plugin"):
        result = score_log(log)
    assert result.warnings and [record.getMessage() for record in caplog.records] == list(result.warnings)
    assert capsys.readouterr() == ("", "")
