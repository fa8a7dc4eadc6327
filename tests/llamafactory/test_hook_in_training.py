"""Simultaneous decoding during training, in trainings as a user starts them."""

import json

import pytest
from helpers.files import read_json_lines
from huggingface_hub import ModelCard

from simulsa_plugin.demo.corpus import OFFLINE_NAME
from simulsa_plugin.files.json_files import write_json, write_jsonl

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
    (project_folder / "data" / "demo_simulsa").mkdir()
    write_json(project_folder / "data" / "demo_simulsa" / "manifest.json", {"signature": "simulsa|n:2"})
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
    for name in ("plain", "hooked"):
        card = ModelCard.load(project_folder / "saves" / name / "README.md")  # LLaMA-Factory's, with a part of ours
        assert "llama-factory" in card.data.tags and "demo_simulsa: simulsa|n:2" in card.text.splitlines()
        assert ("| rollback k=500 b=3 | " in card.text) == (name == "hooked")
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
    assert b"eval/simul_examples" in events and b"eval/simul_curves" in events
    history = read_json_lines(folder / "simulsa_eval.jsonl")
    assert [row["step"] for row in history] == [step for step in (1, 2, 3) for _ in CELLS]
    # It is not taken for one of the last step, whose weights were others.
    assert [row["LAAL"] for row in history if row["rollback"] == 3] == [
        row["eval_simul_k500_b3_laal"] for row in evaluations
    ]
    assert {"BLEU", "LAAL", "NE", "SWF", "instances", "empty", "skipped", "seconds", "epoch"} <= set(history[0])
    assert (folder / "simulsa_eval.png").read_bytes().startswith(b"\x89PNG")
    assert "Examples of step 3" in (folder / "simulsa_eval.html").read_text(encoding="utf-8")


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
