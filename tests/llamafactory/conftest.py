"""A folder as a user has it: recipes/ and a small data/ with real WAV files; no network, no model download."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.forked_programs import run_program
from helpers.processes import environment_of_no_launcher
from offline_data import make_folder

from simulsa_plugin.audio.samples import write_wav
from simulsa_plugin.demo.corpus import OFFLINE_NAME
from simulsa_plugin.files.json_files import write_json, write_jsonl

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def repository():
    return REPOSITORY


@pytest.fixture(scope="session")
def entry():
    template = json.loads((REPOSITORY / "data_templates" / "dataset_info.json").read_text(encoding="utf-8"))
    return template["covost2_en_zh"]


@pytest.fixture
def project_folder(tmp_path, entry):
    """recipes/ and data/, named as the embedded default: 16 offline rows, and 2 in the place of augmented ones."""
    root = tmp_path / "my project"  # the space is meant
    shutil.copytree(REPOSITORY / "recipes", root / "recipes")
    clips = root / "data" / "clips"
    clips.mkdir(parents=True)
    noise = np.random.default_rng(0)
    rows = []
    for number in range(16):
        write_wav(clips / f"{number}.wav", noise.integers(-3000, 3000, 16_000).astype(np.int16))
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": "<audio>Translate into German."},
                    {"role": "assistant", "content": f"das haus {number}"},
                ],
                "audios": [str(clips / f"{number}.wav")],
            }
        )
    tables = {OFFLINE_NAME: rows, f"{OFFLINE_NAME}_simulsa": rows[:2]}
    for name, table in tables.items():
        write_jsonl(root / "data" / f"{name}.jsonl", table)
    write_json(root / "data" / "dataset_info.json", {name: {**entry, "file_name": f"{name}.jsonl"} for name in tables})
    return root


@pytest.fixture
def clean_environment(tmp_path):
    kept = environment_of_no_launcher()
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def llamafactory_cli(project_folder, clean_environment):
    """Type `llamafactory-cli …` in the project folder."""

    def run(*arguments, **environment):
        environment = clean_environment | environment
        return run_program("llamafactory-cli", *arguments, folder=project_folder, environment=environment)

    return run


@pytest.fixture(scope="package")
def renderer():
    """The packaged model's."""
    from simulsa_plugin.llamafactory.data.rendering import load_renderer
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments

    return load_renderer(inference_arguments({"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return make_folder(tmp_path, monkeypatch)
