"""Simultaneous decoding during training: in processes of its own as a user starts them, and with a trainer of wood."""

import contextlib
import io
import json
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
from helpers.files import read_json_lines

from simulsa_plugin.demo.corpus import OFFLINE_NAME
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
from simulsa_plugin.files.json_files import read_jsonl, write_json, write_jsonl
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments
from simulsa_plugin.llamafactory.training import hook
from simulsa_plugin.llamafactory.training.preserved_state import preserved_log_levels, preserved_training_state
from simulsa_plugin.model.values import Sample, UnusableRow
from simulsa_plugin.presets import PRESETS

SMALL = (
    "max_steps=3",
    "per_device_train_batch_size=2",
    "dataloader_num_workers=0",
    "logging_steps=1",
    "val_size=4",
    "per_device_eval_batch_size=4",
    "eval_strategy=steps",
    "eval_steps=1",
    "do_eval=true",
)
HOOK = (
    f"simulsa_eval_dataset={OFFLINE_NAME}",
    "simulsa_eval_samples=5",
    "simulsa_eval_chunks=500",
    "simulsa_eval_rollbacks=0,3",
    "simulsa_eval_policies=rollback,confidence",
)
CELLS = ("offline", "k500_b0", "k500_b3", "confidence_k500_b0_confidence_threshold0.9")


def names(metrics=("bleu", "laal", "ne")):
    return {f"eval_simul_{cell}_{metric}" for cell in CELLS for metric in metrics}


def state_of(folder):
    return json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))


def losses(folder):
    return [row["loss"] for row in state_of(folder)["log_history"] if "loss" in row]


@pytest.fixture
def quiet_metrics():
    """A value for what has none where nothing is emitted: the demo model says something about every noise."""
    return names(("bleu", "ne"))


def test_a_training_logs_keeps_and_chooses_by_simultaneous_metrics_and_learns_the_same(
    llamafactory_cli, project_folder, quiet_metrics
):
    recipe = ("train", "recipes/demo_simulsa.yaml", *SMALL)
    plain = llamafactory_cli(*recipe, "output_dir=saves/plain")
    assert plain.returncode == 0, plain.stderr[-4000:]
    hooked = llamafactory_cli(
        *recipe,
        *HOOK,
        "output_dir=saves/hooked",
        "report_to=tensorboard",
        "logging_dir=runs",
        "save_strategy=steps",
        "save_steps=1",
        "load_best_model_at_end=true",
        "metric_for_best_model=simul_k500_b3_bleu",
        "greater_is_better=true",
        "early_stopping_steps=5",
    )
    assert hooked.returncode == 0, hooked.stderr[-4000:]
    assert "every evaluation also decodes 5 utterances of demo (5 s of audio) in 4 cells" in hooked.stderr
    assert f"test set {OFFLINE_NAME}: 5 of 16 rows, latency unit word." in hooked.stderr
    assert f"WARNING: the test set {OFFLINE_NAME} is the training dataset {OFFLINE_NAME}:" in hooked.stderr
    plain, folder = project_folder / "saves" / "plain", project_folder / "saves" / "hooked"
    assert losses(folder) == losses(plain)  # the training does not notice
    state = state_of(folder)
    evaluations = [row for row in state["log_history"] if "eval_runtime" in row]
    assert [row["step"] for row in evaluations] == [1, 2, 3]  # the state is saved before the last evaluation
    assert all(quiet_metrics <= set(row) for row in evaluations)
    best = max(evaluations, key=lambda row: row["eval_simul_k500_b3_bleu"])
    assert state["best_metric"] == best["eval_simul_k500_b3_bleu"]
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    # The last evaluation is of the best model, which was loaded after the last step.
    assert {name: results[name] for name in quiet_metrics} == {name: best[name] for name in quiet_metrics}
    events = b"".join(path.read_bytes() for path in project_folder.rglob("events.out.tfevents*"))
    assert b"eval/simul_k500_b0_bleu" in events
    history = read_json_lines(folder / "simulsa_eval.jsonl")
    assert [row["step"] for row in history] == [step for step in (1, 2, 3) for _ in CELLS]
    assert {"BLEU", "LAAL", "NE", "SWF", "instances", "empty", "skipped", "seconds", "epoch"} <= set(history[0])
    assert (folder / "simulsa_eval.png").read_bytes().startswith(b"\x89PNG")


def test_ranks_share_the_work_under_zero_3_and_find_what_an_evaluation_of_its_own_finds(
    llamafactory_cli, project_folder, clean_environment
):
    result = llamafactory_cli(
        "train",
        "recipes/demo_simulsa.yaml",
        *SMALL,
        *HOOK,
        "max_steps=1",
        "eval_steps=1",
        "deepspeed=recipes/deepspeed/z3.json",
        "output_dir=saves/ranks",
        FORCE_TORCHRUN="1",
        NPROC_PER_NODE="2",
        DS_ACCELERATOR="cpu",
        CUDA_VISIBLE_DEVICES="",
        CXX="no-compiler",
    )  # or DeepSpeed compiles an exchange between the two, for minutes on a busy machine
    assert result.returncode == 0, result.stderr[-4000:]
    folder = project_folder / "saves" / "ranks"
    history = read_json_lines(folder / "simulsa_eval.jsonl")
    assert [row["step"] for row in history] == [1] * len(CELLS)
    assert len(losses(folder)) == 1
    from simulsa_plugin.commands.evaluate import main

    assert (
        main(
            [
                "run",
                f"model_name_or_path={folder}",
                "template=qwen2_audio",
                f"eval_dataset={OFFLINE_NAME}",
                f"dataset_dir={project_folder / 'data'}",
                "simulsa_chunks=500",
                "simulsa_rollbacks=0,3",
                "simulsa_policies=rollback,confidence",
                "simulsa_eval_samples=5",
                "--out",
                str(project_folder / "alone"),
            ]
        )
        == 0
    )
    alone = json.loads((project_folder / "alone" / "scores.json").read_text(encoding="utf-8"))["cells"]
    for ours, theirs in zip(history, alone, strict=True):
        for name in ("policy", "chunk_ms", "rollback", "BLEU", "LAAL", "NE", "SWF", "empty"):
            assert ours[name] == pytest.approx(theirs[name]), (ours["policy"], name)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("simulsa_eval_dataset=nothing",), "No dataset nothing in"),
        (("simulsa_eval_policies=nothing",), "simulsa_eval_policies is 'nothing'"),
        (
            (
                "metric_for_best_model=simul_k7_b0_bleu",
                "load_best_model_at_end=true",
                "save_strategy=steps",
                "save_steps=1",
            ),
            "metric_for_best_model is eval_simul_k7_b0_bleu; simultaneous decoding has eval_simul_offline_bleu",
        ),
        (("eval_strategy='no'", "do_eval=false", "val_size=0"), "this one never does. Set eval_strategy: steps"),
    ],
    ids=["dataset", "policy", "metric", "never"],
)
def test_a_mistake_shows_before_anything_is_trained(llamafactory_cli, words, expected):
    result = llamafactory_cli("train", "recipes/demo_simulsa.yaml", *SMALL, *HOOK, *words)
    assert result.returncode == 1
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


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
    def update(self):
        pass


def test_what_cannot_be_decoded_is_counted_by_reason(plan):
    assert (len(plan.samples), plan.skipped) == (3, {"multi_turn": 1, "audio_missing": 1, "too_short": 1})


def test_nothing_to_decode_is_an_error_at_the_start(settings):
    with pytest.raises(DatasetError, match=r"simulsa_eval_dataset toy .*\{'no_audio': 1\}"):
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


def preferences(folder, extra):
    """Turn the project's offline rows into a preference dataset: `extra` are the columns of its stage."""
    data = folder / "data"
    entries = json.loads((data / "dataset_info.json").read_text(encoding="utf-8"))
    rows = read_json_lines(data / f"{OFFLINE_NAME}.jsonl")
    turns = [{"role": "user", "content": rows[0]["messages"][0]["content"]}]
    write_jsonl(
        data / "preferences.jsonl",
        [
            {**row, **({"messages": turns} if "chosen" in extra(number) else {}), **extra(number)}
            for number, row in enumerate(rows)
        ],
    )
    columns = {"messages": "messages", "audios": "audios"}
    columns |= {name: name for name in extra(0)}
    entries["preferences"] = entries[OFFLINE_NAME] | {
        "file_name": "preferences.jsonl",
        "columns": columns,
        "ranking": "chosen" in columns,
    }
    write_json(data / "dataset_info.json", entries)


def ranked(number):
    return {
        "chosen": {"role": "assistant", "content": f"das haus {number}"},
        "rejected": {"role": "assistant", "content": "nein"},
    }


def judged(number):
    return {"kto_tag": number % 2 == 0}


@pytest.mark.parametrize(("stage", "extra"), [("dpo", ranked), ("kto", judged)])
def test_stages_whose_model_translates_decode_at_every_evaluation(llamafactory_cli, project_folder, stage, extra):
    preferences(project_folder, extra)
    result = llamafactory_cli(
        "train",
        "recipes/demo_simulsa.yaml",
        *SMALL,
        *HOOK,
        "max_steps=1",
        f"stage={stage}",
        "dataset=preferences",
        "output_dir=saves/stage",
    )
    assert result.returncode == 0, result.stderr[-4000:]
    (evaluation, *_) = (
        row for row in state_of(project_folder / "saves" / "stage")["log_history"] if "eval_runtime" in row
    )
    assert names(("bleu", "ne")) <= set(evaluation)


@pytest.mark.parametrize("stage", ["pt", "rm", "ppo"])
def test_stages_whose_model_does_not_translate_refuse_the_key(stage):
    arguments = types.SimpleNamespace(simulsa_eval_dataset="x"), types.SimpleNamespace(stage=stage)
    run = hook.with_evaluation_refused(lambda *_: "trained")
    with pytest.raises(UsageError, match=rf"does not work in stage: {stage}; allowed: sft, dpo, kto"):
        run(None, arguments[0], None, arguments[1])
    assert run(None, types.SimpleNamespace(simulsa_eval_dataset=None), None, arguments[1], None) == "trained"


def test_the_refusal_reaches_the_user_before_a_model_is_loaded(llamafactory_cli, project_folder):
    preferences(project_folder, ranked)
    result = llamafactory_cli(
        "train",
        "recipes/demo_simulsa.yaml",
        *SMALL,
        *HOOK,
        "stage=rm",
        "dataset=preferences",
        "model_name_or_path=/no/such/model",
        "output_dir=saves/stage",
    )
    assert result.returncode == 1
    assert "simulsa_eval_dataset does not work in stage: rm" in result.stderr
    assert "Traceback" not in result.stderr
