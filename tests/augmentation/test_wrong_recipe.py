"""A run that scored nothing leaves nothing that refuses another, and says why it could not."""

import pytest
from helpers.fakes import ByteModel, ListDataset, make_dataset
from helpers.files import read_json_lines, tree

from simulsa_plugin.augmentation import pipeline
from simulsa_plugin.augmentation.augment_report import augment_summary
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset, augment_shard
from simulsa_plugin.augmentation.shards import holding
from simulsa_plugin.errors import DatasetError, ModelError, StorageError
from simulsa_plugin.sharding import Shard

SETTINGS = AugmentSettings(samples=6)
WRONG = ByteModel(description={"model": "bytes", "template": "qwen2_omni"})
RIGHT = ByteModel(description={"model": "bytes", "template": "qwen2_audio"})


def refuse(prompt, waveform):
    raise ModelError("the template refuses the prompt: no <|AUDIO|>")


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "offline", count=20)


@pytest.fixture
def expected(dataset, tmp_path):
    augment_dataset(dataset, RIGHT, SETTINGS, tmp_path / "out")
    files = tree(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "undisturbed")
    return files


@pytest.mark.parametrize("shards", [0, 2])
def test_after_a_wrong_template_the_right_one_takes_the_folder(dataset, expected, tmp_path, monkeypatch, shards):
    monkeypatch.setattr(WRONG, "render_prompt", refuse)
    parts = [Shard(number, shards) for number in range(1, shards + 1)]
    for part in parts or [None]:
        with pytest.raises(DatasetError, match=r"not_renderable.*First not_renderable: the template refuses"):
            augment_shard(dataset, WRONG, SETTINGS, tmp_path / "out", part) if part else augment_dataset(
                dataset, WRONG, SETTINGS, tmp_path / "out"
            )
    (skipped, *_) = read_json_lines(tmp_path / "out" / "toy_simulsa" / "skipped.jsonl")
    assert skipped["cause"] == "the template refuses the prompt: no <|AUDIO|>"
    for part in parts:
        augment_shard(dataset, RIGHT, SETTINGS, tmp_path / "out", part)
    augment_dataset(dataset, RIGHT, SETTINGS, tmp_path / "out")
    assert tree(tmp_path / "out") == expected


@pytest.mark.parametrize("torn", [False, True], ids=["killed", "torn"])
def test_killed_before_it_scored_a_run_leaves_its_folder_to_another(dataset, expected, tmp_path, monkeypatch, torn):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "score_cuts", killed)
    with pytest.raises(KeyboardInterrupt):
        augment_dataset(dataset, RIGHT, AugmentSettings(samples=9, seed=1), tmp_path / "out")
    monkeypatch.undo()
    assert list((tmp_path / "out" / "toy_simulsa" / "clips").iterdir())  # of other rows, cut elsewhere
    if torn:
        (tmp_path / "out" / "toy_simulsa" / "started.json").write_text("")
    augment_dataset(dataset, RIGHT, SETTINGS, tmp_path / "out")
    assert tree(tmp_path / "out") == expected


def test_work_that_another_shard_is_at_is_not_taken_over(dataset, tmp_path, monkeypatch):
    def other(*arguments):  # another recipe comes while the first shard is about to score
        with pytest.raises(StorageError, match="other settings: simulsa_seed was"):
            augment_shard(dataset, RIGHT, AugmentSettings(samples=6, seed=1), tmp_path / "out", Shard(2, 2))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "score_cuts", other)
    with pytest.raises(KeyboardInterrupt):
        augment_shard(dataset, RIGHT, SETTINGS, tmp_path / "out", Shard(1, 2))


def test_what_is_scored_in_part_is_kept_for_its_own_recipe(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.Labeler, "write", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        augment_dataset(dataset, RIGHT, SETTINGS, tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(StorageError, match="other settings: template was"):
        augment_dataset(dataset, WRONG, SETTINGS, tmp_path / "out")
    augment_dataset(dataset, RIGHT, SETTINGS, tmp_path / "out")


def test_a_summary_names_the_first_cause_of_each_reason(dataset, tmp_path):
    missing = str(tmp_path / "gone.wav")
    rows = [*dataset.rows, ("x", missing), "multi_turn"]
    outcome = augment_dataset(ListDataset("toy", rows), ByteModel(), AugmentSettings(samples=22), tmp_path / "out")
    said = "\n".join(augment_summary(outcome.manifest))
    skipped = {row["reason"]: row.get("cause") for row in read_json_lines(outcome.folder / "skipped.jsonl")}
    assert missing in skipped["audio_missing"] and f"first audio_missing: {skipped['audio_missing']}" in said
    assert skipped["multi_turn"] and "first multi_turn" not in said  # it says no more than the reason


def test_a_shard_is_alone_unless_another_is_held(dataset, tmp_path):
    layout = pipeline.open_layout(tmp_path, "toy")
    with holding(layout, Shard(1, 2)):
        assert pipeline.is_alone(layout, Shard(1, 2)) and not pipeline.is_alone(layout, Shard(2, 2))
