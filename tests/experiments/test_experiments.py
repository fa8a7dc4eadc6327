"""Experiments: what an arm is made of, what is done once, and what the summary says. The commands are a stand-in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.fakes import ClockModel, noise_samples

from simulsa_plugin.errors import SimulsaError, UsageError
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.experiments import description as plan
from simulsa_plugin.experiments import runs, signature
from simulsa_plugin.experiments.__main__ import main
from simulsa_plugin.files.locks import locked
from simulsa_plugin.llamafactory.plugin.recipe_keys import GROUPS

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
    signature.data_signature.cache_clear()
    typed: list[list[str]] = []
    rows = noise_samples(folder, [2.0, 1.7, 0.9])

    def call(_, command, *words):
        typed.append([command, *words])
        keys = dict(word.split("=", 1) for word in words if "=" in word)
        if command == "llamafactory-cli":
            (folder / keys["output_dir"]).mkdir(parents=True)
            (folder / keys["output_dir"] / "all_results.json").write_text("{}")
        if command == "simulsa-eval":
            settings = EvaluationSettings(chunks=(500, 1000), rollbacks=(0, 3))
            run_evaluation(ClockModel(regret=True), "toy", rows, settings, Path(words[-1]))

    monkeypatch.setattr(runs, "_run_command", call)
    return typed


@pytest.mark.parametrize("name", ["mixing", "truncation", "acceptance", "latency", "shares", "ideas"])
def test_every_experiment_names_known_keys_and_recipes_that_exist(folder, name):
    experiment = plan.read_experiment(name, [1], {})
    known = {key for group in GROUPS for key in group.keys()}
    for arm in experiment.arms:
        (run,) = arm.runs
        assert (folder / run.recipe).is_file()
        assert {*(run.augment or {}), *(run.evaluate or {})} <= known
        for group in GROUPS:
            group.from_keys({**(run.augment or {}), **(run.evaluate or {})})  # their values are allowed
    assert plan.experiment_names() == ["acceptance", "ideas", "latency", "mixing", "shares", "truncation"]


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
        "llamafactory-cli",
        "simulsa-eval",
        "simulsa-augment",
        "llamafactory-cli",
        "simulsa-eval",
    ]
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


def models(folder):
    return sorted(path.parent.name for path in (folder / "results").glob("*/trained.json"))


def test_a_recipe_of_other_content_is_another_run(folder, commands):
    experiment = ["mixing", "--out", "results", "--seeds", "1"]
    assert main(experiment) == 0
    before, done = models(folder), len(commands)
    recipe = folder / "recipes" / "demo_simulsa.yaml"
    recipe.write_text(recipe.read_text() + "\n# a comment says nothing\n")
    assert main(experiment) == 0
    assert len(commands) == done
    recipe.write_text(recipe.read_text().replace("learning_rate: 5.0e-4", "learning_rate: 4.0e-4"))
    assert main(experiment) == 0
    assert [words[0] for words in commands[done:]] == 4 * ["simulsa-augment", "llamafactory-cli", "simulsa-eval"]
    assert len(models(folder)) == len(before) + 4  # the baseline has a recipe of its own
    assert set(before) < set(models(folder))


@pytest.mark.parametrize("change", ["rows", "entry", "folder"])
def test_data_of_other_content_are_another_run(folder, commands, change):
    experiment = ["mixing", "--out", "results", "--seeds", "1"]
    info = folder / "data" / "dataset_info.json"
    info.write_text(json.dumps({"demo": {"file_name": "demo.jsonl"}, "unused": {"file_name": "unused.jsonl"}}))
    (folder / "data" / "demo.jsonl").write_text("{}\n")
    assert main(experiment) == 0
    done = len(commands)
    (folder / "data" / "unused.jsonl").write_text("{}\n")
    assert main(experiment) == 0
    assert len(commands) == done
    if change == "folder":
        shutil.copytree(folder / "data", folder / "other")
        experiment += ["--data", "other"]
        (folder / "other" / "demo.jsonl").write_text("{}\n{}\n")
    elif change == "rows":
        (folder / "data" / "demo.jsonl").write_text('{"a": 1}\n')
    else:
        info.write_text(json.dumps({"demo": {"file_name": "demo.jsonl", "formatting": "sharegpt"}}))
    signature.data_signature.cache_clear()  # a process reads its data once
    assert main(experiment) == 0
    assert len(commands) == 2 * done


def test_test_data_of_other_content_are_another_evaluation(folder, commands):
    (folder / "mine.yaml").write_text("arms: {a: {evaluate: {dataset: test, dataset_dir: tests}}}")
    (folder / "tests").mkdir()
    (folder / "tests" / "dataset_info.json").write_text('{"test": {"file_name": "test.jsonl"}}')
    for rows in ("{}\n", "{}\n", "{}\n{}\n"):
        (folder / "tests" / "test.jsonl").write_text(rows)
        signature.data_signature.cache_clear()
        assert main(["mine.yaml", "--out", "results", "--seeds", "1"]) == 0
    assert [words[0] for words in commands] == ["simulsa-augment", "llamafactory-cli", "simulsa-eval", "simulsa-eval"]


def test_what_a_stopped_training_left_is_not_trained_on(folder, commands):
    experiment = ["mixing", "--out", "results", "--seeds", "1"]
    assert main(experiment) == 0
    stopped = folder / "results" / models(folder)[0]
    (stopped / "trained.json").unlink()
    (stopped / "model" / "checkpoint-5").mkdir()
    shutil.rmtree(next(stopped.glob("eval_*")))
    assert main(experiment) == 0  # the stand-in of LLaMA-Factory refuses a folder that is there
    assert not (stopped / "model" / "checkpoint-5").exists()


def test_a_folder_is_for_one_runner_at_a_time(folder, commands, capsys):
    (folder / "results").mkdir()
    with locked(folder / "results"):
        assert main(["mixing", "--out", "results", "--seeds", "1"]) == 1
    error = capsys.readouterr().err
    assert "results is in use by process" in error
    assert error.count("\n") == 1
    assert not commands


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
        runs._run_command(tmp_path, "false")
    assert (tmp_path / "false.log").read_text() == "no\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("titel: x", "'titel' is unknown; allowed: arms, augment"),
        ("title: x", "has no arms"),
        ("arms: {a: {ratio: 1}}", "arm a, 'ratio' is unknown; allowed: augment, evaluate, policy"),
    ],
)
def test_a_mistake_in_an_experiment_is_one_line(folder, text, message):
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        plan.read_experiment("mine.yaml", [1], {})


def test_an_experiment_of_ones_own_is_a_file(folder):
    (folder / "mine.yaml").write_text("arms: {a: {augment: {simulsa_ratio: 0.2}, policy: wait_k}}")
    (arm,) = plan.read_experiment("mine.yaml", [7], {}).arms
    assert (arm.name, arm.policy, arm.runs[0].augment, arm.runs[0].seed) == ("a", "wait_k", {"simulsa_ratio": 0.2}, 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing", "--out", "x"], "There is no experiment recipes/experiments/nothing.yaml; allowed: acceptance"),
        (
            ["mixing", "--out", "x", "--data", "no"],
            "no holds no dataset_info.json. Create it: simulsa-augment --out no",
        ),
        (["mixing", "--out", "x", "--seeds", "a"], "invalid"),
        (["gone.yaml", "--out", "x"], "gone-recipe.yaml"),
    ],
)
def test_a_wrong_command_line_is_one_line(folder, words, message, capsys):
    (folder / "gone.yaml").write_text("arms: {a: {recipe: gone-recipe.yaml}}")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
