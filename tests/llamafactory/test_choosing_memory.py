"""What is resident while rows are chosen: no library beyond LLaMA-Factory's own, and few pages of the mapped rows."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.memory import resident_kb
from offline_data import ASK, SHAREGPT, load, make_folder, register, turns, write_rows

LIST_MODULES = "\nimport sys\nprint(*sorted(sys.modules))"
IMPORT_LLAMAFACTORY = """
import llamafactory.hparams, llamafactory.data, llamafactory.model, llamafactory.data.loader
from transformers import AutoModelForCausalLM, Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor"""
# What `datasets` imports once it has a file to read, and `soundfile` and `soxr` once there is audio.
READERS = {"scipy.io", "soundfile", "_soundfile", "_soundfile_data", "soxr"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return make_folder(tmp_path, monkeypatch)


def packages(modules):
    """The first name of each module; of SciPy, whose parts are large, the first two."""
    return {".".join(name.split(".")[: 1 + name.startswith("scipy.")]) for name in modules}


def modules_after(code):
    result = subprocess.run([sys.executable, "-c", code + LIST_MODULES], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


def test_choosing_imports_no_library_that_llamafactory_does_without(folder):
    rows = [{"messages": turns(ASK, "Ein Satz."), "audios": [str(folder / "wav" / "0.wav")]}] * 20
    write_rows(folder / "a.jsonl", rows)
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    words = [
        "model_name_or_path=simulsa-demo", "template=qwen2_audio", "dataset=a", f"dataset_dir={folder}",
        "--out", str(folder / "out"), "--dry-run",
    ]  # fmt: skip
    chosen = modules_after(f"from simulsa_plugin.commands.augment import main\nassert main({words!r}) == 0")
    assert "torch" in chosen and "simulsa_plugin.augmentation.clips" in chosen
    own = {"simulsa_plugin"} | set(sys.stdlib_module_names)
    assert packages(chosen) - packages(modules_after(IMPORT_LLAMAFACTORY)) - own <= READERS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_of_rows_that_were_read_few_pages_stay_in_memory(folder):
    count, text = 10_000, "Satz " * 2000
    rows = [
        {"messages": turns(ASK, f"{row} {text}"), "audios": [str(folder / "wav" / "0.wav")]} for row in range(count)
    ]
    write_rows(folder / "a.jsonl", rows)
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    (mapped,) = [one["filename"] for one in dataset.rows._rows.cache_files]
    assert Path(mapped).stat().st_size > 100e6
    assert resident_kb(mapped) < 32e3  # a read brings up to 2 MB into memory, as the kernel groups pages
    largest = 0
    for number, row in enumerate(random.Random(1).sample(range(count), 2000)):
        assert dataset.sample(row).reference.startswith(f"{row} ")
        if number % 50 == 0:
            largest = max(largest, resident_kb(mapped))
    assert largest < 32e3
