"""`llamafactory-cli` typed as the documents type it, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulsa_plugin.demo.checkpoint import checkpoint_path
from simulsa_plugin.demo.corpus import OFFLINE_NAME

OWN_LINE = "simulsa_plugin: "


def own_lines(result):
    return [line.removeprefix(OWN_LINE) for line in result.stderr.splitlines() if line.startswith(OWN_LINE)]


def test_the_papers_recipe_trains_two_steps_under_deepspeed(llamafactory_cli, project_folder):
    result = llamafactory_cli(
        "train",
        "recipes/qwen2audio_simulsa.yaml",
        "model_name_or_path=simulsa-demo",
        f"dataset={OFFLINE_NAME},{OFFLINE_NAME}_simulsa",
        "dataset_dir=data",
        "max_steps=2",
        "per_device_train_batch_size=2",
        "gradient_accumulation_steps=1",
        "preprocessing_num_workers=1",
        "dataloader_num_workers=0",
        CUDA_VISIBLE_DEVICES="",
    )
    assert result.returncode == 0, result.stderr[-4000:]
    active, torchrun, bf16, data = own_lines(result)
    assert "is active" in active
    assert "FORCE_TORCHRUN=1 NPROC_PER_NODE=1 DS_ACCELERATOR=cpu" in torchrun
    assert "bf16" in bf16
    assert data == f"training data: 16 rows of {OFFLINE_NAME} and 2 of {OFFLINE_NAME}_simulsa (12.5 %)."
    saved = project_folder / "saves" / "qwen2audio_simulsa"
    assert json.loads((saved / "trainer_state.json").read_text())["global_step"] == 2
    adapter = json.loads((saved / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (8, 32)
    assert adapter["base_model_name_or_path"] == str(checkpoint_path())
    assert (saved / "tokenizer.json").is_file()
    assert (saved / "processor_config.json").is_file()


def test_the_demo_recipe_saves_a_whole_model(llamafactory_cli, project_folder):
    result = llamafactory_cli("train", "recipes/demo_simulsa.yaml", "max_steps=1", "per_device_train_batch_size=2")
    assert result.returncode == 0, result.stderr[-4000:]
    saved = {path.name for path in (project_folder / "saves" / "simulsa").iterdir()}
    whole = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "processor_config.json"}
    assert whole <= saved


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("recipes/demo_simulsa.yaml", "dataset_dir=elsewhere"),
            "elsewhere/dataset_info.json does not exist. Set dataset_dir, which is elsewhere, to the folder of the "
            "data; `simulsa-augment --out data/` would make it in data/.",
        ),
        (
            ("recipes/qwen2audio_simulsa.yaml",),
            "data/covost2_en_zh_simulsa/dataset_info.json does not exist. Make the data with: simulsa-augment "
            "recipes/augment_covost2_en_zh.yaml simulsa_corpus_dir=… --out data/covost2_en_zh_simulsa/",
        ),
        (("recipes/demo_simulsa.yaml", "simulsa_ratoi=0.05"), "Unknown key simulsa_ratoi: did you mean simulsa_ratio?"),
    ],
    ids=["demo data", "paper's data", "unknown key"],
)
def test_a_mistake_is_one_line_and_exit_code_1(llamafactory_cli, arguments, expected):
    result = llamafactory_cli("train", *arguments)
    assert result.returncode == 1
    assert own_lines(result)[1:] == [expected]
    assert "Traceback" not in result.stdout + result.stderr


def test_the_web_uis_training_finds_the_plugin_as_well(project_folder, clean_environment):
    # The web UI writes a recipe and starts `llamafactory-cli train` with this environment (webui/runner.py).
    log = project_folder / "saves" / "web"
    keys = ["max_steps=1", "per_device_train_batch_size=2", f"output_dir={log}", "dataloader_num_workers=0"]
    result = subprocess.run(  # a process from its very start, as a user's is; those of the other tests are forked
        [Path(sys.executable).parent / "llamafactory-cli", "train", "recipes/demo_simulsa.yaml", *keys],
        env=clean_environment | {"LLAMABOARD_ENABLED": "1", "LLAMABOARD_WORKDIR": str(log)},
        cwd=project_folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert "is active" in own_lines(result)[0]
    assert (log / "running_log.txt").is_file()  # what the web UI reads


def test_what_max_samples_leaves_of_the_share_is_said_at_the_start(llamafactory_cli):
    result = llamafactory_cli(
        "train",
        "recipes/demo_simulsa.yaml",
        "max_steps=1",
        "per_device_train_batch_size=2",
        "max_samples=2",
        "preprocessing_num_workers=1",
    )
    assert result.returncode == 0, result.stderr[-4000:]
    name = OFFLINE_NAME
    assert own_lines(result)[-2:] == [
        f"training data: 2 rows of {name} and 2 of {name}_simulsa (100 %).",
        f"WARNING: max_samples: 2: training gets 2 of 16 rows of {name} and 2 of 2 rows of {name}_simulsa: 100 % as "
        "many partial samples as offline rows, not 12.5 %. Leave max_samples out; to train on less, augment a smaller "
        "dataset.",
    ]


@pytest.mark.parametrize("packing", ["false", "true"])
def test_a_cutoff_inside_the_audio_stops_before_the_training(llamafactory_cli, packing):
    result = llamafactory_cli(
        "train",
        "recipes/demo_simulsa.yaml",
        "max_steps=1",
        "cutoff_len=12",
        f"packing={packing}",
        "preprocessing_num_workers=1",
    )
    assert result.returncode == 1
    assert "cuts audio tokens off 18 of the 18 rows tokenized together" in result.stderr
    assert "set cutoff_len to that or more" in result.stderr
