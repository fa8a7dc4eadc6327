"""What is decided before training starts: torchrun or not, and whether the data is there."""

import shutil
import subprocess
import sys

import pytest
import yaml

from simulsa_plugin.demo.corpus import OFFLINE_NAME
from simulsa_plugin.errors import DatasetError, UsageError
from simulsa_plugin.llamafactory.plugin import launching

DEEPSPEED = {"deepspeed": "recipes/deepspeed/z2.json"}
ON_CPU = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "1", "DS_ACCELERATOR": "cpu"}


@pytest.mark.parametrize(
    ("recipe", "environ", "devices", "expected"),
    [
        (DEEPSPEED, {}, 0, ON_CPU),
        (DEEPSPEED, {}, 1, {"FORCE_TORCHRUN": "1"}),
        (DEEPSPEED, {}, 8, {"FORCE_TORCHRUN": "1"}),
        (DEEPSPEED, {"NPROC_PER_NODE": "2"}, 0, {"FORCE_TORCHRUN": "1", "DS_ACCELERATOR": "cpu"}),
        (DEEPSPEED, {"FORCE_TORCHRUN": "1"}, 1, {}),
        (DEEPSPEED, {"RANK": "0", "LOCAL_RANK": "0"}, 1, {}),
        (DEEPSPEED, {"USE_RAY": "1"}, 1, {}),
        ({"deepspeed": None}, {}, 0, {}),
        ({}, {}, 0, {}),
    ],
    ids=[
        "cpu",
        "one gpu",
        "eight gpus",
        "two cpu ranks",
        "asked for",
        "inside torchrun",
        "ray",
        "switched off",
        "none",
    ],
)
def test_deepspeed_gets_torchrun(recipe, environ, devices, expected):
    assert launching.torchrun_environment(recipe, environ, devices) == expected


def test_a_deepspeed_file_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"recipes/deepspeed/z2\.json does not exist below"):
        launching._request_torchrun(DEEPSPEED)


def test_paths_with_spaces_reach_torchrun_whole():
    script, arguments = "/a b/launcher.py", ["my recipes/x.yaml", "seed=1"]
    text = f"torchrun --nnodes 1 --master_port 7 {script} {' '.join(arguments)}"  # as the launcher builds it
    assert launching.torchrun_command(text.split(), [script, *arguments]) == [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "1",
        "--master_port",
        "7",
        script,
        *arguments,
    ]


def test_other_commands_are_run_as_they_are():
    assert launching.torchrun_command(["ls", "-l"], ["x.py"]) == ["ls", "-l"]
    assert launching.TorchrunSubprocess(subprocess, "x.py").PIPE == subprocess.PIPE


def test_a_recipe_is_read_as_llamafactory_reads_it(tmp_path):
    (tmp_path / "x.yaml").write_text("learning_rate: 1.0e-4\nseed: 1\n", encoding="utf-8")
    assert launching.read_arguments([str(tmp_path / "x.yaml"), "seed=2"]) == {"learning_rate": 1e-4, "seed": 2}
    assert launching.read_arguments(["--deepspeed", "z2.json"]) == {"deepspeed": "z2.json"}


@pytest.mark.parametrize("text", ["a: [", "- a list\n- and no mapping\n"])
def test_a_recipe_that_is_none_is_one_line(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"Cannot read the recipe .*x\.yaml") as caught:
        launching.read_arguments([str(path)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"dataset": "demo,demo_simulsa"}, "The recipe has no dataset_dir, so LLaMA-Factory looks in `data`"),
        ({"dataset": ["demo", "demo_simulsa"]}, "has no dataset demo. The recipe has no dataset_dir"),
        ({"dataset": "demo", "simulsa_ratio": 0.01}, "Add dataset_dir=DIR, the --out folder of simulsa-augment"),
        ({"dataset": "demo", "simulsa_ratio": 0.01, "dataset_dir": "data"}, "Set dataset_dir to the --out folder"),
        ({"dataset": "text,demo_simulsa"}, "has no dataset demo_simulsa"),
        ({"dataset": "broken,demo_simulsa", "dataset_dir": "list"}, "holds a list instead of an object"),
    ],
)
def test_a_forgotten_folder_is_one_line_where_the_recipe_is_about_our_data(tmp_path, monkeypatch, recipe, said):
    monkeypatch.chdir(tmp_path)
    for folder, text in (("data", '{"text": {"hf_hub_url": "a/b"}}'), ("list", "[]")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "dataset_info.json").write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=said) as caught:
        launching.check_data(recipe)
    assert "\n" not in str(caught.value)
    launching.check_data({"dataset": "demo"})  # of LLaMA-Factory alone: it has its own message


def test_complete_data_is_no_problem(project_folder):
    recipe = {"dataset_dir": str(project_folder / "data"), "dataset": f"{OFFLINE_NAME}, {OFFLINE_NAME}_simulsa"}
    assert launching.missing_data(recipe) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: shutil.rmtree(data), "dataset_info.json does not exist"),
        (lambda data: (data / "dataset_info.json").write_text("{}"), f"has no dataset {OFFLINE_NAME}"),
        (lambda data: (data / f"{OFFLINE_NAME}_simulsa.jsonl").unlink(), f"{OFFLINE_NAME}_simulsa.jsonl"),
    ],
    ids=["no folder", "no entry", "no file"],
)
def test_missing_data_names_the_command_that_makes_it(project_folder, monkeypatch, change, expected):
    monkeypatch.chdir(project_folder)
    recipe = {
        "dataset_dir": str(project_folder / "data"),
        "dataset": f"{OFFLINE_NAME},{OFFLINE_NAME}_simulsa",
        "simulsa_made_by": "simulsa-augment --out data/",
    }
    change(project_folder / "data")
    with pytest.raises(DatasetError, match=expected) as caught:
        launching.check_data(recipe)
    assert str(caught.value).endswith("Make the data with: simulsa-augment --out data/")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"dataset": f"{OFFLINE_NAME},{OFFLINE_NAME}_simulsaa"},
            f" has no dataset {OFFLINE_NAME}_simulsaa (did you mean {OFFLINE_NAME}_simulsa?). "
            "Make the data with: simulsa-augment --out data/",
        ),
        (
            {"dataset_dir": "elsewhere"},
            "elsewhere/dataset_info.json does not exist. Set dataset_dir, which is elsewhere, to the folder of the "
            "data; `simulsa-augment --out data/` would make it in data/.",
        ),
        (  # without its partial samples the offline set is no misspelling of them
            {"dataset": "covost2_en_zh_simulsa", "dataset_dir": "other", "simulsa_made_by": "make --out 'other'"},
            "has no dataset covost2_en_zh_simulsa. Make the data with: make --out 'other'",
        ),
    ],
    ids=["misspelt", "another folder", "not made yet"],
)
def test_no_command_is_claimed_to_make_what_is_misspelt_or_elsewhere(project_folder, monkeypatch, keys, said):
    monkeypatch.chdir(project_folder)
    (project_folder / "other").mkdir()
    (project_folder / "other" / "dataset_info.json").write_text('{"covost2_en_zh": {}}', encoding="utf-8")
    recipe = {"dataset_dir": "data", "dataset": OFFLINE_NAME, "simulsa_made_by": "simulsa-augment --out data/"}
    with pytest.raises(DatasetError) as caught:
        launching.check_data(recipe | keys)
    assert str(caught.value).endswith(said)


def test_a_recipe_that_names_no_command_is_left_to_llamafactory(tmp_path):
    launching.check_data({"dataset_dir": str(tmp_path), "dataset": "somebody_elses"})


@pytest.mark.parametrize("folder", ["ONLINE", "REMOTE:someone/data"])
def test_data_on_a_hub_is_not_looked_for(folder):
    assert launching.missing_data({"dataset_dir": folder, "dataset": "x"}) is None


@pytest.mark.parametrize(
    ("processes", "compiler", "built"), [("1", "c++", False), ("2", None, False), ("2", "c++", True)]
)
def test_deepspeed_compiles_only_where_it_can_and_helps(monkeypatch, processes, compiler, built):
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setattr(launching.shutil, "which", lambda name: compiler)
    assert launching.skip_unneeded_compilation(lambda: "compiled")() == ("compiled" if built else None)


@pytest.fixture
def read_recipe(repository):
    return lambda name: yaml.safe_load((repository / "recipes" / name).read_text(encoding="utf-8"))


def test_the_demo_recipes_differ_in_the_data_alone(read_recipe):
    simulsa, offline = read_recipe("demo_simulsa.yaml"), read_recipe("demo_offline.yaml")
    differing = {key for key in simulsa.keys() | offline.keys() if simulsa.get(key) != offline.get(key)}
    assert differing == {"dataset", "output_dir"}
    assert (offline["dataset"], simulsa["dataset"]) == (OFFLINE_NAME, f"{OFFLINE_NAME},{OFFLINE_NAME}_simulsa")


def test_the_papers_batch_is_128_on_one_gpu(read_recipe):
    recipe = read_recipe("qwen2audio_simulsa.yaml")
    assert recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"] == 128


def test_the_training_recipe_reads_what_its_command_writes(read_recipe, repository):
    recipe = read_recipe("qwen2audio_simulsa.yaml")
    command, augmentation = recipe["simulsa_made_by"].split(), read_recipe("augment_covost2_en_zh.yaml")
    assert (repository / command[1]).is_file()
    assert command[-1].rstrip("/") == recipe["dataset_dir"]
    assert recipe["dataset"] == f"{augmentation['dataset']},{augmentation['dataset']}_simulsa"
    assert recipe["model_name_or_path"] == augmentation["model_name_or_path"]
