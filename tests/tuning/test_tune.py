"""Settings chosen on a dev set with models made of arithmetic: the grid's best cell, with a part of its decoding."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.fakes import (
    ClockModel,
    HastyModel,
    Killed,
    Mortal,
    killed_in,
    lives_until_done,
    noise_samples,
    varied_seconds,
)
from helpers.files import tree

from simulsa_plugin.commands import evaluate
from simulsa_plugin.errors import DatasetError, StorageError, UsageError
from simulsa_plugin.evaluation import block_decoding as decoding
from simulsa_plugin.evaluation import cell_files
from simulsa_plugin.evaluation.budgets import name_budget, parse_budgets
from simulsa_plugin.evaluation.cells_table import cells_table
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.report import curves_figure
from simulsa_plugin.evaluation.result_cells import cell_key
from simulsa_plugin.evaluation.run import plan_cells, run_evaluation
from simulsa_plugin.files.atomic import make_folder
from simulsa_plugin.files.ownership import claim
from simulsa_plugin.metrics.significance import Bootstrap
from simulsa_plugin.model.values import UnusableRow
from simulsa_plugin.settings import read_recipe
from simulsa_plugin.tuning import frontier_file
from simulsa_plugin.tuning import search as module
from simulsa_plugin.tuning.candidates import Candidates
from simulsa_plugin.tuning.frontier_file import frontier_table
from simulsa_plugin.tuning.halving import Goal, neighbours, promising
from simulsa_plugin.tuning.search import NAMES, SEARCH, search_frontier
from simulsa_plugin.tuning.tuned_recipe import GRID, searched_settings, write_tuned


class MortalModel(Mortal, HastyModel):
    pass


def settings(**keys):
    return searched_settings(
        {"simulsa_policies": "rollback", "simulsa_chunks": "300,700", "simulsa_rollbacks": "0,1,2,3,4,5,6,7,8,9"} | keys
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return noise_samples(tmp_path_factory.mktemp("dev"), varied_seconds(32))


@pytest.fixture(scope="module")
def found(rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("found") / "out"
    return search_frontier(HastyModel(), "dev", rows, settings(), Goal((700.0, 950.0)), out), out


def test_it_finds_what_the_whole_grid_finds_with_a_part_of_its_sessions(rows, found, tmp_path, monkeypatch):
    result, _ = found
    monkeypatch.setattr(cell_files, "Bootstrap", lambda: Bootstrap(samples=10))  # the whole grid takes long
    grid = run_evaluation(HastyModel(), "dev", rows, settings(), tmp_path / "grid")[1:]
    for one in result["budgets"]:
        best = max((row for row in grid if row["LAAL"] <= one["budget"]), key=lambda row: (row["BLEU"], -row["LAAL"]))
        assert one["cell"] == best["folder"]
        (tuned,) = [row for row in result["points"] if row["cell"] == one["cell"]]
        assert (tuned["BLEU"], tuned["LAAL"]) == (best["BLEU"], best["LAAL"])
        assert 0 < tuned["BLEU"] < 100  # it is a choice
        assert one["budget"] in tuned["tuned_at"]
        for name in ("BLEU", "LAAL"):
            low, high = tuned["intervals"][name]
            assert low < tuned[name] < high
    assert result["sessions"]["grid"] == 32 * 20
    assert result["sessions"]["decoded"] < 32 * 20 / 2


def test_the_files_say_what_was_found(found):
    result, out = found
    assert sorted(path.name for path in out.iterdir()) == [".simulsa.json", "dev", "frontier.json"]
    assert {
        key: value for key, value in json.loads((out / "frontier.json").read_text()).items() if key != "checksum"
    } == result
    whole = {row["cell"] for row in result["cells"] if row["utterances"] == 32}
    assert {path.parent.name for path in out.glob("dev/*/instances.log")} == whole
    latencies = [point["LAAL"] for point in result["points"]]
    assert latencies == sorted(latencies)
    table = "\n".join(frontier_table(result))
    assert "700" in table
    assert f"decoded {result['sessions']['decoded']:,} sessions; the whole grid of 20 cells has 640" in table


def test_the_default_grid_takes_a_tenth_of_its_sessions(tmp_path):
    rows = noise_samples(tmp_path, varied_seconds(200, 0.2))
    result = search_frontier(
        ClockModel(text="a b"), "dev", rows, searched_settings({}), Goal((300.0, 600.0)), tmp_path / "out"
    )
    assert len(result["cells"]) == 8 * (13 + 11 + 2 + 5)
    assert result["sessions"]["grid"] >= 10 * result["sessions"]["decoded"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "UTTERANCES_PER_BLOCK", 4)
    rows = [*noise_samples(tmp_path, varied_seconds(14)), UnusableRow(14, "no_audio")]
    return lambda out, model=None, goal=Goal((950.0,)), rows=rows: search_frontier(  # noqa: B008
        model or HastyModel(), "dev", rows, settings(simulsa_chunks="300"), goal, out
    )


def test_a_search_that_dies_again_and_again_ends_with_the_same_bytes(small, tmp_path):
    small(tmp_path / "whole")
    lives = lives_until_done(MortalModel, itertools.count(6, 3), lambda model: small(tmp_path / "killed", model))
    assert lives > 12  # it did die
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    "place",
    [
        (frontier_file, "write_simuleval_log"),
        (module, "run_folder"),
        (frontier_file, "write_sealed"),
        (module, "_select_promising"),
    ],
)
def test_killed_between_its_parts_it_ends_with_the_same_bytes(small, tmp_path, place):
    small(tmp_path / "whole")

    with killed_in(*place):
        small(tmp_path / "out")
    small(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_the_test_set_is_decoded_with_the_attention_heads_of_the_dev_set(tmp_path):
    dev, keys = (
        noise_samples(tmp_path, varied_seconds(5)),
        {"simulsa_policies": "attention", "simulsa_attention_ms": "100,300"},
    )
    chosen, goal = settings(**keys), Goal((2000.0,))
    heads = [f"0/{2200 + 100 * row}" for row in range(5)]  # as HastyModel finds them: by what is heard
    result = search_frontier(HastyModel(), "dev", dev, chosen, goal, tmp_path / "out")
    assert result["attention_heads"] == heads
    with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontier_file, "write_simuleval_log", raise_killed)  # everything is decoded
        search_frontier(HastyModel(), "dev", dev, chosen, goal, tmp_path / "killed")
    assert search_frontier(HastyModel(), "dev", dev, chosen, goal, tmp_path / "killed") == result
    write_tuned({}, chosen, result, tmp_path / "out")
    for name in ("tuned", "finalists"):
        assert read_recipe(tmp_path / "out" / f"{name}.yaml")["simulsa_attention_heads"] == heads
    test, model = noise_samples(tmp_path, varied_seconds(3, 3.0)), HastyModel()
    frozen = EvaluationSettings.from_keys(read_recipe(tmp_path / "out" / "tuned.yaml"))
    run_evaluation(model, "test", test, frozen, tmp_path / "results")
    assert [f"{layer}/{head}" for layer, head in model.watched[0]] == heads


def raise_killed(*_, **__):
    raise Killed


def test_a_finished_search_is_only_read_and_another_one_refused(small, tmp_path):
    result = small(tmp_path / "out")
    before, model = tree(tmp_path / "out"), HastyModel()
    assert small(tmp_path / "out", model) == result
    assert (model.batches, tree(tmp_path / "out")) == ([], before)
    assert result["skipped"] == [{"id": "dev-00000014", "reason": "no_audio"}]
    assert result["utterances"] == 14
    note = "skipped in every cell: no_audio 1 (first dev-00000014); rows count from 0, frontier.json lists all"
    assert note in frontier_table(result)
    said = (
        rf"holds .* with other settings: budgets was \[950.0\], now \[800.0\]\. .* kept in {tmp_path}/out/dev\. Choose"
    )
    with pytest.raises(StorageError, match=said):
        small(tmp_path / "out", model, goal=Goal((800.0,)))
    assert (model.batches, tree(tmp_path / "out")) == ([], before)  # nothing is decoded or lost


def test_a_budget_that_nothing_is_within_is_said(small, tmp_path):
    result = small(tmp_path / "out", goal=Goal((0.001, 950.0)))
    assert [one["cell"] is None for one in result["budgets"]] == [True, False]
    assert any(
        line.startswith("0.001 ms: no cell has so little LAAL; the least is ") for line in frontier_table(result)
    )


def test_a_dev_set_that_cannot_be_decoded_is_an_error(small, tmp_path):
    with pytest.raises(DatasetError, match="No utterance of dev can be decoded; 2 were skipped, the first for no_aud"):
        small(tmp_path / "out", rows=[UnusableRow(row, "no_audio") for row in range(2)])
    with pytest.raises(DatasetError, match="The dev set dev has no rows"):
        small(tmp_path / "none", rows=[])


def test_cells_that_were_given_up_are_taken_back_where_all_others_turn_out_too_slow(small, tmp_path, monkeypatch):
    # The search is led astray: on the first utterances only the slowest cells seem worth more.
    monkeypatch.setattr(
        module,
        "promising",
        lambda shares, values, goal, keep: (
            promising(shares, values, goal, keep) if keep == 0 else list(range(len(values)))[-3:]
        ),
    )
    result = small(tmp_path / "out", goal=Goal((700.0,)))
    (one,) = result["budgets"]
    (row,) = [row for row in result["cells"] if row["cell"] == one["cell"]]
    assert row["utterances"] == 14
    assert row["LAAL"] <= 700


def test_a_cell_given_up_by_mistake_gets_a_second_look(small, tmp_path, monkeypatch):
    # The search is led astray: on the first utterances only the hastiest cells seem worth more.
    monkeypatch.setattr(module, "promising", lambda shares, values, goal, keep: [0, 1, 2])
    goal = Goal((5000.0,))
    with monkeypatch.context() as patch:
        patch.setattr(module, "MAX_RECHECKS", 0)
        assert chosen_quality(small(tmp_path / "none", goal=goal)) < 50
    assert chosen_quality(small(tmp_path / "out", goal=goal)) == pytest.approx(100)


def chosen_quality(result):
    (one,) = result["budgets"]
    return next(row["BLEU"] for row in result["cells"] if row["cell"] == one["cell"])


def test_what_is_predicted_allows_for_first_utterances_that_were_fast_and_easy(monkeypatch):
    values = [(60.0, 680.0), (85.0, 650.0), (90.0, 590.0), (75.0, 500.0)]  # the first on all utterances
    search = Candidates(
        None, SimpleNamespace(rows=range(200)), Goal((700.0,)), settings(), (), (), utterances=[200, 6, 6, 6],
        records=[], scores={cell: SimpleNamespace(value=value) for cell, value in enumerate(values)},
    )  # fmt: skip
    monkeypatch.setattr(module, "_mean_shift", lambda search, full, taken: (-20.0, 100.0))
    assert module._predicted_better(search) == [
        2
    ]  # 70 at 690 ms; the second cell will be too slow, the last not better
    monkeypatch.setattr(module, "_mean_shift", lambda search, full, taken: (-40.0, 100.0))
    assert module._predicted_better(search) == []


def test_the_cells_kept_are_those_that_may_be_the_best_at_some_budget():
    values = [(10.0, 500.0), (20.0, 600.0), (30.0, 700.0), (40.0, 1500.0), (15.0, 650.0), (50.0, 3000.0)]
    shares = [np.array([0.0, 0.4, 0.6, 0.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.1, 0.9, 0.0, 0.0])]
    assert promising(shares, values, Goal((720.0, 1600.0)), keep=0) == [1, 2, 3, 4]  # of equal share the better
    assert promising(shares, values, Goal((720.0, 1600.0)), keep=8) == [0, 1, 2, 3, 4]


def test_tuned_yaml_decodes_the_chosen_cells_and_no_others(found, tmp_path):
    result, _ = found
    recipe = {"model_name_or_path": "m", "eval_dataset": "test", "simulsa_chunks": [200], "simulsa_unit": "word"}
    write_tuned(recipe, settings(), result, tmp_path)
    written = read_recipe(tmp_path / "tuned.yaml")
    chosen = list(dict.fromkeys(one["cell"] for one in result["budgets"]))
    assert len(chosen) == 2
    assert written["simulsa_cells"] == chosen
    assert {key: written[key] for key in ("model_name_or_path", "eval_dataset", "simulsa_unit")} == {
        "model_name_or_path": "m",
        "eval_dataset": "test",
        "simulsa_unit": "word",
    }
    assert not {"simulsa_wait_k", "simulsa_confidence_threshold", "simulsa_hold_n"} & set(written)
    assert "\n# 700 ms: rollback k=" in (tmp_path / "tuned.yaml").read_text()
    test = noise_samples(tmp_path, varied_seconds(5), seed=100)
    cells = run_evaluation(HastyModel(), "test", test, EvaluationSettings.from_keys(written), tmp_path / "results")
    assert [row["folder"] for row in cells[:1]] == ["offline"]
    assert {row["folder"] for row in cells[1:]} == set(chosen)


@pytest.mark.parametrize("name", ["tuned.yaml", "finalists.yaml"])
def test_a_result_of_either_recipe_says_which_points_were_tuned_for_which_budget(found, tmp_path, name):
    result, _ = found
    write_tuned({"simulsa_tuned": {"AL@5": "old"}, "simulsa_cells": ["old"]}, settings(), result, tmp_path)
    test = noise_samples(tmp_path, varied_seconds(5), seed=100)
    chosen = EvaluationSettings.from_keys(read_recipe(tmp_path / name))
    cells = run_evaluation(HastyModel(), "test", test, chosen, tmp_path / "results")
    expected = {}
    for one in result["budgets"]:
        expected.setdefault(one["cell"], []).append({"latency": "LAAL", "budget": one["budget"]})
    assert {row["folder"]: row["tuned"] for row in cells if "tuned" in row} == expected
    assert len(expected) == 2 and (name == "tuned.yaml" or len(cells) > 3)
    page = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    figure = curves_figure(cells).axes[0]
    rings = {line.get_label(): line.get_xydata().tolist() for line in figure.lines if line.get_fillstyle() == "none"}
    lines = "\n".join(cells_table(cells))
    for row in cells:
        words = ", ".join(f"LAAL ≤ {one['budget']:g} ms" for one in row.get("tuned", ()))
        if words:
            assert rings.pop(f"tuned on dev: {words}") == [[row["LAAL"], row["BLEU"]]]
            assert f"<td>{words}</td>" in page
            assert f"{cell_key(row)} for {words}" in lines
    assert rings == {}


def test_a_result_that_was_not_tuned_has_nothing_of_it(rows, tmp_path):
    cells = run_evaluation(HastyModel(), "dev", rows[:3], settings(simulsa_chunks="400"), tmp_path / "out")
    assert "tuned" not in (tmp_path / "out" / "scores.json").read_text(encoding="utf-8")
    assert (
        "tuned on dev for" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8").partition("<script")[0]
    )
    assert "tuned" not in "\n".join(cells_table(cells))


def test_a_search_that_begins_with_a_tuned_recipe_does_not_take_its_choice():
    assert searched_settings({"simulsa_tuned": {"LAAL@900": "x"}}) == searched_settings({})


@pytest.mark.parametrize(
    "budget", ["900", "LAAL", "LAAL@", "LAAL@0", "LAAL@-1", "LAAL@1e9", "@900", "LAAL@900 ", "A B@9"]
)
def test_a_budget_is_a_metric_and_milliseconds(budget):
    with pytest.raises(UsageError, match=r"simulsa_tuned has the budget .*; allowed: METRIC@MS, such as LAAL@1000"):
        EvaluationSettings.from_keys({"simulsa_tuned": {budget: "offline"}})


@pytest.mark.parametrize("budget", [1000.0, 0.5, 1234.567, 1e9])
def test_a_budget_survives_its_name(budget):
    assert parse_budgets({name_budget("LAAL", budget): "x"}) == {"x": [{"latency": "LAAL", "budget": budget}]}


def test_a_tuned_cell_that_is_not_decoded_is_refused_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["simulsa_policies=rollback", "simulsa_rollbacks=0", "simulsa_tuned=LAAL@900:rollback_k500_b9"]
    assert evaluate.main([*words, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert "simulsa_tuned names 'rollback_k500_b9' for LAAL@900" in error and "Did you mean rollback_k500_b0?" in error
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_several_policies_holds_no_more_than_its_cells_need(tmp_path):
    names = ["confidence_k320_b0_confidence_threshold0.97", "wait_k_k500_wait_k4"]
    result = {
        "goal": {"quality": "BLEU", "latency": "LAAL"},
        "dataset": "dev",
        "cells": [],
        "budgets": [
            {"budget": 900.0, "cell": names[0]},
            {"budget": 1000.0, "cell": names[1]},
            {"budget": 1.0, "cell": None},
        ],
    }
    write_tuned({"simulsa_dev_dataset": "dev"}, searched_settings({}), result, tmp_path)
    assert read_recipe(tmp_path / "tuned.yaml") == {
        "simulsa_dev_dataset": "dev",
        "simulsa_policies": ["confidence", "wait_k"],
        "simulsa_chunks": [320, 500],
        "simulsa_confidence_threshold": [0.97],
        "simulsa_wait_k": [4],
        "simulsa_cells": names,
        "simulsa_tuned": {"LAAL@900": names[0], "LAAL@1000": names[1]},
    }


def test_a_recipes_own_keys_say_what_is_searched():
    chosen = searched_settings({"simulsa_rollbacks": "0,3", "simulsa_measure_time": True, "simulsa_eval_samples": 5})
    assert (chosen.rollbacks, chosen.chunks) == ((0, 3), tuple(GRID["simulsa_chunks"]))
    assert (chosen.measure_time, chosen.eval_samples) == (False, None)  # these are of the test set
    assert searched_settings({"simulsa_rollbacks": None}) == searched_settings({})  # a recipe's own values put aside


def test_hold_n_emits_what_rollback_does_so_that_one_of_them_is_searched(rows, tmp_path):
    cells = run_evaluation(
        HastyModel(),
        "dev",
        rows[:6],
        settings(
            simulsa_policies="rollback,hold_n", simulsa_chunks="400", simulsa_rollbacks="1,4", simulsa_hold_n="1,4"
        ),
        tmp_path / "out",
    )
    logs = {row["folder"]: (tmp_path / "out" / row["folder"] / "instances.log").read_bytes() for row in cells}
    for number in (1, 4):
        assert logs[f"rollback_k400_b{number}"] == logs[f"hold_n_k400_hold_n{number}"]
    assert logs["rollback_k400_b1"] != logs["rollback_k400_b4"]


@pytest.mark.parametrize("name", ["search/notes.txt", "frontier.json", "tuned.yaml", "finalists.yaml", "dev/notes.txt"])
def test_what_no_search_has_made_stays_as_it_is(rows, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(StorageError, match="was not made by this command, and stays as it is"):
        search_frontier(HastyModel(), "dev", rows, settings(), Goal((700.0,)), tmp_path)
    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["search", "dev", "frontier.json", "tuned.yaml"])
def test_a_search_writes_through_no_link(rows, tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(StorageError, match="is a link and will not be written through"):
        search_frontier(HastyModel(), "dev", rows, settings(), Goal((700.0,)), tmp_path / "out")
    assert not list((tmp_path / "outside").iterdir())


def test_a_finished_search_leaves_the_decoding_of_others_and_checks_its_logs(rows, tmp_path):
    arguments = (HastyModel(), "dev", rows, settings(), Goal((700.0,)), tmp_path)
    result = search_frontier(*arguments)
    (tmp_path / "decoding").mkdir()
    assert search_frontier(*arguments) == result
    assert (tmp_path / "decoding").is_dir()
    log = next(tmp_path.glob("dev/*/instances.log"))
    log.write_bytes(log.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(StorageError, match=r"its checksum does not fit\. Remove .*frontier\.json"):
        search_frontier(*arguments)
    (tmp_path / "frontier.json").unlink()
    assert search_frontier(*arguments) == result


@pytest.mark.parametrize("content", [b"", b"{}"])
def test_a_note_of_what_was_begun_that_a_crash_has_damaged_is_written_again(rows, tmp_path, content):
    expected = search_frontier(HastyModel(), "dev", rows, settings(), Goal((700.0,)), tmp_path / "whole")
    out = tmp_path / "out"
    claim(make_folder(out), NAMES)
    make_folder(out / SEARCH)
    (out / SEARCH / "started.json").write_bytes(content)
    assert search_frontier(HastyModel(), "dev", rows, settings(), Goal((700.0,)), out) == expected


def test_cells_lie_beside_those_of_the_next_chunk_and_the_next_value():
    cells = plan_cells(
        EvaluationSettings(policies=("rollback", "wait_k"), chunks=(500, 1000), rollbacks=(0, 3, 5), wait_k=(1, 2))
    )[1:]
    names = [decoding.cell_folder(cell) for cell in cells]
    beside = {
        name: [names[one] for one in others]
        for name, others in zip(names, neighbours(module._grid_positions(cells)), strict=True)
    }
    assert beside["rollback_k500_b3"] == ["rollback_k500_b0", "rollback_k500_b5", "rollback_k1000_b3"]
    assert beside["wait_k_k1000_wait_k1"] == ["wait_k_k500_wait_k1", "wait_k_k1000_wait_k2"]


def test_what_was_given_up_beside_the_best_comes_back(small, tmp_path, monkeypatch):
    # The search is led astray once: of all cells on the first utterances, none beside the best is kept.
    asked = []

    def astray(shares, values, goal, keep):
        asked.append(len(values))
        return [0, 1, 6] if len(asked) == 1 else promising(shares, values, goal, keep)

    monkeypatch.setattr(module, "promising", astray)
    result = small(tmp_path / "out", goal=Goal((5000.0,)))
    assert asked[:2] == [10, 5]  # cell 6 brings 5 and 7 back
    (tuned,) = result["budgets"]
    assert tuned["cell"] == "rollback_k300_b7"
