"""Experiments that tune: what is typed, and what the summary says of arms at budgets over seeds."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.fakes import HastyModel, noise_samples, varied_seconds

from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.experiments import description as plan
from simulsa_plugin.experiments import runs, signature
from simulsa_plugin.experiments.__main__ import main
from simulsa_plugin.experiments.tuned_arms import over_seeds
from simulsa_plugin.settings import read_recipe
from simulsa_plugin.tuning.halving import Goal
from simulsa_plugin.tuning.search import search_frontier
from simulsa_plugin.tuning.tuned_recipe import searched_settings, write_tuned

REPOSITORY = Path(__file__).parents[2]
SEARCHED = {"simulsa_policies": "rollback", "simulsa_chunks": "300", "simulsa_rollbacks": "0,2,4,6,8"}
EXPERIMENT = """
title: A share
tune: {budget: "700,950", simulsa_policies: rollback}
arms:
  none: {recipe: recipes/demo_offline.yaml}
  some: {augment: {simulsa_ratio: 0.1}}
  again: {augment: {simulsa_ratio: 0.1}, scored_by: some, starts_from: none, variant: turns --form prefix,
          test: {simulsa_eval_samples: 7}}
"""
HASTE = {"demo_offline": 7, "demo_simulsa": 2}  # how much a model of an arm writes too early


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a user stands, with an experiment of two arms."""
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text("{}")
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    signature.data_signature.cache_clear()
    return tmp_path


@pytest.fixture
def commands(folder, monkeypatch):
    """What was typed; a trained model is its recipe's name, decoded by a model of arithmetic."""
    typed: list[list[str]] = []
    dev = noise_samples(folder / "dev_audio", varied_seconds(12))
    test = noise_samples(folder / "test_audio", varied_seconds(10), seed=100)

    def call(_, command, *words):
        typed.append([command, *words])
        keys = dict(word.split("=", 1) for word in words if "=" in word)
        if command == "llamafactory-cli":
            model = Path(keys["output_dir"])
            model.mkdir(parents=True)
            (model / "recipe").write_text(Path(words[1]).stem)
        if command == "simulsa-eval":
            folder, *_ = [parent for parent in Path(words[-1]).parents if (parent / "model").is_dir()]
            model = HastyModel(HASTE[(folder / "model" / "recipe").read_text()])
            if words[0] == "tune":
                settings, out = searched_settings(SEARCHED), Path(words[-1])
                write_tuned({}, settings, search_frontier(model, "dev", dev, settings, Goal((700.0, 950.0)), out), out)
            else:
                settings = EvaluationSettings.from_keys(read_recipe(words[0]))
                run_evaluation(model, "test", test, settings, Path(words[-1]))

    monkeypatch.setattr(runs, "_run_command", call)
    return typed


def test_every_arm_is_tuned_on_dev_and_tested_in_what_was_found(folder, commands):
    assert main(["mine.yaml", "--out", "results", "--seeds", "1,2"]) == 0
    assert [Path(words[1]).name for words in commands[:7]] == [
        "train",
        "tune",
        "finalists.yaml",
        "simulsa_preset=paper",
        "train",
        "tune",
        "finalists.yaml",
    ]
    assert [words[0] for words in commands[7:10]] == ["simulsa-augment", "python", "llamafactory-cli"]
    some = Path(commands[4][-1].removeprefix("output_dir="))
    assert commands[7][1] == f"model_name_or_path={some}"  # the second arm's model scores the third arm's cuts
    assert commands[8][1:6] == ["-m", "simulsa_plugin.experiments.variants", "turns", "--form", "prefix"]
    variant = commands[8][-1]
    assert f"dataset_dir={variant}" in commands[9]
    assert "model_name_or_path=" + commands[0][-1].removeprefix("output_dir=") in commands[9]
    assert commands[11][2] == "simulsa_eval_samples=7"
    assert commands[1][1:] == [
        "tune",
        f"model_name_or_path={commands[0][-1].removeprefix('output_dir=')}",
        "simulsa_policies=rollback",
        "--budget",
        "700,950",
        "--out",
        commands[1][-1],
    ]
    done = len(commands)
    assert done == 2 * 12
    assert main(["mine.yaml", "--out", "results", "--seeds", "1,2"]) == 0
    assert len(commands) == done  # nothing is done twice


def test_the_summary_holds_arms_against_the_first_at_each_budget(folder, commands, capsys):
    assert main(["mine.yaml", "--out", "results", "--seeds", "1,2"]) == 0
    out = capsys.readouterr().out
    summary = json.loads((folder / "results" / "mine.json").read_text(encoding="utf-8"))["tuned"]
    assert summary["against"] == "none"
    rows = {(row["arm"], row["budget"]): row for row in summary["tuned"]}
    assert len(rows) == 3 * 2
    for (arm, budget), row in rows.items():
        assert row["LAAL"]["value"] <= budget + 60  # chosen on dev: near the budget on test
        if arm == "none":
            assert row["difference"] is None
        else:
            difference = row["difference"]["BLEU"]
            assert math.isclose(difference["value"], row["BLEU"]["value"] - rows["none", budget]["BLEU"]["value"])
            assert difference["spread"] == 0.0  # the models of both seeds are alike
            low, high = difference["interval"]
            assert low <= difference["value"] <= high
            assert 0 < difference["value"]
    assert "means over 2 seeds; [low, high]: 95 % over utterances and seeds, the choice of settings included" in out
    assert (folder / "results" / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_that_differ_widen_the_interval():
    drawn = np.random.default_rng(0).normal(0, 1, 4000)
    alike = over_seeds([1.0, 1.0, 1.0], [1 + drawn] * 3, seed=0)
    apart = over_seeds([0.0, 1.0, 2.0], [drawn, 1 + drawn, 2 + drawn], seed=0)
    assert alike.value == apart.value == 1.0
    assert (alike.spread, apart.spread) == (0.0, 1.0)
    low, high = alike.bounds
    assert (low, high) == pytest.approx((1 - 1.96, 1 + 1.96), abs=0.15)
    between = 4.303 / math.sqrt(3)  # Student's t with two degrees of freedom, 97.5 %; s = 1
    assert apart.bounds[1] - 1 > max(between, high - 1) - 0.2
    assert apart.bounds[1] - 1 < between + 1.96
    (one,) = [over_seeds([1.0], [1 + drawn], seed=0)]
    assert one.spread is None
    assert one.bounds == pytest.approx(alike.bounds)


def test_the_shipped_experiment_tunes_every_arm_alike(folder):
    experiment = plan.read_experiment("shares", [1], {})
    (budgets,) = {arm.runs[0].tune["budget"] for arm in experiment.arms}
    assert budgets == "700,800,900,1000,1200,1500"
    assert experiment.arms[0].name == "0 %"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tune: {}\narms: {a: {}}", "tune has no budget"),
        ("arms: {a: {tune: {budget: 700}}, b: {}}", "only some are. Give all of them a tune with the same budget"),
        ("tune: {budget: 700}\narms: {a: {}, b: {tune: {latency: AL}}}", "its arms are tuned for other goals"),
        ("arms: {a: {scored_by: b}, b: {}}", "scored_by is 'b'; allowed: an arm above it: there is none"),
    ],
)
def test_mistakes_are_named(folder, text, message):
    (folder / "wrong.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        plan.read_experiment("wrong.yaml", [1], {})


def test_a_seed_is_named_once(folder):
    with pytest.raises(UsageError, match="repeats a seed: 1, 1"):
        plan.read_experiment("shares", [1, 1], {})


def test_test_results_belong_to_their_search(folder, commands):
    two_arms = EXPERIMENT[: EXPERIMENT.index("  again:")]
    (folder / "mine.yaml").write_text(two_arms)
    assert main(["mine.yaml", "--out", "results", "--seeds", "1"]) == 0
    done = len(commands)
    (folder / "mine.yaml").write_text(two_arms.replace("rollback}", "rollback, eval_dataset: other}"))
    assert main(["mine.yaml", "--out", "results", "--seeds", "1"]) == 0
    assert [words[1] == "tune" for words in commands[done:]] == [True, False] * 2  # tuned anew, and tested anew
