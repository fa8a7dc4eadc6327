"""Recorded human speech through the whole product, as a user types it: augment, train, evaluate.

The demo model has heard synthetic voices and writes German, so its labels and translations are poor here. What must
hold for any model is what is tested: nothing is lost, clips are what was heard, partials are prefixes of references,
and delays are times at which something was heard.
"""

import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from helpers.files import read_json_lines
from make_dataset import NAME, REASONS, UNPAIRED
from scipy.signal import resample_poly

pytestmark = pytest.mark.real_speech

HERE = Path(__file__).resolve().parent
MODEL = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
MIN_SECONDS = 0.6  # the shortest prompts, single letters, last 0.58 s: so that some are too short
THRESHOLD = 1e-7  # far below the default: so that a model that guesses accepts none, some and all of the tokens
EVALUATED = 16
CHUNK_MS = 1000
CELLS = ("offline", "rollback_k1000_b0", "rollback_k1000_b3")


def samples_of(path):
    samples, rate = soundfile.read(path, dtype="int16")
    return samples, rate


@pytest.fixture(scope="module")
def project_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("real speech")  # the space is meant


@pytest.fixture(scope="module")
def typed(project_folder):
    """Type a command in the project folder; it must succeed."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "FORCE_TORCHRUN")}
    cache = str(project_folder / "cache")
    environment = {**kept, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": cache, "OMP_NUM_THREADS": "1"}

    def run(program, *arguments):
        command = [str(Path(sys.executable).parent / program), *map(str, arguments)]
        result = subprocess.run(
            command, cwd=project_folder, env=environment, capture_output=True, text=True, timeout=550, check=False
        )
        assert result.returncode == 0, f"{program}: {result.stdout[-2000:]}{result.stderr[-6000:]}"
        return result

    return run


@pytest.fixture(scope="module")
def recipe(project_folder):
    """Write a recipe, JSON being YAML."""

    def write(name, **keys):
        (project_folder / name).write_text(json.dumps(MODEL | keys), encoding="utf-8")
        return name

    return write


@pytest.fixture(scope="module")
def speech(typed, project_folder):
    """The dataset; a package that cannot be had fails whatever needs it."""
    typed(Path(sys.executable).name, HERE / "make_dataset.py", "--out", "speech")
    return project_folder / "speech"


@pytest.fixture(scope="module")
def prompts(speech):
    return read_json_lines(speech / f"{NAME}.jsonl")


@pytest.fixture(scope="module")
def augmented(typed, recipe, speech, project_folder):
    """Every prompt walked."""
    typed(
        "simulsa-augment",
        recipe(
            "augment.yaml",
            dataset=NAME,
            dataset_dir=speech.name,
            simulsa_ratio=1.0,
            simulsa_min_seconds=MIN_SECONDS,
            simulsa_threshold=THRESHOLD,
        ),
        "--out",
        "data",
    )
    return project_folder / "data"


@pytest.fixture(scope="module")
def scores(augmented):
    return read_json_lines(augmented / f"{NAME}_simulsa" / "scores.jsonl")


@pytest.fixture(scope="module")
def test_set(augmented):
    """The longest and the shortest prompt, and others as they come; one more than is evaluated."""
    rows = read_json_lines(augmented / f"{NAME}.jsonl")
    order = sorted(rows, key=lambda row: soundfile.info(row["audios"][0]).frames)
    chosen = [order[-1], order[0], *rows[: EVALUATED - 1]]
    (augmented / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    info = json.loads((augmented / "dataset_info.json").read_text(encoding="utf-8"))
    entry = {**info[NAME], "file_name": "test.jsonl"}
    (augmented / "dataset_info.json").write_text(json.dumps({**info, "test": entry}), encoding="utf-8")
    return chosen[:EVALUATED]


@pytest.fixture(scope="module")
def evaluated(typed, recipe, test_set, project_folder):
    typed(
        "simulsa-eval",
        "run",
        recipe("evaluate.yaml", eval_dataset="test", dataset_dir="data"),
        "--out",
        "results",
        f"simulsa_eval_samples={EVALUATED}",
        f"simulsa_chunks={CHUNK_MS}",
        "simulsa_rollbacks=0,3",
        "simulsa_target_language=fr",
        "simulsa_max_new_tokens=64",
    )
    return project_folder / "results"


def test_every_prompt_is_in_the_dataset_or_listed_with_a_reason(speech, prompts):
    unpaired = read_json_lines(speech / UNPAIRED)
    names = Counter(row["name"] for row in [*prompts, *unpaired])
    assert set(names.values()) == {1}
    assert {row["reason"] for row in unpaired} == set(REASONS)
    assert len(prompts) > 500
    assert {"beep", "silence/1", "tt-monkeys"} <= {row["name"] for row in unpaired}
    french = {row["name"]: row["messages"][1]["content"] for row in prompts}
    assert french["agent-loggedoff"] == "Vous n'êtes plus en ligne."
    assert french["vm-record-prepend"].endswith("appuyez sur dièse.")


def test_recordings_stay_as_they_were_fetched(speech, prompts):
    for row in prompts:
        info = soundfile.info(speech / row["audios"][0])
        assert (info.samplerate, info.channels, info.subtype) == (8000, 1, "PCM_16")


def test_every_row_is_augmented_or_skipped_for_its_length(augmented, scores, speech, prompts):
    skipped = read_json_lines(augmented / f"{NAME}_simulsa" / "skipped.jsonl")
    every_id = [f"{NAME}-{row:08d}-0" for row in range(len(prompts))]
    assert sorted(row["id"] for row in [*scores, *skipped]) == every_id
    seconds = [soundfile.info(speech / row["audios"][0]).frames / 8000 for row in prompts]
    too_short = {identifier for identifier, duration in zip(every_id, seconds, strict=True) if duration <= MIN_SECONDS}
    assert too_short
    assert {row["id"] for row in skipped if row["reason"] == "too_short"} == too_short
    assert {row["reason"] for row in skipped} <= {"too_short", "cut_exceeds_window"}
    manifest = json.loads((augmented / f"{NAME}_simulsa" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["counts"]["samples"] == len(scores)
    assert manifest["skipped"] == Counter(row["reason"] for row in skipped)


def test_a_clip_is_the_beginning_of_its_recording_resampled_once(augmented, scores, speech):
    """Expected samples: torchaudio's, as in LLaMA-Factory; scipy's polyphase filter, another method, nearly."""
    clips = {path.name for path in (augmented / f"{NAME}_simulsa" / "clips").iterdir()}
    assert clips == {f"{row['id']}.wav" for row in scores}
    correlations = []
    for row in scores:
        info = soundfile.info(row["clip"])
        assert (info.samplerate, info.channels, info.subtype, info.format) == (16000, 1, "PCM_16", "WAV")
        clip, _ = samples_of(row["clip"])
        assert len(clip) == math.floor(row["cut_seconds"] * 16000 + 0.5)
        assert MIN_SECONDS <= row["cut_seconds"] <= min(5.0, row["duration_seconds"])
        source, rate = samples_of(row["audio"])
        assert row["duration_seconds"] == len(source) / rate
        source_waveform = torch.from_numpy((source / 32768).astype(np.float32))
        whole = torchaudio.functional.resample(source_waveform, rate, 16000).numpy()[: len(clip)]
        assert np.abs(clip - np.clip(whole * 32768.0, -32768, 32767)).max() < 0.5 + 0.05  # 1e-6 of full scale is 0.03
        correlations.append(np.corrcoef(clip, resample_poly(source.astype(float), 2, 1)[: len(clip)])[0, 1])
    assert min(correlations) > 0.97


def test_a_partial_is_what_the_threshold_leaves_of_the_reference(scores, prompts):
    for row in scores:
        assert row["reference"] == prompts[int(row["id"].split("-")[1])]["messages"][1]["content"]
        logprobs, ends, accepted = row["logprobs"], row["char_ends"], row["accepted_tokens"]
        assert len(logprobs) == len(row["token_ids"]) == len(ends) == len(row["greedy"])
        assert max([*logprobs, row["eos_logprob"]]) <= 0
        refused = next((i for i, value in enumerate(logprobs) if value < math.log(THRESHOLD)), len(logprobs))
        assert accepted <= refused
        assert row["partial"] == (row["reference"][: ends[accepted - 1]] if accepted else "")
        for end in ends[accepted:refused]:  # given back: it ends inside a character, or with a space
            assert end is None or row["reference"][end - 1].isspace()
    kinds = Counter("whole" if row["partial"] == row["reference"] else bool(row["partial"]) for row in scores)
    assert set(kinds) == {False, True, "whole"}, kinds


def test_both_sets_are_registered_for_training(augmented, scores, prompts):
    info = json.loads((augmented / "dataset_info.json").read_text(encoding="utf-8"))
    assert Path(info[NAME]["file_name"]).is_absolute()
    offline = read_json_lines(augmented / info[NAME]["file_name"])
    partial = read_json_lines(augmented / info[f"{NAME}_simulsa"]["file_name"])
    assert [row["messages"] for row in offline] == [row["messages"] for row in prompts]
    assert [row["audios"] for row in partial] == [[row["clip"]] for row in scores]
    answers = [row["messages"].pop() for row in partial]
    assert answers == [{"role": "assistant", "content": row["partial"]} for row in scores]
    assert [row["messages"] for row in partial] == [row["messages"] for row in scores]
    for row in [*offline, *partial]:
        (audio,) = row["audios"]
        assert Path(audio).is_absolute()
        assert Path(audio).is_file()


def test_plain_llamafactory_trains_on_the_result(typed, recipe, augmented, project_folder):
    typed(
        "llamafactory-cli",
        "train",
        recipe(
            "train.yaml",
            stage="sft",
            do_train=True,
            finetuning_type="full",
            dataset=f"{NAME},{NAME}_simulsa",
            dataset_dir=augmented.name,
            cutoff_len=1024,
            max_samples=32,
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1.0e-5,
            disable_gradient_checkpointing=True,
            output_dir="saves",
            save_strategy="no",
            logging_steps=1,
            report_to="none",
        ),
    )
    state = json.loads((project_folder / "saves" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 2
    assert all(math.isfinite(entry["loss"]) for entry in state["log_history"] if "loss" in entry)
    assert (project_folder / "saves" / "model.safetensors").is_file()


def test_the_scores_count_every_utterance_in_every_cell(evaluated, test_set):
    scores = json.loads((evaluated / "scores.json").read_text(encoding="utf-8"))
    assert scores["skipped"] == []
    assert {cell["folder"] for cell in scores["cells"]} == set(CELLS)
    for cell in scores["cells"]:
        records = read_json_lines(evaluated / cell["folder"] / "instances.log")
        assert (cell["instances"], cell["skipped"]) == (len(test_set), 0)
        assert cell["empty"] == sum(record["prediction_length"] == 0 for record in records)
        assert cell["counts"]["non_monotone"] == cell["counts"]["unit_mismatch"] == 0
        assert cell["counts"]["longer_than_window"] >= 1  # the longest prompt lasts 73 s
        for metric in ("BLEU", "chrF", "AL", "LAAL", "AP", "DAL", "ATD"):
            assert math.isfinite(cell[metric])


@pytest.mark.parametrize("cell", CELLS)
def test_a_log_has_one_delay_per_word_at_the_steps_audio_times(evaluated, test_set, cell):
    records = read_json_lines(evaluated / cell / "instances.log")
    assert [record["source"] for record in records] == [row["audios"][0] for row in test_set]
    assert [record["reference"] for record in records] == [row["messages"][1]["content"] for row in test_set]
    for record in records:
        source, delays = record["source_length"], record["delays"]
        assert source == soundfile.info(record["source"]).frames / 8
        assert len(delays) == len(record["prediction"].split()) == record["prediction_length"]
        assert delays == sorted(delays)
        times = [source] if cell == "offline" else [*range(CHUNK_MS, math.ceil(source), CHUNK_MS), source]
        assert set(delays) <= set(times)


@pytest.mark.parametrize("cell", CELLS)
def test_the_last_step_of_an_utterance_commits_everything(evaluated, test_set, cell):
    records = read_json_lines(evaluated / cell / "instances.log")
    steps = read_json_lines(evaluated / cell / "steps.jsonl")
    for index, record in enumerate(records):
        own = [step for step in steps if step["id"] == f"test-{index:08d}"]
        source = record["source_length"]
        times = [source] if cell == "offline" else [*range(CHUNK_MS, math.ceil(source), CHUNK_MS), source]
        assert [step["audio_ms"] for step in own] == times
        assert [step["finished"] for step in own] == [False] * (len(own) - 1) + [True]
        committed = [step["committed_tokens"] for step in own]
        assert committed == sorted(committed)
        assert committed[-1] == len(own[-1]["token_ids"])
        assert own[-1]["text"].split() == record["prediction"].split()
        for before, after in itertools.pairwise(own):  # what is committed never changes
            kept = before["committed_tokens"]
            assert after["token_ids"][:kept] == before["token_ids"][:kept]
