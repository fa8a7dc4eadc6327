"""The recipes, run for real: each trains a tiny checkpoint of its own architecture on data that its own command made.

Only paths and sizes are changed. What takes more than the default suite should is marked slow.
"""

import contextlib
import functools
import importlib.util
import math
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from helpers import tiny_models
from helpers.files import read_json
from helpers.forked_programs import run_program
from helpers.processes import environment_of_no_launcher
from make_covost2 import write_covost2

from simulsa_plugin.commands import augment, evaluate
from simulsa_plugin.errors import UsageError
from simulsa_plugin.presets import PRESETS

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))
DEEPSPEED_FILES = sorted((REPOSITORY / "recipes" / "deepspeed").glob("*.json"))
QUICKSTART = REPOSITORY / "recipes" / "QUICKSTART.md"
SIZES = (
    "max_steps=2",
    "per_device_train_batch_size=2",
    "gradient_accumulation_steps=1",
    "preprocessing_num_workers=1",
    "dataloader_num_workers=0",
    "logging_steps=1",
)
# Between two processes DeepSpeed would compile an exchange of its own, for a minute and more; without a compiler it
# takes gloo. CPU Adam has no such way out.
NO_COMPILER = {"CXX": "no-compiler"}
TINY = {
    "Qwen/Qwen2-Audio-7B": "qwen2_audio",
    "Qwen/Qwen2.5-Omni-7B": "qwen2_omni",
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": "qwen3_omni_nothink",
    "google/gemma-3n-E4B-it": "gemma3n",
    "google/gemma-4-E4B-it": "gemma4n",
}
WHOLE = ("model.safetensors", "config.json")
ADAPTER = ("adapter_model.safetensors", "adapter_config.json")


def read_recipe(name):
    return yaml.safe_load((REPOSITORY / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))


def trains_a_released_model(path):
    recipe = read_recipe(path.stem)
    return bool(recipe.get("do_train")) and recipe["model_name_or_path"] in TINY


RELEASED = [path.stem for path in RECIPES if trains_a_released_model(path)]


class Workshop:
    """A folder as a user has it: recipes/, a corpus, and what the commands make of them, each once."""

    def __init__(self, root):
        self.root = root
        shutil.copytree(REPOSITORY / "recipes", root / "recipes")
        self.corpus = root / "cv4" / "en"
        write_covost2(self.corpus, rows=8, test_rows=3, target="zh-CN")
        kept = environment_of_no_launcher()
        self.environment = {
            **kept,
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "HF_DATASETS_CACHE": str(root / "cache"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        # Each of these is done once, whatever asks for it.
        self.checkpoint = functools.cache(self._checkpoint)
        self.augmented = functools.cache(self._augmented)
        self.trained = functools.cache(self._trained)

    def _checkpoint(self, template):
        missing = tiny_models.missing_package(template)
        if missing:
            pytest.skip(f"{template} needs {missing}, which is not installed")
        return tiny_models.write_checkpoint(template, self.root / "tiny" / template)

    def _augmented(self, command, model):
        """Type a recipe's own `simulsa_made_by`, with the corpus's folder in the place of «…»."""
        program, *words = [word.replace("…", str(self.corpus)) for word in shlex.split(command)]
        assert program == "simulsa-augment"
        with self.inside():
            assert augment.main([*words, f"model_name_or_path={model}", "simulsa_samples=4"]) == 0

    def _trained(self, name, ranks=1, keys=(), environment=()):
        """Two steps of a recipe; returns (output folder, the finished process)."""
        recipe = read_recipe(name)
        model = self.checkpoint(TINY[recipe["model_name_or_path"]])
        self.augmented(recipe["simulsa_made_by"], model)
        out = dict(key.split("=") for key in keys).get("output_dir", recipe["output_dir"])
        command = ["llamafactory-cli", "train", f"recipes/{name}.yaml", f"model_name_or_path={model}", *SIZES, *keys]
        done = self.run(command, {"NPROC_PER_NODE": str(ranks), **dict(environment)})
        return self.root / out, done

    def run(self, command, more=None):
        return run_program(*command, folder=self.root, environment=self.environment | (more or {}))

    @contextlib.contextmanager
    def inside(self):
        """What runs in this process runs in the folder."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.root)
            patch.setenv("HF_DATASETS_CACHE", str(self.root / "cache"))
            yield


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("user") / "my project")  # the space is meant


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_llamafactory_and_the_plugin_know_every_key(path, monkeypatch, tmp_path):
    from llamafactory.hparams.parser import _parse_infer_args, _parse_train_args

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    recipe = read_recipe(path.stem)
    parse = _parse_train_args if recipe.get("do_train") else _parse_infer_args
    recipe.pop("deepspeed", None)  # parsing it would leave ZeRO-3 switched on in this process
    parse(dict(recipe))
    for typo in ({"lora_rnak": 8}, {"simulsa_rolbacks": 3}):
        with pytest.raises((UsageError, ValueError)):
            parse(recipe | typo)


@pytest.mark.parametrize("path", [*RECIPES, QUICKSTART], ids=lambda path: path.stem)
def test_every_file_that_is_named_is_there(path):
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:recipes|tests)/[\w./-]+\.(?:yaml|json|md|py)\b", text))
    missing = [name for name in named if not (REPOSITORY / name).is_file()]
    assert missing == []
    assert all((path.parent / link).is_file() for link in re.findall(r"\]\((\.\./[^)#]+)", text))


@pytest.mark.parametrize("path", DEEPSPEED_FILES, ids=lambda path: path.stem)
def test_deepspeed_takes_the_file(path):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = read_json(path)
    chosen = {key: value for key, value in config["zero_optimization"].items() if value != "auto"}
    zero = DeepSpeedZeroConfig(**chosen)  # refuses keys that it does not know
    assert zero.stage == int(path.stem[1])
    offloaded = {name for name in ("offload_optimizer", "offload_param") if getattr(zero, name) is not None}
    expected = {"offload_optimizer", "offload_param"} if zero.stage == 3 else {"offload_optimizer"}
    assert offloaded == (expected if "offload" in path.stem else set())
    # What transformers fills in, so that the recipe and the file cannot contradict each other.
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        assert config[key] == "auto"


@pytest.mark.parametrize("name", RELEASED)
def test_the_head_of_a_recipe_types_the_command_that_makes_its_data(name):
    head = (REPOSITORY / "recipes" / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0]
    commands = re.sub(r" \\\n#\s+", " ", head)
    recipe = read_recipe(name)
    assert f"\n#     {recipe['simulsa_made_by']}\n" in commands
    assert f"\n#     llamafactory-cli train recipes/{name}.yaml\n" in commands
    assert recipe["simulsa_made_by"].split()[-1].rstrip("/") == recipe["dataset_dir"]


def test_the_baseline_differs_in_the_data_alone():
    simulsa, offline = read_recipe("qwen2audio_simulsa"), read_recipe("qwen2audio_offline")
    differing = {key for key in simulsa.keys() | offline.keys() if simulsa.get(key) != offline.get(key)}
    assert differing == {"dataset", "output_dir"}
    assert simulsa["max_steps"] == 2 * math.ceil(235_341 / 128)  # the paper's two epochs of its rows, in batches of 128


@pytest.mark.parametrize("name", RELEASED)
def test_the_batch_is_the_papers(name):
    recipe = read_recipe(name)
    gpus = 8 if recipe.get("deepspeed", "").endswith("z3.json") else 1
    assert recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"] * gpus == 128


def test_the_memory_that_recipes_name_is_counted():
    spec = importlib.util.spec_from_file_location("memory_needs", REPOSITORY / "tests" / "bench" / "memory_needs.py")
    memory_needs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(memory_needs)
    needed = {}
    for model in TINY:
        built = memory_needs.quietly(memory_needs.build, model)
        needed[model] = f"{2 * sum(weight.numel() for weight in built.parameters()) / memory_needs.GB:.1f} GB"
    for name in {*RELEASED, "eval_covost2_en_zh"} - {"qwen2audio_full_z3"}:  # that one names DeepSpeed's own estimate
        text = (REPOSITORY / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        assert needed[read_recipe(name)["model_name_or_path"]] in text, name


def check_two_steps(out, done, files):
    assert done.returncode == 0, done.stderr[-4000:]
    assert "simulsa_plugin: version" in done.stderr
    state = read_json(out / "trainer_state.json")
    losses = [step["loss"] for step in state["log_history"] if "loss" in step]
    assert (state["global_step"], len(losses)) == (2, 2)
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert {*files} <= {path.name for path in out.iterdir()}
    return losses


@pytest.mark.parametrize(
    "name",
    [
        "qwen2audio_simulsa",
        "qwen2audio_offline",
        "qwen2audio_recommended",
        "qwen2_5_omni_simulsa",
        "qwen3_omni_simulsa",
        "gemma3n_simulsa",
        "gemma4_simulsa",
    ],
)
def test_a_recipe_trains_an_adapter(workshop, name):
    out, done = workshop.trained(name)
    check_two_steps(out, done, ADAPTER)
    adapter = read_json(out / "adapter_config.json")
    assert (adapter["r"], adapter["lora_alpha"]) == (8, 32)


def test_full_fine_tuning_shares_its_weights_between_two_ranks(workshop):
    out, done = workshop.trained("qwen2audio_full_z3", ranks=2, environment=tuple(NO_COMPILER.items()))
    check_two_steps(out, done, WHOLE)
    assert "world size: 2" in done.stderr + done.stdout


def test_qlora_trains_an_adapter_on_four_bits(workshop):
    pytest.importorskip("bitsandbytes", reason="QLoRA needs it: pip install bitsandbytes")
    out, done = workshop.trained("qwen2audio_qlora_24gb")
    check_two_steps(out, done, ADAPTER)
    assert "Quantizing model to 4 bit with bitsandbytes" in done.stderr + done.stdout


@pytest.mark.slow  # two ranks each; the offloaded ones compile DeepSpeed's CPU Adam the first time, for minutes
@pytest.mark.parametrize(
    ("zero", "environment"), [("z2", NO_COMPILER), ("z3", NO_COMPILER), ("z2_offload", {}), ("z3_offload", {})]
)
def test_every_deepspeed_file_trains_the_same_on_two_ranks(workshop, zero, environment):
    if not environment and shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("DeepSpeed's CPU Adam has to be compiled, and there is no C++ compiler")
    losses = {}
    for kept, more in (("z2", NO_COMPILER), (zero, environment)):
        keys = (f"deepspeed=recipes/deepspeed/{kept}.json", f"output_dir=saves/{kept}")
        out, done = workshop.trained("qwen2audio_simulsa", 2, keys, tuple(more.items()))
        losses[kept] = check_two_steps(out, done, ADAPTER)
    assert losses[zero] == pytest.approx(losses["z2"], abs=1e-3)


@pytest.mark.slow
def test_full_fine_tuning_runs_offloaded(workshop):
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("DeepSpeed's CPU Adam has to be compiled, and there is no C++ compiler")
    keys = ("deepspeed=recipes/deepspeed/z3_offload.json", "output_dir=saves/full_offload")
    check_two_steps(*workshop.trained("qwen2audio_full_z3", 2, keys), WHOLE)


@pytest.mark.parametrize("name", ["qwen2_5_omni_simulsa", "qwen3_omni_simulsa", "gemma3n_simulsa", "gemma4_simulsa"])
def test_one_recipe_serves_evaluation_as_well(workshop, name):
    recipe = read_recipe(name)
    out, _ = workshop.trained(name)
    scores = evaluated(workshop, name, [f"adapter_name_or_path={out}", "simulsa_chunks=2000", "simulsa_rollbacks=3"])
    assert [cell["policy"] for cell in scores["cells"]] == ["offline", "rollback"]
    assert scores["dataset"] == f"covost2_en_{recipe['simulsa_target_language']}_test"


def test_the_recommended_recipe_takes_its_preset_from_augmentation_to_evaluation(workshop):
    out, _ = workshop.trained("qwen2audio_recommended")
    recipe = read_recipe("qwen2audio_recommended")
    preset = PRESETS[recipe["simulsa_preset"]]
    manifest = read_json(workshop.root / recipe["dataset_dir"] / "covost2_en_zh_simulsa" / "manifest.json")
    assert manifest["settings"]["simulsa_ratio"] == preset["simulsa_ratio"] == 0.1
    scores = evaluated(workshop, "qwen2audio_recommended", [f"adapter_name_or_path={out}", "simulsa_chunks=2000"])
    thresholds = [
        cell["parameters"].get("confidence_threshold") for cell in scores["cells"] if cell["policy"] == "confidence"
    ]
    assert thresholds == [*preset["simulsa_confidence_threshold"]]


def test_the_recommended_recipe_differs_from_the_papers_in_data_and_cells_alone():
    paper, recommended = read_recipe("qwen2audio_simulsa"), read_recipe("qwen2audio_recommended")
    differing = {key for key in paper.keys() | recommended.keys() if paper.get(key) != recommended.get(key)}
    corpus = {"simulsa_corpus", "simulsa_source_language", "simulsa_target_language", "simulsa_prompt", "simulsa_seed"}
    assert differing == {"dataset_dir", "output_dir", "simulsa_made_by", "simulsa_preset"} | corpus
    augmented = read_recipe("augment_covost2_en_zh")
    assert {key: recommended[key] for key in corpus} == {key: augmented[key] for key in corpus}


def test_the_evaluation_has_the_papers_cells(workshop):
    workshop.trained("qwen2audio_simulsa")  # the recipe looks for its adapter where that recipe writes it
    scores = evaluated(workshop, "eval_covost2_en_zh")
    cells = [(cell["chunk_ms"], cell["rollback"]) for cell in scores["cells"] if cell["policy"] == "rollback"]
    assert cells == [(k, b) for k in (500, 1000, 1500, 2000) for b in (0, 3, 5)]
    assert [cell["instances"] for cell in scores["cells"]] == [3] * 13
    assert "tok:zh" in scores["signatures"]["BLEU"]
    base = evaluated(workshop, "eval_covost2_en_zh", ["adapter_name_or_path=null"])
    assert base["model"] != scores["model"]


def evaluated(workshop, name, keys=()):
    model = workshop.checkpoint(TINY[read_recipe(name)["model_name_or_path"]])
    out = workshop.root / "results" / name / str(len(keys))  # a folder for every set of keys
    with workshop.inside():
        assert (
            evaluate.main(
                [
                    f"recipes/{name}.yaml",
                    f"model_name_or_path={model}",
                    "simulsa_max_new_tokens=8",
                    f"simulsa_corpus_dir={workshop.corpus}",
                    *keys,
                    "--out",
                    str(out),
                ]
            )
            == 0
        )
    return read_json(out / "scores.json")


def test_the_baselines_that_the_evaluation_names_run(workshop):
    lines = (REPOSITORY / "recipes" / "eval_covost2_en_zh.yaml").read_text(encoding="utf-8").splitlines()
    keys = [line.removeprefix("# ").replace(": ", "=") for line in lines if re.match("# simulsa_[a-z_]+: ", line)]
    assert len(keys) == 5
    scores = evaluated(workshop, "eval_covost2_en_zh", [*keys, "adapter_name_or_path=null", "simulsa_chunks=1000"])
    found = [(cell["policy"], cell["rollback"]) for cell in scores["cells"]]
    rollbacks = [("rollback", rollback) for rollback in (0, 3, 5, 8, 12)]
    assert found == [("offline", None), *rollbacks, *[("confidence", 0)] * 6, *[("attention", None)] * 3]


def commands_of_the_quickstart():
    """(every command of its bash blocks, {how a command begins: what a rehearsal adds to it})."""
    text = QUICKSTART.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(bash|text)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    commands = [line for kind, block in blocks if kind == "bash" for line in block.splitlines() if line.strip()]
    (overrides,) = [block for kind, block in blocks if kind == "text"]
    return commands, dict(re.split(r"\s{2,}", line, maxsplit=1) for line in overrides.splitlines())


def test_the_quickstart_covers_every_step_and_says_what_a_rehearsal_changes():
    commands, overrides = commands_of_the_quickstart()
    assert commands[0].startswith("export COVOST2=")
    unchanged = [command for command in commands if not any(command.startswith(start) for start in overrides)]
    assert [command.split()[:2] for command in unchanged[1:]] == [["simulsa-eval", "compare"]] * 3
    assert len(commands) == 14


@pytest.mark.slow
def test_the_quickstart_runs_from_the_corpus_to_the_comparison(tmp_path):
    user = Workshop(tmp_path / "my project")
    commands, overrides = commands_of_the_quickstart()
    for command in commands[1:]:
        added = next((more for start, more in overrides.items() if command.startswith(start)), "")
        done = user.run(["bash", "-c", f"{command} {added}"], {"COVOST2": str(user.corpus)})
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    for system in ("base", "offline", "simulsa"):
        assert len(read_json(user.root / "results" / system / "scores.json")["cells"]) == 13
    assert read_json(user.root / "results" / "offline_simulsa.json")
    assert read_json(user.root / "results" / "recommended.json")
