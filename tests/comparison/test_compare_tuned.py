"""Tuned systems at their budgets: settings from dev, values from test, and intervals over both."""

import json

import numpy as np
import pytest
from helpers.fakes import HastyModel, noise_samples, varied_seconds

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.settings import read_recipe
from simulsa_plugin.tuning.halving import Goal
from simulsa_plugin.tuning.search import search_frontier
from simulsa_plugin.tuning.tuned_recipe import searched_settings, write_tuned

KEYS = {"simulsa_policies": "rollback", "simulsa_chunks": "300", "simulsa_rollbacks": "0,1,2,3,4,5,6,7,8,9"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two systems, one as often wrong as the other is right, tuned on dev and decoded on test."""
    folder = tmp_path_factory.mktemp("place")
    dev = noise_samples(folder / "dev", varied_seconds(20))
    test = noise_samples(folder / "test", varied_seconds(16), seed=100)
    for name, model in (("hasty", HastyModel(7)), ("calm", HastyModel(2))):
        settings = searched_settings(KEYS)
        result = search_frontier(model, "dev", dev, settings, Goal((700.0, 950.0)), folder / f"{name}_tuned")
        write_tuned({}, settings, result, folder / f"{name}_tuned")
        for recipe in ("tuned", "finalists"):
            keys = EvaluationSettings.from_keys(read_recipe(folder / f"{name}_tuned" / f"{recipe}.yaml"))
            run_evaluation(model, "test", test, keys, folder / f"{name}_{recipe}_results")
    return folder


def compare(place, kind, capsys, names=("hasty", "calm")):
    words = [str(place / f"{name}_{kind}_results") for name in names]
    tuned = [str(place / f"{name}_tuned") for name in names]
    assert (
        main(
            [
                "compare",
                *words,
                "--tuned",
                *tuned,
                "--samples",
                "200",
                "--trials",
                "10",
                "--json",
                str(place / "c.json"),
            ]
        )
        == 0
    )
    (pair,) = json.loads((place / "c.json").read_text(encoding="utf-8"))["comparisons"]
    return pair["tuned"], capsys.readouterr().out


def test_settings_come_from_dev_and_values_from_test(place, capsys):
    found, out = compare(place, "finalists", capsys)
    assert [one["budget"] for one in found] == [700.0, 950.0]
    for one in found:
        for side, name in (("baseline", "hasty"), ("other", "calm")):
            frontier = json.loads((place / f"{name}_tuned" / "frontier.json").read_text(encoding="utf-8"))
            (cell,) = [chosen["cell"] for chosen in frontier["budgets"] if chosen["budget"] == one["budget"]]
            scores = json.loads((place / f"{name}_finalists_results" / "scores.json").read_text(encoding="utf-8"))
            (row,) = [row for row in scores["cells"] if row["folder"] == cell]
            assert (one["BLEU"][side], one["LAAL"][side]) == (row["BLEU"], row["LAAL"])
            assert one["missing"][side] == 0
        low, high = one["BLEU"]["interval"]
        assert 0 < low <= one["BLEU"]["difference"] <= high
        assert one["sentence"] in out.splitlines()
        assert "Tuned at 700 ms of LAAL: the other is better, by +" in found[0]["sentence"]
        assert one["sentence"].endswith("; the intervals include the choice of settings on dev.")


def test_the_interval_includes_the_choice(place, capsys):
    found, _ = compare(place, "finalists", capsys)
    (one,) = [one for one in found if one["otherwise"]["baseline"] > 0.05][:1]  # resamples do choose otherwise
    fixed, _ = compare(place, "tuned", capsys)
    (same,) = [other for other in fixed if other["budget"] == one["budget"]]
    assert same["BLEU"]["difference"] == one["BLEU"]["difference"]
    widths = [np.diff(entry["BLEU"]["interval"])[0] for entry in (same, one)]
    assert widths[0] < widths[1]
    assert same["missing"]["baseline"] == one["otherwise"]["baseline"]
    assert "the intervals do not include the whole choice" in same["sentence"]
    assert "decode finalists.yaml" in same["sentence"]


def test_a_system_and_itself_do_not_differ(place, capsys):
    found, _ = compare(place, "finalists", capsys, ("hasty", "hasty"))
    for one in found:
        assert one["BLEU"]["interval"] == one["LAAL"]["interval"] == [0, 0]
        assert "LAAL: the difference of +0.00 BLEU [+0.00, +0.00] (" in one["sentence"]
        assert ") is not significant, at " in one["sentence"]


@pytest.mark.parametrize(
    ("tuned", "code", "message"),
    [
        (["hasty_tuned"], 2, "--tuned names 1 folders, and there are 2 results"),
        (["hasty_tuned", "test"], 1, "test holds no frontier.json, or a changed one"),
    ],
)
def test_mistakes_are_one_line(place, capsys, tuned, code, message):
    results = [str(place / f"{name}_tuned_results") for name in ("hasty", "calm")]
    assert main(["compare", *results, "--tuned", *(str(place / one) for one in tuned), "--trials", "10"]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_result_without_what_was_tuned_is_refused(place, capsys):
    results = [str(place / f"{name}_tuned_results") for name in ("hasty", "calm")]
    tuned = [str(place / f"{name}_tuned") for name in ("calm", "hasty")]  # the wrong way round
    assert main(["compare", *results, "--tuned", *tuned, "--trials", "10"]) == 2
    err = capsys.readouterr().err
    assert "the result on the test set has no BLEU and LAAL of it. Decode it with" in err


def test_regimes_of_a_single_result_are_the_best_on_dev_below_each_bound(place, capsys):
    command = ["compare", str(place / "calm_finalists_results"), "--tuned", str(place / "calm_tuned")]
    file = place / "regimes.json"
    assert main([*command, "--regimes", "700,2000,1", "--samples", "50", "--json", str(file)]) == 0
    frontier = json.loads((place / "calm_tuned" / "frontier.json").read_text(encoding="utf-8"))
    scores = json.loads((place / "calm_finalists_results" / "scores.json").read_text(encoding="utf-8"))
    full = [row for row in frontier["cells"] if row["utterances"] == frontier["utterances"]]
    rows = json.loads(file.read_text(encoding="utf-8"))["regimes"]["rows"]
    assert [row["bound"] for row in rows] == [1, 700, 2000]
    assert rows[0]["cell"] is None
    for row in rows[1:]:
        best = max((one for one in full if one["LAAL"] <= row["bound"]), key=lambda one: (one["BLEU"], -one["LAAL"]))
        (cell,) = [one for one in scores["cells"] if one["folder"] == best["cell"]]
        assert (row["BLEU"]["dev"], row["BLEU"]["test"]) == (best["BLEU"], cell["BLEU"])
        assert (row["LAAL"]["dev"], row["LAAL"]["test"]) == (best["LAAL"], cell["LAAL"])
    output = capsys.readouterr().out
    assert "regimes: the best cell below each bound" in output
    assert "none within the bound on dev" in output
    assert output.startswith("result: ")
    assert "sacrebleu" not in output  # a single result has no pair, and so no p


def test_regimes_without_a_tuning_are_refused(place, capsys):
    assert main(["compare", str(place / "calm_finalists_results"), "--regimes", "700"]) == 2
    assert "--regimes needs --tuned" in capsys.readouterr().err
