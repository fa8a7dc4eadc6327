"""The commands in the documents: every one names only what exists; those that take seconds are run as they stand.

What is added to a command or put in its place makes it quick (a tiny dataset, few cells), never right.
"""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documents import REPOSITORY, all_commands
from helpers.fakes import write_offline
from helpers.files import read_json

from simulsa_plugin.commands import augment, evaluate, live
from simulsa_plugin.commands.console import Parser
from simulsa_plugin.demo.corpus import write_demo_corpus
from simulsa_plugin.llamafactory.plugin.recipe_keys import GROUPS, adapt_recipe
from simulsa_plugin.settings import read_recipe, split_recipe

MAINS = {"simulsa-augment": augment.main, "simulsa-eval": evaluate.main, "simulsa-live": live.main}
LAUNCHER = ["torchrun", "--nproc_per_node", "8", "--no-python"]
RUN_HERE = ("docs/labels.md", "docs/evaluation.md", "docs/policies.md", "docs/quickstart.md")
# Commands that are not run here, and why; the first pattern that is found counts.
NOT_RUN = {
    r"^(python3? -m venv|\. \.venv|pip install|comet-env/bin/pip)": ".ci/run installs into a fresh environment",
    r"^(\./check|pytest|\.ci/run)": "this is CI itself",
    r"^(for|do|done|export)\b": "the shell's own words",
    r"^python tests/bench/": "benchmarks are run by hand",
    r"^python docs/generate_reference": "tests/docs/test_reference.py",
    r"^python docs/try_versions": "hours, and several GB of installations",
    r"^python docs/figures/shoot_live": "needs Chromium; tests/live/test_live_page.py",
    r"^python docs/figures/shoot_reports": "needs Chromium; tests/reports",
    r"^python docs/figures/plot_delays": "tests/docs/test_worked_example.py",
    r"^python -m simulsa_plugin\.demo\.pretrain": "a quarter of an hour; tests/demo",
    r"^python -m simulsa_plugin\.experiments": "hours; tests/experiments runs experiments of stand-ins",
    r"^simulsa-live": "serves until Ctrl-C; tests/live/test_live_command.py",
    r"^torchrun": "several processes; tests/llamafactory/test_ranks.py",
    r"^hf upload": "uploads; tests/docs/test_hub_page.py",
    r"^llamafactory-cli train recipes/demo": "minutes; the slow test at the end of this file",
    r"^llamafactory-cli train recipes/qwen": "minutes; tests/test_recipes.py",
    r"^llamafactory-cli": "minutes; tests/llamafactory/test_training.py, test_hook.py and test_labels.py",
    r"^simulstream_": "tests/agents/test_simulstream_processor.py",
    r"^simulsa-eval comet": "needs unbabel-comet; tests/evaluation/test_comet.py",
    r"^simulsa-eval report saves/": "tests/llamafactory/test_training_reports.py",
    r"--shard": "tests/augmentation/test_shards.py",
    r"^simulsa-augment (simulsa_preset=paper )?--out": "synthesises 8,000 utterances; tests/demo and tests/commands",
    r"simulsa_corpus=mustc": "needs the corpus; tests/corpora/test_mustc.py",
    r"my_corpus\.yaml": "needs a corpus; tests/commands/test_corpus_command.py",
}
NOT_RUN_DOCUMENTS = {
    "docs/object_storage.md": "needs a store; tests/storage/ runs the same on one of this machine",
    "README.md": "its commands are those of docs/quickstart.md",
    "docs/long_recordings.md": "talks take minutes; tests/evaluation/test_long_form_run.py, "
    "tests/logs/test_recordings_of_logs.py, test_convert_long_form.py, tests/comparison/test_tuned_recordings.py",
    "docs/simuleval.md": "needs SimulEval; tests/agents/test_simuleval.py",
    "docs/experiments.md": "hours; tests/experiments, tests/evaluation/test_long_form_run.py",
    "docs/iwslt.md": "tests/agents, tests/evaluation/test_long_form_run.py, tests/tuning/test_tune_recordings.py",
    "docs/cost.md": "tests/augmentation/test_dry_run.py and tests/evaluation/test_dry_run_of_evaluation.py",
    "docs/gpu_and_slurm.md": "tests/augmentation/test_shards.py and tests/llamafactory/test_ranks.py",
    "recipes/QUICKSTART.md": "tests/test_recipes.py runs the whole page",
    "recipes/experiments/robustness.md": "hours; tests/experiments/test_robustness.py",
}
REPLACED = {
    "…": "simulsa-demo",
    "saves/offline": "simulsa-demo",
    "saves/simulsa": "simulsa-demo",
    "saves/paper": "simulsa-demo",
    "simulsa_samples=400": "simulsa_samples=2",
}
FILES = yaml.safe_load((REPOSITORY / "docs" / "output_files.yaml").read_text(encoding="utf-8"))
FEW_CELLS = ["simulsa_chunks=500", "simulsa_rollbacks=3"]
# Of the output that docs/quickstart.md shows: still printed in these words.
SHOWN_OUTPUT = (
    "preset recommended: simulsa_ratio=0.1",
    "partial samples from",
    "of the reference tokens accepted)",
    "heard samples empty accepted",
    "skipped: none",
    "tokenized differently in training:",
    "of the threshold (float32):",
    "train with dataset:",
    "BLEU baseline other diff [low, high] p",
    "LAAL ms baseline other diff [low, high]",
    "BLEU at equal LAAL",
    "At fixed (k, b) the other differs by",
    "BLEU on average (significantly better in",
)
OWN_DATA = ["template=qwen2_audio", "dataset_dir=data", "eval_dataset=MY_TEST_SET"]


def page(document):
    return (REPOSITORY / document).read_text(encoding="utf-8")


def excuse(document, command):
    """Why a command is not run here; None where it is."""
    found = [reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command)]
    return found[0] if found else NOT_RUN_DOCUMENTS.get(document)


COMMANDS = [(document, words) for document, words in all_commands()]
OURS = [
    pytest.param([word for word in words if word not in LAUNCHER], id=f"{document}-{number}")
    for number, (document, words) in enumerate(COMMANDS)
    if MAINS.keys() & {*words[:5]}
]
TRAININGS = sorted({tuple(words[2:]) for _, words in COMMANDS if words[0] == "llamafactory-cli"})


class Parsed(BaseException):
    """Stops a command when its words have been parsed."""


@pytest.mark.parametrize("words", OURS)
def test_every_option_and_key_is_known(words, monkeypatch):
    for name in ("parse_args", "parse_intermixed_args"):
        original = getattr(Parser, name)

        def parse(parser, given, original=original):
            raise Parsed(original(parser, given))

        monkeypatch.setattr(Parser, name, parse)
    with pytest.raises(Parsed) as parsed:
        MAINS[words[0]](words[1:])
    typed = getattr(parsed.value.args[0], "words", [])
    keys, _ = split_recipe(read_recipe(None, [word for word in typed if "=" in word and "$" not in word]), GROUPS)
    for group in GROUPS:
        group.from_keys(keys)


@pytest.mark.parametrize("words", TRAININGS, ids=" ".join)
def test_every_key_of_a_training_is_known(words):
    adapt_recipe(read_recipe(None, words[1:]))


def test_every_file_of_the_repository_that_is_named_is_there():
    named = {word for _, words in COMMANDS for word in words if re.match(r"(recipes|tests|docs)/", word)}
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_every_command_is_run_or_says_why_not():
    unknown = [
        (document, " ".join(words))
        for document, words in COMMANDS
        if not excuse(document, " ".join(words)) and not (document in RUN_HERE and words[0] in MAINS)
    ]
    assert unknown == []
    tests = [
        name for text in [*NOT_RUN.values(), *NOT_RUN_DOCUMENTS.values()] for name in re.findall(r"tests/\S+", text)
    ]
    assert [name for name in tests if not (REPOSITORY / name.rstrip(",")).exists()] == []


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A working folder with a recipe, datasets, a policy, and a first augmentation of `demo`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_offline(tmp_path / "data", 4)
    toy = read_json(tmp_path / "data" / "dataset_info.json")["toy"]
    copies = {"NAME": "offline.jsonl", "demo": "demo.jsonl", "MY_TEST_SET": "test.jsonl", "MY_DEV_SET": "dev.jsonl"}
    for file in set(copies.values()) - {"offline.jsonl"}:
        shutil.copy(tmp_path / "data" / "offline.jsonl", tmp_path / "data" / file)
    info = {name: toy | {"file_name": file} for name, file in copies.items()}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    recipe = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio", "dataset": "NAME", "dataset_dir": "data"}
    (tmp_path / "my_recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (example,) = re.findall(r"```python\n(# my_policy\.py.*?)```", page("docs/policies.md"), re.DOTALL)
    (tmp_path / "my_policy.py").write_text(example, encoding="utf-8")
    return tmp_path


def before(words, user):
    """What a command needs that an earlier page, or the user, would have made."""
    if "--from-scores" in words and not (user / "data" / "demo_simulsa").exists():
        keys = ["model_name_or_path=simulsa-demo", "template=qwen2_audio", "dataset=demo", "dataset_dir=data"]
        assert augment.main([*keys, "simulsa_samples=3", "--out", "data"]) == 0
    if "instances.log" in words:
        shutil.copy(user / "my_results" / "rollback_k500_b3" / "instances.log", user)
    if "log.jsonl" in words:
        assert evaluate.main(["convert", "instances.log", "--to", "simulstream", "--out", "theirs"]) == 0
        for there, here in (("simulstream.jsonl", "log.jsonl"), ("segments.yaml", "segments.yaml")):
            shutil.copy(user / "theirs" / there, user / here)
        shutil.copy(user / "theirs" / "references.txt", user / "refs.txt")
    if "baseline/" in words:
        for name in ("baseline", "other"):
            shutil.copytree(user / "my_results", user / name, dirs_exist_ok=True)


def added(words):
    """What makes a command quick."""
    program, *rest = words
    if program == "simulsa-augment":
        return [] if "--from-scores" in words else ["simulsa_samples=2"]
    if rest[0] in ("score", "compare", "report", "convert", "comet") or "tuned" in rest[0] or "finalists" in rest[0]:
        return []
    own = [] if "my_recipe.yaml" in words else OWN_DATA
    if rest[0] == "tune":
        dev = [] if "my_recipe.yaml" in words else ["simulsa_dev_dataset=MY_DEV_SET"]
        return [*own, *dev, "simulsa_chunks=500,1000,2000", "simulsa_policies=rollback", "simulsa_rollbacks=0,3"]
    test = [] if any(word.startswith("eval_dataset=") for word in words) or own else ["eval_dataset=MY_TEST_SET"]
    cells = [*FEW_CELLS, *([] if any("simulsa_policies" in word for word in words) else ["simulsa_policies=rollback"])]
    return [*own, *test, *cells]


@pytest.mark.parametrize("document", RUN_HERE)
def test_the_commands_of_a_page_run_in_their_order(document, user, capsys):
    ran = []
    for one, words in COMMANDS:
        if one != document or excuse(document, " ".join(words)):
            continue
        for old, new in REPLACED.items():
            words = [f"model_name_or_path={new}" if word == f"model_name_or_path={old}" else word for word in words]
            words = [new if word == old else word for word in words]
        before(words, user)
        arguments = [*words[1:], *added(words)]
        assert MAINS[words[0]](arguments) == 0, arguments
        out = user / words[words.index("--out") + 1] if "--out" in words else None
        if out and out.is_dir() and words[1] != "convert":
            place = "simulsa-augment" if words[0] == "simulsa-augment" else f"simulsa-eval {kind(words)}"
            assert undocumented(out, FILES[f"{place} --out DIR"]) == []
        ran.append(words)
    assert len(ran) >= 4
    if document == "docs/quickstart.md":
        printed, shown = (" ".join(text.split()) for text in (capsys.readouterr().out, page(document)))
        assert [phrase for phrase in SHOWN_OUTPUT if phrase not in printed or phrase not in shown] == []


def kind(words):
    return words[1] if words[1] in ("tune", "comet") else "run"


def undocumented(folder, patterns):
    """Files that no row of the reference describes; a name that ends with / stands for all that is inside."""
    names = [name for row in patterns for name in row.split(", ")]
    globs = [re.sub(r"NAME|CELL|K-of-N", "*", name) + ("*" if name.endswith("/") else "") for name in names]
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [name for name in files if not any(fnmatch.fnmatch(name, glob) for glob in globs)]


def test_the_files_of_the_embedded_corpus_are_documented(tmp_path):
    write_demo_corpus(tmp_path, rows=2, test_rows=2)
    patterns = {**FILES["simulsa-augment --out DIR"], **FILES["simulsa-augment --out DIR, of the embedded default"]}
    assert undocumented(tmp_path, patterns) == []


@pytest.mark.slow
def test_the_demo_is_trained_and_compared_as_the_readme_types_it(user):
    shutil.copytree(REPOSITORY / "recipes", user / "recipes")
    before(["--from-scores"], user)  # the datasets demo and demo_simulsa
    steps = ["max_steps=2", "per_device_train_batch_size=2", "gradient_accumulation_steps=1"]
    typed = [
        words
        for document, words in COMMANDS
        if document == "README.md"
        and {"recipes", "saves", "results"} & parts(words)
        and not any(word.startswith("simulsa_longform") for word in words)  # talks take minutes
    ]
    assert [words[:2] for words in typed[:2]] == [["llamafactory-cli", "train"]] * 2
    paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    for words in typed:
        more = steps if words[0] == "llamafactory-cli" else [] if words[1] == "compare" else [*OWN_DATA, *FEW_CELLS]
        done = subprocess.run(
            [*words, *more], cwd=user, env=os.environ | paths, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{words}\n{done.stderr[-3000:]}"
    assert "At fixed (k, b) the other differs by" in done.stdout


def parts(words):
    """First folders of the paths among the words, those behind `key=` as well."""
    return {word.rpartition("=")[2].split("/")[0] for word in words if "experiments" not in word}
