"""Files of a corpus that were damaged on purpose, in a finished folder and in a stopped one: they are made again."""

import shutil

import pytest
from helpers.fakes import Killed, write_noise
from helpers.files import damaged_files, tree

from simulsa_plugin.corpora import prepare as module
from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.corpora.prepare import prepare
from simulsa_plugin.corpora.prompts import translation_prompt


@pytest.fixture
def settings(tmp_path):
    """Five parts of a recording, and a file of its own."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_noise(folder / "talk.wav", 6.0)
    write_noise(folder / "alone.wav", 1.0)
    rows = [f"u{number}\ttalk.wav\t{number}\t{number + 0.9}\tText {number}\n" for number in range(5)]
    (folder / "table.tsv").write_text(
        "id\taudio\tstart\tend\ttranslation\n" + "".join(rows) + "u9\talone.wav\t\t\tText\n", encoding="utf-8"
    )
    names = ("id", "audio", "start", "end", "translation")
    return CorpusSettings(
        corpus="table", corpus_dir=str(folder), source_language="en", target_language="de", corpus_workers=1,
        columns={name: name for name in names},
    )  # fmt: skip


def make(settings, out):
    return prepare(settings, (), translation_prompt(None, "qwen2_audio", "en", "de"), out, "toy")


def stop(settings, out, monkeypatch):
    """Stop when all parts are cut."""

    def stopping(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_jsonl", stopping)
        with pytest.raises(Killed):
            make(settings, out)


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "finished"])
def test_what_is_damaged_is_made_again(settings, tmp_path, monkeypatch, stopped, capsys):
    out = tmp_path / "out"
    make(settings, out)
    expected = tree(out)
    if stopped:
        shutil.rmtree(out)
        stop(settings, out, monkeypatch)
    out.rename(tmp_path / "state")
    damages = [name for name, _ in _again(settings, tmp_path / "state", out, expected)]
    assert len(damages) > 40
    assert sum(name.endswith(".wav") for name in damages) > 20


def _again(settings, state, out, expected):
    for name, damage in damaged_files(state, out):
        if name == "dataset_info.json":  # whose other entries nobody can make again: its damage is named
            shutil.rmtree(out)
            continue
        make(settings, out)
        assert tree(out) == expected, f"{name}: {damage}"
        shutil.rmtree(out)
        yield name, damage


@pytest.mark.parametrize("name", ["audio/00000/00000002.wav", "parts.jsonl", "dropped.jsonl", "../toy.jsonl"])
def test_what_is_missing_is_made_again(settings, tmp_path, name):
    make(settings, tmp_path / "out")
    expected = tree(tmp_path / "out")
    (tmp_path / "out" / "toy_corpus" / name).unlink()
    prepared = make(settings, tmp_path / "out")
    assert tree(tmp_path / "out") == expected
    assert "toy_corpus were missing or damaged, and were made again." in prepared.warnings[0]
