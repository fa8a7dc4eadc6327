"""References in LLaMA-Factory's datasets: rows are read as usual, and a training hears what they name."""

import json
import logging

import fsspec
import numpy as np
import pytest
import soundfile
import torch
from helpers.fakes import write_noise

from simulsa_plugin.errors import MissingExtraError
from simulsa_plugin.files import remote
from simulsa_plugin.llamafactory.data.dataset import load_datasets
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.model.values import Sample


@pytest.fixture
def dataset(store, tmp_path, monkeypatch):
    """Two rows with audio in the store."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = []
    for number in range(2):
        write_noise(tmp_path / "noise.wav", 1.0, seed=number)
        store.put(f"{number}.wav", (tmp_path / "noise.wav").read_bytes())
        turns = [{"role": "user", "content": "<audio>Translate."}, {"role": "assistant", "content": "Hallo"}]
        rows.append({"messages": turns, "audios": [f"s3://corpus/{number}.wav"]})
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "audios": "audios"}
    entry = {"file_name": "a.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"a": entry}), encoding="utf-8")
    return load(tmp_path)


def load(folder):
    recipe = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio", "dataset_dir": str(folder)}
    return load_datasets(inference_arguments(recipe), ["a"])[0]


def test_a_missing_package_is_named_before_the_model_is_loaded(dataset, tmp_path, monkeypatch):
    filesystem = fsspec.filesystem  # `datasets` reads local files by it

    def missing(scheme, *arguments, **options):
        if scheme == "s3":
            raise ImportError("Install s3fs to access S3")
        return filesystem(scheme, *arguments, **options)

    remote.forget()
    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(MissingExtraError, match=r"s3:// needs the package s3fs"):
        load(tmp_path)


def test_a_row_keeps_its_reference_and_nothing_calls_it_a_missing_file(dataset, store, caplog):
    with caplog.at_level(logging.WARNING):
        found = [dataset.sample(row) for row in range(2)]
    assert [type(row) for row in found] == [Sample, Sample]
    assert [row.audio for row in found] == ["s3://corpus/0.wav", "s3://corpus/1.wav"]
    assert not dataset.has_relative_audio()
    assert dataset.for_training(0) == (None, ["s3://corpus/0.wav"])
    assert "does not exist" not in caplog.text
    assert not store.bytes_read("0.wav")


def test_llamafactorys_processor_hears_the_object(store, tmp_path):
    from llamafactory.data import mm_plugin

    write_noise(tmp_path / "noise.wav", 1.0, seed=3)
    store.put("3.wav", (tmp_path / "noise.wav").read_bytes())
    heard = mm_plugin.get_mm_plugin("qwen2_audio", audio_token="<|AUDIO|>")._regularize_audios(
        ["s3://corpus/3.wav"], sampling_rate=16000
    )
    expected, _ = soundfile.read(tmp_path / "noise.wav", dtype="float32")
    assert np.array_equal(torch.as_tensor(heard["audios"][0]).numpy(), expected)


def test_files_are_still_looked_for_in_media_dir(tmp_path):
    from llamafactory.data.converter import DatasetConverter
    from llamafactory.data.parser import DatasetAttr

    class Arguments:
        media_dir = str(tmp_path)

    write_noise(tmp_path / "a.wav", 1.0)
    find = DatasetConverter(DatasetAttr("file", "a"), Arguments())._find_medias
    assert find(["a.wav"]) == [str(tmp_path / "a.wav")]
    assert find(["s3://corpus/a.wav"]) == ["s3://corpus/a.wav"]
    assert find(None) is None
