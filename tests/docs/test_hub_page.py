"""The uploads of docs/hub.md, which no test makes: their options exist, and they take no file with a path in it."""

import argparse
import subprocess

import pytest
from documents import all_commands
from helpers.fakes import ByteModel, make_dataset
from huggingface_hub.utils import filter_repo_objects

from simulsa_plugin.api.dataset_card import write_card_of
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset

UPLOADS = [words for _, words in all_commands() if words[:2] == ["hf", "upload"]]
DATASET_UPLOADS = [words for words in UPLOADS if "dataset" in words]


def test_the_options_are_those_of_hf():
    told = subprocess.run(["hf", "upload", "--help"], capture_output=True, text=True, check=True).stdout
    assert UPLOADS
    for words in UPLOADS:
        assert [word for word in words if word.startswith("--") and word not in told] == []


@pytest.mark.parametrize("words", DATASET_UPLOADS, ids=" ".join)
def test_an_uploaded_dataset_is_whole_and_names_no_path_of_this_machine(words, tmp_path):
    out = tmp_path / "data"
    augment_dataset(make_dataset(tmp_path / "offline", name="demo"), ByteModel(), AugmentSettings(samples=3), out)
    write_card_of(out)
    parser = argparse.ArgumentParser()
    parser.add_argument("--include", action="append")
    patterns = parser.parse_known_args(words[2:])[0].include
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    taken = set(filter_repo_objects(files, allow_patterns=patterns))
    clips = {name for name in files if name.endswith(".wav")}
    assert taken == {"README.md", "demo_simulsa/metadata.jsonl", *clips} and len(clips) == 3
    assert not any(str(tmp_path).encode() in (out / name).read_bytes() for name in taken)
