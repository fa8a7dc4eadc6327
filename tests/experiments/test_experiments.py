"""Experiments: what an arm is made of, what is done once, and what the summary says. The commands are a stand-in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes import ClockModel, write_noise

from simulsa_plugin.errors import SimulsaError, UsageError
from simulsa_plugin.evaluation.run import evaluate
from simulsa_plugin.evaluation.settings import EvaluationSettings
from simulsa_plugin.experiments import plan, runs
from simulsa_plugin.experiments.__main__ import main
from simulsa_plugin.model import Prompt, Sample
from simulsa_plugin.toolkit.recipe_keys import GROUPS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a user stands: recipes/ and data/."""
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def commands(folder, monkeypatch):
    """What was typed; a trained model is a folder, an evaluation is that of a model of arithmetic."""
    typed: list[list[str]] = []
    rows = [Sample(row, Prompt(({"role": "user", "content": "<audio>Translate."},)), "guten Tag liebe Welt",
                   write_noise(folder / f"{row}.wav", seconds, seed=row))
            for row, seconds in enumerate([2.0, 1.7, 0.9])]

    def call(_, command, *words):
        typed.append([command, *words])
        keys = dict(word.split("=", 1) for word in words if "=" in word)
        if command == "llamafactory-cli":
            (folder / keys["output_dir"]).mkdir(parents=True)
            (folder / keys["output_dir"] / "all_results.json").write_text("{}")
        if command == "simulsa-eval":
            settings = EvaluationSettings(chunks=(500, 1000), rollbacks=(0, 3))
            evaluate(ClockModel(regret=True), "toy", rows, settings, Path(words[-1]))
    monkeypatch.setattr(runs, "_call", call)
    return typed


@pytest.mark.parametrize("name", ["mixing", "truncation", "acceptance", "latency"])
def test_every_experiment_names_known_keys_and_recipes_that_exist(folder, name):
    experiment = plan.read_experiment(name, [1], {})
    known = {key for group in GROUPS for key in group.keys()}
    for arm in experiment.arms:
        (run,) = arm.runs
        assert (folder / run.recipe).is_file()
        assert {*(run.augment or {}), *run.evaluate} <= known
        for group in GROUPS:
            group.from_keys({**(run.augment or {}), **run.evaluate})  # their values are allowed
    assert plan.names() == ["acceptance", "latency", "mixing", "truncation"]


def test_arms_that_need_the_same_share_a_run(folder):
    mixing, truncation = (plan.read_experiment(name, [1, 2], {}) for name in ("mixing", "truncation"))
    five = next(arm for arm in mixing.arms if arm.name == "5 %")
    paper = next(arm for arm in truncation.arms if arm.name == "beta_decay(1,3)")
    assert [run.model_name for run in five.runs] == [run.model_name for run in paper.runs]
    assert len({run.model_name for arm in mixing.arms for run in arm.runs}) == 10
    assert len({run.model_name for run in five.runs}) == 2


def test_an_override_of_training_is_another_run(folder):
    plain, short = (plan.read_experiment("mixing", [1], keys).arms[0].runs[0] for keys in ({}, {"max_steps": 5}))
    assert short.train == {"max_steps": 5}
    assert plain.model_name != short.model_name


def test_what_is_done_is_not_done_again_and_a_stop_goes_on(folder, commands, capsys):
    experiment = ["mixing", "--out", "results", "--seeds", "1", "--train", "max_steps=5"]
    assert main(experiment) == 0
    assert [words[0] for words in commands[:5]] == [
        "llamafactory-cli", "simulsa-eval", "simulsa-augment", "llamafactory-cli", "simulsa-eval"]
    assert commands[0][1:3] == ["train", "recipes/demo_offline.yaml"]
    assert "simulsa_ratio=0.001" in commands[2]
    assert {"seed=1", "max_steps=5"} <= set(commands[0])
    first = (folder / "results" / "mixing.json").read_bytes()
    done = len(commands)
    assert main(experiment) == 0
    assert len(commands) == done
    assert (folder / "results" / "mixing.json").read_bytes() == first
    shutil.rmtree(next(folder.glob("results/*/eval_*")))  # stopped before this evaluation
    assert main(experiment) == 0
    assert [words[0] for words in commands[done:]] == ["simulsa-eval"]
    assert (folder / "results" / "mixing.png").read_bytes().startswith(b"\x89PNG")
    assert "BLEU at equal LAAL" in capsys.readouterr().out


def test_the_table_has_every_cell_of_every_arm_and_each_against_the_first(folder, commands):
    assert main(["mixing", "--out", "results", "--seeds", "1,2"]) == 0
    summary = json.loads((folder / "results" / "mixing.json").read_text())
    assert len(summary["cells"]) == 5 * 5
    assert [entry["arm"] for entry in summary["equal_latency"]] == ["0.1 %", "1 %", "5 %", "10 %"]
    row = summary["cells"][1]
    assert (row["arm"], row["cell"], row["BLEU_spread"]) == ("0 %", "rollback k=500 b=0", 0.0)  # the seeds are alike
    low, high = row["BLEU_interval"]
    assert low <= row["BLEU"] <= high
    assert "Means over 2 seeds" in (folder / "results" / "mixing.txt").read_text()


def test_a_command_that_fails_is_named_with_its_log(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "BIN", tmp_path)
    (tmp_path / "false").write_text("#!/bin/sh\necho no >&2\nexit 3\n")
    (tmp_path / "false").chmod(0o755)
    with pytest.raises(SimulsaError, match=r"false failed with exit code 3; see .*false.log"):
        runs._call(tmp_path, "false")
    assert (tmp_path / "false.log").read_text() == "no\n"


@pytest.mark.parametrize(("text", "message"), [
    ("titel: x", "'titel' is unknown; allowed: arms, augment"), ("title: x", "has no arms"),
    ("arms: {a: {ratio: 1}}", "arm a, 'ratio' is unknown; allowed: augment, evaluate, policy"),
])
def test_a_mistake_in_an_experiment_is_one_line(folder, text, message):
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        plan.read_experiment("mine.yaml", [1], {})


def test_an_experiment_of_ones_own_is_a_file(folder):
    (folder / "mine.yaml").write_text("arms: {a: {augment: {simulsa_ratio: 0.2}, policy: wait_k}}")
    (arm,) = plan.read_experiment("mine.yaml", [7], {}).arms
    assert (arm.name, arm.policy, arm.runs[0].augment, arm.runs[0].seed) == ("a", "wait_k", {"simulsa_ratio": 0.2}, 7)


@pytest.mark.parametrize(("words", "message"), [
    (["nothing", "--out", "x"], "There is no experiment recipes/experiments/nothing.yaml; allowed: acceptance"),
    (["mixing", "--out", "x", "--data", "no"], "no holds no dataset_info.json. Make it: simulsa-augment --out no"),
    (["mixing", "--out", "x", "--seeds", "a"], "invalid"),
])
def test_a_wrong_command_line_is_one_line(folder, words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
