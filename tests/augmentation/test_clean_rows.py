"""Rows that a training stops at: all of them are listed once one was met, and there is a dataset without them."""

import json

import pytest
from helpers.fakes import ByteModel, ListDataset, make_dataset
from helpers.files import read_json_lines, tree

from simulsa_plugin.api.augment_recipe import outcome_lines
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.clean import clean_lines
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.augmentation.relabeling import relabel


@pytest.fixture
def dataset(tmp_path):
    """Every third of 30 rows names audio that is not there, or is none."""
    whole = make_dataset(tmp_path / "offline", count=30)
    (tmp_path / "text.wav").write_bytes(b"no audio" * 50)
    bad = [str(tmp_path / "text.wav"), str(tmp_path / "gone.wav")]
    rows = [(row[0], bad[number % 2]) if number % 3 == 0 else row for number, row in enumerate(whole.rows)]
    return ListDataset("toy", rows, entry=whole.entry)


def test_all_broken_rows_are_listed_and_left_out_of_a_dataset_that_the_advice_names(dataset, tmp_path):
    out = tmp_path / "out"
    offline = tree(tmp_path / "offline")
    outcome = augment_dataset(dataset, ByteModel(), AugmentSettings(samples=5), out)
    assert outcome.manifest["counts"]["samples"] == 5  # so the walk has not seen every row
    broken = read_json_lines(outcome.folder / "broken.jsonl")
    assert [row["row"] for row in broken] == list(range(0, 30, 3))
    assert all(row["cause"] for row in broken)
    assert outcome.manifest["clean"] == {
        "name": "toy_clean", "rows": 20, "broken": {"audio_broken": 5, "audio_missing": 5},
    }  # fmt: skip
    info = json.loads((out / "dataset_info.json").read_text())
    assert set(info) == {"toy", "toy_clean", "toy_simulsa"}
    clean = read_json_lines(out / info["toy_clean"]["file_name"])
    assert [row["audios"][0] for row in clean] == [row[1] for number, row in enumerate(dataset.rows) if number % 3]
    said = "\n".join(outcome_lines(outcome))
    assert "a training on toy stops at 10 of its rows (audio_broken 5, audio_missing 5); toy_clean is" in said
    assert f"train with  dataset: toy_clean,toy_simulsa  and  dataset_dir: {out}" in said
    assert tree(tmp_path / "offline") == offline
    again = relabel(outcome.folder / "scores.jsonl", {"simulsa_acceptance": "greedy"}, out, lambda *_: None)
    assert again.manifest["clean"] == outcome.manifest["clean"]


def test_an_entry_of_that_name_stays_the_users(dataset, tmp_path):
    (tmp_path / "out").mkdir()
    mine = {"toy_clean": {"file_name": "mine.jsonl"}}
    (tmp_path / "out" / "dataset_info.json").write_text(json.dumps(mine))
    outcome = augment_dataset(dataset, ByteModel(), AugmentSettings(samples=5), tmp_path / "out")
    assert outcome.manifest["clean"]["name"] is None
    assert json.loads((tmp_path / "out" / "dataset_info.json").read_text())["toy_clean"] == mine["toy_clean"]
    assert clean_lines(outcome.manifest)[0].endswith("; remove them from toy")


def test_without_broken_rows_nothing_is_looked_at(tmp_path, monkeypatch):
    dataset = make_dataset(tmp_path / "offline", count=20)
    dataset.rows[3] = "multi_turn"  # a training takes it
    monkeypatch.setattr(dataset, "for_training", lambda row: 1 / 0, raising=False)
    outcome = augment_dataset(dataset, ByteModel(), AugmentSettings(samples=19), tmp_path / "out")
    assert "clean" not in outcome.manifest and clean_lines(outcome.manifest) == []
    assert not (outcome.folder / "clean.jsonl").exists()
