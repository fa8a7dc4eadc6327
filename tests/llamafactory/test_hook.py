"""Simultaneous decoding during training, with a trainer of wood and a model of arithmetic."""

import contextlib
import io
import logging
import random
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.fakes import ClockModel, noise_samples, write_noise

from simulsa_plugin.errors import DatasetError, MissingExtraError, StorageError, UsageError
from simulsa_plugin.evaluation.during_training import (
    History,
    decode_share,
    logged_metrics,
    plan_training_evaluation,
    score_cells,
)
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import plan_cells, run_evaluation
from simulsa_plugin.files.json_files import read_jsonl
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments
from simulsa_plugin.llamafactory.training import hook
from simulsa_plugin.llamafactory.training.preserved_state import preserved_log_levels, preserved_training_state
from simulsa_plugin.model.values import Sample, UnusableRow
from simulsa_plugin.presets import PRESETS

# A trainer of wood, and a model of arithmetic


@pytest.fixture
def samples(tmp_path):
    return noise_samples(tmp_path, [2.0, 1.7, 0.9])


@pytest.fixture
def settings():
    return EvaluationSettings(chunks=(500,), rollbacks=(0, 3))


@pytest.fixture
def plan(samples, settings, tmp_path):
    rows = [
        *samples,
        UnusableRow(3, "multi_turn"),
        Sample(4, samples[0].prompt, "x", str(tmp_path / "gone.wav")),
        Sample(5, samples[0].prompt, "x", write_noise(tmp_path / "short.wav", 0.1, seed=5)),
    ]
    return plan_training_evaluation("toy", rows, plan_cells(settings), settings)[0]


class Wood(torch.nn.Module):
    """A model with a part that stays in evaluation mode while the rest trains."""

    def __init__(self):
        super().__init__()
        self.trained, self.frozen = torch.nn.Dropout(0.5), torch.nn.Dropout(0.5)
        self.train()
        self.frozen.eval()


def make_trainer(step=1, **arguments):
    model = Wood()
    return types.SimpleNamespace(
        state=types.SimpleNamespace(global_step=step, epoch=0.5),
        model=model,
        model_wrapped=model,
        args=types.SimpleNamespace(**{"metric_for_best_model": None, **arguments}),
        compute_loss_context_manager=torch.no_grad,
    )


@pytest.fixture
def evaluator(plan, tmp_path, monkeypatch):
    from simulsa_plugin.llamafactory.model import backbone

    monkeypatch.setattr(backbone, "Backbone", lambda model, renderer: ClockModel(regret=True))
    (tmp_path / "out").mkdir()
    return hook.Evaluator(plan, None, History(tmp_path / "out"))


class Bar:
    def update(self, n):
        pass


def test_what_cannot_be_decoded_is_counted_by_reason(plan):
    assert (len(plan.samples), plan.skipped) == (3, {"multi_turn": 1, "audio_missing": 1, "too_short": 1})


def test_nothing_to_decode_is_an_error_at_the_start(settings):
    with pytest.raises(DatasetError, match=r"simulsa_eval_dataset toy .* reasons: no_audio 1"):
        plan_training_evaluation("toy", [UnusableRow(0, "no_audio")], plan_cells(settings), settings)


def test_shares_together_are_what_one_process_finds(plan):
    whole = decode_share(ClockModel(regret=True), plan, 0, 1, Bar())
    shared = {}
    for number in range(2):
        shared |= decode_share(ClockModel(regret=True), plan, number, 2, Bar())
    assert shared == whole


def test_ranks_find_the_same_attention_heads(samples):
    settings = EvaluationSettings(chunks=(500,), policies=("attention",))
    plan = plan_training_evaluation("toy", samples, plan_cells(settings), settings)[0]
    ranks = [ClockModel() for _ in range(2)]
    for number, model in enumerate(ranks):
        decode_share(model, plan, number, 2, Bar())
    assert [model.watched for model in ranks] == [[((0, 2000), (0, 1700), (0, 900))]] * 2


def test_the_metrics_are_those_of_an_evaluation_of_its_own(plan, samples, settings, tmp_path):
    rows = score_cells(plan, decode_share(ClockModel(regret=True), plan, 0, 1, Bar()))
    cells = run_evaluation(ClockModel(regret=True), "toy", samples, settings, tmp_path / "out")
    for ours, theirs in zip(rows, cells, strict=True):
        assert {name: ours[name] for name in ("BLEU", "chrF", "LAAL", "YAAL", "NE", "SWF")} == {
            name: theirs[name] for name in ("BLEU", "chrF", "LAAL", "YAAL", "NE", "SWF")
        }
    assert logged_metrics(plan, rows)["eval_simul_k500_b3_laal"] == cells[2]["LAAL"]


def test_several_sets_at_one_step_decode_once_and_the_best_model_again(evaluator, monkeypatch):
    decoded = []
    monkeypatch.setattr(hook, "decode_share", lambda *arguments: decoded.append(1) or decode_share(*arguments))
    trainer = make_trainer()
    assert evaluator.metrics(trainer) == evaluator.metrics(trainer)
    assert len(decoded) == 1
    trainer.state.global_step = 2
    evaluator.metrics(trainer)
    evaluator.end()
    evaluator.metrics(trainer)
    assert len(decoded) == 3


def test_a_failure_is_loud_and_costs_no_training(evaluator, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("out of\nluck")

    monkeypatch.setattr(hook, "decode_share", fail)
    trainer = make_trainer(metric_for_best_model="simul_k500_b3_bleu")
    metrics = evaluator.metrics(trainer)
    assert "at step 1 FAILED, the training goes on without it: RuntimeError: out of luck" in capsys.readouterr().err
    assert list(metrics) == ["eval_simul_k500_b3_bleu"]  # the trainer would stop without it; NaN is never the best
    assert np.isnan(metrics["eval_simul_k500_b3_bleu"])
    assert evaluator.metrics(make_trainer(step=2)) == {}


# Every kind of exception that a library may raise, from a missing package to a bug
EXCEPTIONS = [
    RuntimeError("no\nmecab"),
    ImportError("sentencepiece"),
    AssertionError(),
    MemoryError(),
    KeyError("x"),
    OSError(5, "Input/output error"),
    UnicodeError("x"),
    ZeroDivisionError(),
    RecursionError(),
    StopIteration(),
    StorageError("full"),
    MissingExtraError("no mecab"),
    UsageError("no"),
]


@pytest.mark.parametrize("name", ["score_cells", "logged_metrics"])
@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_scores_that_fail_are_one_line_and_cost_no_training(evaluator, monkeypatch, capsys, error, name):
    def fail(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(hook, name, fail)
        assert evaluator.metrics(make_trainer()) == {}
        (line,) = capsys.readouterr().err.splitlines()
        assert f"at step 1 FAILED, the training goes on without it: {type(error).__name__}: " in line
        assert line.endswith("(1 of 1 evaluations so far failed)")
        best = evaluator.metrics(make_trainer(step=2, metric_for_best_model="simul_k500_b3_bleu"))
        assert np.isnan(best["eval_simul_k500_b3_bleu"])
    assert "eval_simul_k500_b3_bleu" in evaluator.metrics(make_trainer(step=3))  # the next one is whole again
    assert "(2 of 2 evaluations so far failed)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["decode_share", "score_cells"])
def test_ctrl_c_still_stops_a_training(evaluator, monkeypatch, name):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(hook, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluator.metrics(make_trainer())


class Ranks:
    """Two ranks as threads that meet at every `gather_from_ranks`; one that comes alone has waited in vain."""

    def __init__(self):
        self.local, self.barrier, self.found = threading.local(), threading.Barrier(2, timeout=20), [None, None]

    def rank_and_world_size(self):
        return self.local.rank, 2

    def gather_from_ranks(self, found):
        self.found[self.local.rank] = found
        self.barrier.wait()
        both = list(self.found)
        self.barrier.wait()
        return both

    def metrics(self, evaluators, **arguments):
        def ask(rank):
            self.local.rank = rank
            return [evaluators[rank].metrics(make_trainer(step, **arguments)) for step in (1, 2)]

        with ThreadPoolExecutor(2) as executor:
            return list(executor.map(ask, range(2)))


@pytest.mark.parametrize("failing", ["score", "decode first", "decode second", None])
def test_ranks_agree_whichever_of_them_fails_and_none_waits_for_ever(plan, tmp_path, monkeypatch, failing):
    ranks = Ranks()

    def decode(_, __, number, count, progress):
        if failing == ("decode first", "decode second")[number]:
            raise RuntimeError("out of luck")
        return decode_share(ClockModel(regret=True), plan, number, count, progress)

    def score(*arguments):
        assert ranks.local.rank == 0
        if failing == "score":
            raise ImportError("mecab")
        return score_cells(*arguments)

    monkeypatch.setattr(hook, "rank_and_world_size", ranks.rank_and_world_size)
    monkeypatch.setattr(hook, "gather_from_ranks", ranks.gather_from_ranks)
    monkeypatch.setattr(hook, "decode_share", decode)
    monkeypatch.setattr(hook, "score_cells", score)
    # All threads share one random state, which `undisturbed` would put back twice.
    monkeypatch.setattr(hook, "preserved_training_state", lambda _: contextlib.nullcontext())
    from simulsa_plugin.llamafactory.model import backbone

    monkeypatch.setattr(backbone, "Backbone", lambda *_: None)
    evaluators = [hook.Evaluator(plan, None, History(tmp_path)) for _ in range(2)]
    first, second = ranks.metrics(evaluators, metric_for_best_model="simul_k500_b0_bleu")
    assert repr(first) == repr(second)  # NaN is not itself
    assert [len(found) for found in first] == [1 if failing else len(plan.names)] * 2


def test_a_training_starts_over_a_history_that_a_crash_has_damaged(evaluator, tmp_path, capsys):
    path = tmp_path / "out" / "simulsa_eval.jsonl"
    evaluator.metrics(make_trainer(step=1))
    path.write_text("\0\0\n[1]\n{}\n" + path.read_text() + '{"step": 9, "BL')
    evaluator.begin(5)
    evaluator.metrics(make_trainer(step=6))
    assert [row["step"] for row in read_jsonl(path)] == [1, 1, 1, 6, 6, 6]
    path.unlink()
    path.mkdir()
    evaluator.begin(5)
    assert "simulsa_eval.jsonl could not be cut at step 5" in capsys.readouterr().err
    assert "eval_simul_k500_b0_bleu" in evaluator.metrics(make_trainer(step=7))


def test_a_warning_that_nobody_can_read_costs_no_training(evaluator, monkeypatch):
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(hook, "score_cells", fail)
    monkeypatch.setattr(sys, "stderr", Gone())
    assert evaluator.metrics(make_trainer()) == {}


def test_a_tokenizer_that_is_not_there_shows_before_anything_is_loaded(monkeypatch):
    def fail(tokenizer):
        raise MissingExtraError(f"The BLEU tokenizer {tokenizer} cannot start")

    monkeypatch.setattr(hook, "make_metrics", fail)
    data = types.SimpleNamespace(simulsa_eval_dataset="x", simulsa_target_language="ja")
    training = types.SimpleNamespace(fsdp=[], eval_strategy="steps", do_eval=False)
    with pytest.raises(MissingExtraError, match="ja-mecab"):
        hook._make_evaluator(InferenceArguments(None, data, None), training)


@pytest.mark.parametrize(
    ("keys", "policies", "chunks", "rollbacks"),
    [
        ({}, ("rollback",), (500, 1000), (0, 3)),
        ({"simulsa_preset": "paper"}, ("rollback",), (500, 1000), (0, 3)),
        ({"simulsa_preset": "recommended"}, ("confidence",), (500,), (0, 3)),
        ({"simulsa_preset": "recommended", "simulsa_eval_chunks": "250,750"}, ("confidence",), (250, 750), (0, 3)),
    ],
)
def test_a_preset_stands_behind_the_keys_that_are_not_named(monkeypatch, keys, policies, chunks, rollbacks):
    planned = []
    monkeypatch.setattr(hook, "_refuse_unsupported", lambda _, settings: planned.append(settings))
    monkeypatch.setattr(hook, "make_metrics", lambda _: pytest.fail("the settings are made by now"))
    data = types.SimpleNamespace(simulsa_eval_dataset="x", **keys)
    with pytest.raises(pytest.fail.Exception):
        hook._make_evaluator(InferenceArguments(None, data, None), None)
    (settings,) = planned
    assert (settings.policies, settings.chunks, settings.rollbacks) == (policies, chunks, rollbacks)
    recommended = keys.get("simulsa_preset") == "recommended"
    assert settings.confidence_threshold == (
        PRESETS["recommended"]["simulsa_confidence_threshold"] if recommended else (0.9,)
    )


def test_an_unknown_preset_stops_a_training_before_it_begins():
    data = types.SimpleNamespace(simulsa_preset="recomended")
    with pytest.raises(UsageError, match="Did you mean recommended"):
        hook._make_evaluator(InferenceArguments(None, data, None), None)


def test_a_history_that_cannot_be_written_is_loud_and_costs_no_metric(evaluator, monkeypatch, capsys):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(History, "add", fail)
    assert "eval_simul_k500_b0_bleu" in evaluator.metrics(make_trainer())
    assert "could not be written down: no space left" in capsys.readouterr().err


def test_modes_and_random_states_are_as_before_also_after_a_failure(evaluator, monkeypatch):
    trainer = make_trainer()

    def disturb(*_):
        assert not any(module.training for module in trainer.model.modules())
        random.random(), np.random.rand(), torch.rand(1)
        raise RuntimeError

    monkeypatch.setattr(hook, "decode_share", disturb)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    evaluator.metrics(trainer)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert trainer.model.trained.training
    assert not trainer.model.frozen.training


def test_undisturbed_leaves_a_model_that_is_evaluated_as_it_is():
    model = torch.nn.Dropout(0.5).eval()
    with preserved_training_state(model):
        pass
    assert not model.training


def test_libraries_are_as_loud_as_before():
    import transformers

    logger, before = logging.getLogger("llamafactory"), logging.getLogger("llamafactory").level
    verbosity = transformers.logging.get_verbosity()
    logger.setLevel(logging.INFO)
    transformers.logging.set_verbosity_info()
    try:
        with preserved_log_levels():
            logger.setLevel(logging.ERROR)
            transformers.logging.set_verbosity_error()
        assert logger.level == logging.INFO
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
    finally:
        logger.setLevel(before)
        transformers.logging.set_verbosity(verbosity)


def test_a_training_that_goes_on_does_its_later_steps_again(tmp_path):
    history = History(tmp_path)
    row = {"policy": "offline", "chunk_ms": None, "rollback": None, "parameters": {}, "BLEU": 1.0, "LAAL": None}
    for step in (1, 2, 3):
        history.add(step, 0.1, 1.0, [row | {"BLEU": float(step)}])
    history.add(3, 0.1, 1.0, [row | {"BLEU": 9.0}])  # the best model, at the last step
    history.drop_after(2)
    rows = list(read_jsonl(tmp_path / "simulsa_eval.jsonl"))
    assert [(one["step"], one["BLEU"]) for one in rows] == [(1, 1.0), (2, 2.0)]
    history.drop_after(0)
    assert (tmp_path / "simulsa_eval.jsonl").read_text() == ""


def test_flags_are_read_as_a_recipes_values_are():
    data = types.SimpleNamespace(
        simulsa_eval_chunks="500,1000",
        simulsa_eval_samples="5",
        simulsa_eval_dataset="x",
        simulsa_eval_rollbacks=[0, 3],
        simulsa_measure_time=None,
        dataset="y",
    )
    assert hook._simulsa_keys(data) == {
        "simulsa_eval_chunks": "500,1000",
        "simulsa_eval_samples": 5,
        "simulsa_eval_dataset": "x",
        "simulsa_eval_rollbacks": [0, 3],
    }


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ({"fsdp": ["full_shard"]}, {}, "does not work under FSDP"),
        ({}, {"measure_time": True}, "simulsa_measure_time is not for"),
        ({"eval_strategy": "no"}, {}, "this one never does"),
    ],
)
def test_what_cannot_be_is_refused(arguments, settings, message):
    training = types.SimpleNamespace(**{"fsdp": [], "eval_strategy": "steps", "do_eval": False} | arguments)
    with pytest.raises(UsageError, match=message):
        hook._refuse_unsupported(training, EvaluationSettings(**settings))


# Other stages of LLaMA-Factory


@pytest.mark.parametrize("stage", ["pt", "rm", "ppo"])
def test_stages_whose_model_does_not_translate_refuse_the_key(stage):
    arguments = types.SimpleNamespace(simulsa_eval_dataset="x"), types.SimpleNamespace(stage=stage)
    run = hook.with_evaluation_refused(lambda *_: "trained")
    with pytest.raises(UsageError, match=rf"does not work in stage: {stage}; allowed: sft, dpo, kto"):
        run(None, arguments[0], None, arguments[1])
    assert run(None, types.SimpleNamespace(simulsa_eval_dataset=None), None, arguments[1], None) == "trained"
