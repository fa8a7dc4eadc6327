"""Augmenting audio in containers: the same samples as from files, and of the containers what was chosen."""

import pytest
from helpers.fakes import ByteModel, ListDataset, make_dataset
from helpers.files import read_json_lines, tree
from test_audio_references import table
from test_corpora_in_stores import make_shard

from simulsa_plugin.audio import references
from simulsa_plugin.audio.references import parquet_reference, tar_reference
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.clean import clean_lines
from simulsa_plugin.augmentation.pipeline import augment_dataset

ROWS = 60


def augmented(dataset, out, **settings):
    augment_dataset(dataset, ByteModel(), AugmentSettings(portable=True, **settings), out)
    clips = {name: data for name, data in tree(out).items() if "/clips/" in name}
    rows = [{**row, "audio": None, "checksum": None} for row in read_json_lines(out / "toy_simulsa" / "scores.jsonl")]
    return clips, rows


@pytest.fixture
def files(tmp_path):
    """A dataset of files, and the bytes of these."""
    dataset = make_dataset(tmp_path / "files", count=ROWS)
    return dataset, [open(audio, "rb").read() for _, audio in dataset.rows]


def named(dataset, audio):
    rows = [(reference, name) for (reference, _), name in zip(dataset.rows, audio, strict=True)]
    return ListDataset("toy", rows, entry=dataset.entry)


@pytest.mark.parametrize("settings", [{"samples": 12}, {"samples": 25, "cuts": 2}, {"samples": 50, "max_seconds": 1.0}])
def test_row_groups_are_read_once_for_the_rows_chosen(files, store, tmp_path, monkeypatch, settings):
    dataset, sounds = files
    table(tmp_path / "0.parquet", sounds, group=10)
    store.put("0.parquet", (tmp_path / "0.parquet").read_bytes())
    monkeypatch.setattr(references, "_ROW_GROUPS", references._RowGroups())
    monkeypatch.setattr(references, "_KEPT_GROUP_BYTES", 1)  # one group at a time
    stored = named(dataset, [parquet_reference("audio", row, "s3://corpus/0.parquet") for row in range(ROWS)])
    assert augmented(stored, tmp_path / "stored", **settings) == augmented(dataset, tmp_path / "local", **settings)
    report_and_footer = 16 + 2  # the report plays some samples, in its own order
    assert store.reads("0.parquet") <= ROWS // 10 + report_and_footer


def test_of_shards_the_chosen_members_are_read(files, store, tmp_path):
    dataset, sounds = files
    members = [(f"{row}.wav", data) for row, data in enumerate(sounds)]
    shard, start, names = make_shard(members), 0, []
    store.put("0.tar", shard)
    for name, data in members:
        names.append(tar_reference(name, "s3://corpus/0.tar", start + 512, start + 512 + len(data)))
        start += 512 + -(-len(data) // 512) * 512
    found = augmented(named(dataset, names), tmp_path / "stored", samples=3)
    assert found == augmented(dataset, tmp_path / "local", samples=3)
    assert store.bytes_read("0.tar") < 0.25 * len(shard)


def test_one_missing_object_does_not_make_a_run_read_all_others(files, store, tmp_path):
    dataset, sounds = files
    for row, data in enumerate(sounds):
        store.put(f"{row}.wav", data)
    store.client().delete_object(Bucket="corpus", Key="7.wav")
    store.requests.clear()
    stored = named(dataset, [f"s3://corpus/{row}.wav" for row in range(ROWS)])
    settings = AugmentSettings(samples=ROWS // 2, seed=44, portable=True)
    outcome = augment_dataset(stored, ByteModel(), settings, tmp_path / "out")
    read = {path for method, path, _ in store.requests if method == "GET"}
    assert outcome.manifest["skipped"] == {"audio_missing": 1}
    assert outcome.manifest["clean"] == {
        "name": "toy_clean", "rows": ROWS - 1, "broken": {"audio_missing": 1}, "unread": ROWS - 1,
    }  # fmt: skip
    assert len(read) < 0.8 * ROWS
    (line,) = clean_lines(outcome.manifest)
    assert f"; the audio of {ROWS - 1} others lies in a store or in containers, and was not read; toy_clean is" in line
