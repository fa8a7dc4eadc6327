"""What a training with simultaneous decoding leaves at its end: results of `simulsa-eval run`, with their reports."""

import json
import types

import pytest
from helpers.fakes import ClockModel, noise_samples

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.evaluation.during_training import History, decode_share, plan_training_evaluation
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.report import training_step
from simulsa_plugin.evaluation.run import plan_cells, run_evaluation
from simulsa_plugin.llamafactory.training import hook
from simulsa_plugin.model.values import UnusableRow

SETTINGS = EvaluationSettings(chunks=(500,), rollbacks=(0, 3))
CELLS = ("offline", "rollback_k500_b0", "rollback_k500_b3")
TEXTS = {10: "das Haus", 20: "das Haus ist alt", 30: "ein Haus ist alt und rot"}  # what the model says after each step


class Bar:
    def update(self, n):
        pass


def model_of(step):
    return ClockModel(text=TEXTS[step], ms_per_byte=80.0, regret=True)


@pytest.fixture
def rows(tmp_path):
    return [*noise_samples(tmp_path, [2.0, 1.7, 0.9], text=TEXTS[20]), UnusableRow(3, "multi_turn")]


@pytest.fixture
def evaluator(rows, tmp_path, monkeypatch):
    plan = plan_training_evaluation("toy", rows, plan_cells(SETTINGS), SETTINGS)[0]
    monkeypatch.setattr(
        hook.Evaluator,
        "_decode",
        lambda self, trainer: decode_share(model_of(trainer.state.global_step), self.plan, 0, 1, Bar()),
    )
    (tmp_path / "saves").mkdir()
    return hook.Evaluator(plan, None, History(tmp_path / "saves"))


def evaluate(evaluator, step, best=None):
    state = types.SimpleNamespace(global_step=step, epoch=0.5, best_global_step=best)
    evaluator.metrics(types.SimpleNamespace(state=state, args=types.SimpleNamespace(metric_for_best_model=None)))


def train(evaluator, best=None, *, loaded=False):
    """Evaluate at every step, where the trainer notes the best one after its evaluation; write the reports."""
    evaluator.begin(0)
    for step in TEXTS:
        evaluate(evaluator, step, None if best is None or best >= step else best)
    evaluator.end(best, loaded=loaded)
    evaluator.write_reports({"model": "saves", "adapter": None, "template": "t"})


def scores_of(folder):
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def test_the_last_evaluation_is_the_result_of_an_evaluation_of_its_weights(evaluator, rows, tmp_path, capsys):
    train(evaluator)
    assert "simulsa_eval/last/report.html in " in capsys.readouterr().err
    found, expected = tmp_path / "saves" / "simulsa_eval" / "last", tmp_path / "out"
    run_evaluation(model_of(30), "toy", rows, SETTINGS, expected)
    for name in (f"{cell}/{file}" for cell in CELLS for file in ("instances.log", "steps.jsonl")):
        assert (found / name).read_bytes() == (expected / name).read_bytes()
    ours, theirs = scores_of(found), scores_of(expected)
    for row in theirs["cells"]:
        del row["counts"]["longer_than_window"]  # the model is not asked how much it hears
    assert ours["cells"] == theirs["cells"]
    same = ("dataset", "rows", "content", "settings", "signatures", "skipped", "versions")
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    page = (found / "report.html").read_text(encoding="utf-8")
    assert "Simultaneous translation of toy after step 30 of a training" in page
    assert "after step 30 of the training" in (found / "model_card.md").read_text(encoding="utf-8")


def test_the_best_evaluation_has_a_report_of_its_own_that_the_page_links(evaluator, tmp_path):
    train(evaluator, best=20)
    results = tmp_path / "saves" / "simulsa_eval"
    assert {name: training_step(scores_of(results / name)) for name in ("last", "best")} == {"last": 30, "best": 20}
    assert TEXTS[20] in (results / "best" / "offline" / "instances.log").read_text(encoding="utf-8")
    page = (tmp_path / "saves" / "simulsa_eval.html").read_text(encoding="utf-8")
    assert '<a href="simulsa_eval/last/report.html">last evaluation, step 30</a>' in page
    assert '<a href="simulsa_eval/best/report.html">best evaluation, step 20</a>' in page
    words = ["--samples", "20", "--trials", "20", "--out", str(tmp_path / "both.html")]
    assert main(["report", str(results / "last"), str(results / "best"), *words]) == 0


def test_best_weights_that_are_loaded_and_evaluated_after_the_last_step_are_not_taken_for_its_own(evaluator, tmp_path):
    train(evaluator, best=20, loaded=True)
    names = ("simulsa_eval.jsonl", "simulsa_eval.html", "simulsa_eval/last/offline/instances.log")
    before = [(tmp_path / "saves" / name).read_bytes() for name in names]
    evaluator._decode = lambda trainer: decode_share(model_of(20), evaluator.plan, 0, 1, Bar())  # the loaded ones
    evaluate(evaluator, 30, best=20)
    evaluator.write_reports({"model": "saves"})
    assert [(tmp_path / "saves" / name).read_bytes() for name in names] == before


def test_no_more_than_the_last_and_the_best_are_kept_in_memory(evaluator):
    for step, best in ((10, None), (20, 10), (30, 10)):
        evaluate(evaluator, step, best)
    assert list(evaluator._kept) == [10, 30]


def test_another_training_removes_the_reports_of_the_one_before(evaluator, tmp_path):
    train(evaluator, best=20)
    results = tmp_path / "saves" / "simulsa_eval"
    (results / "best" / "notes.txt").write_text("mine")
    evaluator.begin(30)  # resumed: they still hold
    assert (results / "best" / "report.html").exists()
    evaluator.begin(0)
    assert not [*results.glob("*/report.html"), *results.glob("*/scores.json")]
    train(evaluator, best=30)
    assert training_step(scores_of(results / "last")) == 30
    assert not (results / "best" / "scores.json").exists()
    assert (results / "best" / "notes.txt").read_text() == "mine"


def test_files_of_others_stay_and_cost_no_training(evaluator, tmp_path, capsys):
    folder = tmp_path / "saves" / "simulsa_eval" / "last"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("mine")
    train(evaluator)
    assert "the report of simultaneous decoding could not be written: " in capsys.readouterr().err
    assert (folder / "report.html").read_text() == "mine"


def test_without_an_evaluation_there_is_no_report(evaluator, tmp_path):
    evaluator.begin(0)
    evaluator.end()
    evaluator.write_reports({"model": "saves"})
    assert not (tmp_path / "saves" / "simulsa_eval").exists()


@pytest.mark.parametrize(
    ("do_train", "kind", "before", "new", "model", "adapter"),
    [
        (True, "full", None, False, "saves", None),
        (True, "freeze", None, False, "saves", None),
        (True, "lora", None, False, "base", ["saves"]),
        (True, "lora", ["a", "b"], False, "base", ["a", "saves"]),  # b is trained further, and saved as a whole
        (True, "lora", ["a", "b"], True, "base", ["a", "b", "saves"]),
        (False, "lora", ["a"], False, "base", ["a"]),
    ],
)
def test_the_model_is_named_by_what_loads_it(do_train, kind, before, new, model, adapter):
    space = types.SimpleNamespace
    found = hook._trained_model(
        space(model_name_or_path="base", adapter_name_or_path=before),
        space(template="t"),
        space(do_train=do_train, output_dir="saves"),
        space(finetuning_type=kind, create_new_adapter=new),
    )
    assert found == {"model": model, "adapter": adapter, "template": "t"}


@pytest.mark.parametrize("training", [None, [], {}, {"step": "<b>"}, "x"])
def test_a_result_without_a_step_has_none(training):
    assert training_step({"training": training}) is None
    assert training_step({}) is None
