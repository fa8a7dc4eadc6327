"""Rows are those of the file as it is now; text may stand beside speech."""

import json
import os

import pytest
from helpers.fakes import ByteModel
from offline_data import ASK, SHAREGPT, load, make_folder, register, turns, write_rows

from simulsa_plugin.api import loading
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.registration import register_beside
from simulsa_plugin.commands import augment as command
from simulsa_plugin.errors import DatasetError, UsageError
from simulsa_plugin.llamafactory.data.dataset import load_datasets
from simulsa_plugin.llamafactory.data.dataset_registry import read_dataset_info
from simulsa_plugin.llamafactory.model.arguments import inference_arguments

TEXT = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": SHAREGPT["tags"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = make_folder(tmp_path, monkeypatch)
    speech = [
        {"messages": turns(ASK, f"Satz {number}."), "audios": [str(folder / "wav" / f"{number}.wav")]}
        for number in range(3)
    ]
    write_rows(folder / "speech.jsonl", speech)
    write_rows(folder / "text.jsonl", [{"messages": turns("Hallo?", f"Ja {number}.")} for number in range(5)])
    register(folder, {"speech": {"file_name": "speech.jsonl", **SHAREGPT}, "text": {"file_name": "text.jsonl", **TEXT}})
    return folder


@pytest.mark.parametrize("of_a_folder", [False, True])
def test_new_content_of_the_same_length_and_time_is_read(folder, of_a_folder):
    path = folder / "speech.jsonl"
    if of_a_folder:
        (folder / "parts").mkdir()
        path = path.rename(folder / "parts" / "speech.jsonl")
        register(folder, {"speech": {"file_name": "parts", **SHAREGPT}})
    before, status = path.read_text(), path.stat()
    assert load(folder, "speech")[0].sample(0).reference == "Satz 0."
    path.write_text(before.replace("Satz", "Wort"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert load(folder, "speech")[0].sample(0).reference == "Wort 0."


def test_text_beside_speech_is_loaded_and_known_for_what_it_is(folder):
    text, speech = load(folder, "text", "speech")
    assert (text.has_audio(), len(text), speech.has_audio()) == (False, 5, True)
    with pytest.raises(DatasetError, match="The dataset text has no audio"):
        load(folder, "text")


def test_text_beside_speech_keeps_its_rows_where_it_is_registered(folder, tmp_path):
    (text, _) = load(folder, "text", "speech")
    register_beside(text, AugmentSettings(), tmp_path / "out")
    entry = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["text"]
    assert entry == {"file_name": str(folder / "text.jsonl"), **TEXT}


def test_the_command_cuts_speech_and_registers_the_text_beside_it(folder, tmp_path, capsys, monkeypatch):
    def load_with_bytes(keys, names, *_, **__):
        return ByteModel(), load_datasets(inference_arguments(keys), names)

    monkeypatch.setattr(loading, "load_model_and_data", load_with_bytes)
    monkeypatch.setattr("simulsa_plugin.augmentation.cutoff.cutoff_line", lambda *_: None)
    words = ["model_name_or_path=simulsa-demo", "template=qwen2_audio", f"dataset_dir={folder}", "simulsa_samples=2"]
    assert command.main([*words, "dataset=text,speech", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "text: 5 rows without audio, none of them cut; registered for training beside speech" in out
    assert "speech: 2 partial samples from 3 rows" in out
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert set(info) == {"text", "speech", "speech_simulsa"}
    assert not (tmp_path / "out" / "text_simulsa").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": turns(ASK, "Ja."), "audios": ["wav/0.wav"]}, None),
        ({"messages": turns(f"{ASK}{ASK}", "Ja."), "audios": ["wav/0.wav", "wav/1.wav"]}, None),
        ({"messages": turns(ASK, "Ja.", ASK, "Nein."), "audios": ["wav/0.wav", "wav/1.wav"]}, None),
        ({"messages": turns("Ja?", "Ja."), "audios": []}, None),
        ({"messages": turns(f"{ASK}{ASK}", "Ja."), "audios": ["wav/0.wav"]}, "<audio> occurs 2 times, and there are 1"),
        ({"messages": turns(ASK, "<audio>"), "audios": ["wav/0.wav"]}, "<audio> occurs 2 times, and there are 1 files"),
        ({"messages": turns(ASK, "<|AUDIO|>"), "audios": ["wav/0.wav"]}, "holds the template's audio token '<|AUDIO"),
        ({"messages": turns(f"{ASK}<image>", "Ja."), "audios": ["wav/0.wav"]}, "<image> occurs 1 times, and there"),
        ({"messages": turns(ASK, "Ja."), "audios": ["ftp://a.org/0.wav"]}, "not the path of a file"),
    ],
)  # fmt: skip
def test_what_stops_a_training_at_a_row_and_the_rows_without_it(folder, row, said):
    good = {"messages": turns(ASK, "Gut."), "audios": ["wav/2.wav"]}
    write_rows(folder / "speech.jsonl", [row, good])
    (dataset,) = load(folder, "speech")
    cause, audios = dataset.for_training(0)
    assert said in cause if said else cause is None
    assert audios == ([] if said else [str(folder / path) for path in row["audios"]])
    entry, kept = dataset.without({0})
    assert [one["audios"] for one in kept] == [[str(folder / "wav" / "2.wav")]]
    assert entry["formatting"] == "sharegpt" and "file_name" not in entry


def test_a_folder_that_yaml_reads_as_false_is_refused_in_one_line():
    with pytest.raises(UsageError, match=r"dataset_dir is False; allowed: a folder\. Put its name in quotes"):
        read_dataset_info(False)
