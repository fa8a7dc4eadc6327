"""Shards of an augmentation whose output is an address: each on its own machine, and one run that finishes them."""

import dataclasses
import json

import pytest
from driver import SETTINGS
from helpers.fakes import ByteModel, Killed, make_dataset, write_noise
from helpers.files import tree
from test_output_in_stores import another_machine, objects
from test_output_in_stores import quick as quick

from simulsa_plugin.api.output_place import augmentation_at, output_at
from simulsa_plugin.augmentation.pipeline import augment_dataset, augment_shard
from simulsa_plugin.errors import FolderInUseError, StorageError, UsageError
from simulsa_plugin.files import lease
from simulsa_plugin.sharding import Shard

OUT = "s3://corpus/out"


class MortalModel(ByteModel):
    """Dies when it has scored two batches."""

    def score(self, *arguments):
        if len(self.batches) == 2:
            raise Killed
        return super().score(*arguments)


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "offline", 30)


@pytest.fixture
def expected(dataset, tmp_path):
    """The files of an undisturbed run of one process in a folder."""
    augment_dataset(dataset, ByteModel(), SETTINGS, tmp_path / "local")
    return {name: data for name, data in tree(tmp_path / "local").items() if not name.endswith(".lock")}


def score(dataset, text, model=None, settings=SETTINGS):
    shard, model = Shard.parse(text), model or ByteModel()
    with augmentation_at(OUT, shard, finishes=False) as folder:
        augment_shard(dataset, model, settings, folder, shard)
    return model


def finish(dataset, settings=SETTINGS):
    model = ByteModel()
    with augmentation_at(OUT, None, finishes=True) as folder:
        augment_dataset(dataset, model, settings, folder)
    return model


def test_shards_on_machines_of_their_own_end_with_the_bytes_of_one_process(
    store, dataset, expected, tmp_path, monkeypatch
):
    score(dataset, "1/3")
    written = [path for method, path, _ in store.requests if method == "PUT"]
    finished = written.index("/corpus/out/.simulsa/shards/1-of-3/toy_simulsa/shards/1-of-3/finished")
    assert not any("/journals/" in path for path in written[finished:])  # else a killed one would lack rows
    another_machine(monkeypatch, tmp_path, 2)
    with pytest.raises(Killed):
        score(dataset, "2/3", MortalModel())
    another_machine(monkeypatch, tmp_path, 3)
    goes_on = score(dataset, "2/3")
    assert 0 < len(goes_on.batches) < len(score(dataset, "3/3").batches) + 1
    assert not [key for key in store.keys("out/") if "/clips/" in key]  # each shard cuts all of them
    another_machine(monkeypatch, tmp_path, 4)
    assert finish(dataset).batches == []
    assert objects(store) == expected
    assert not [key for key in store.keys("out/.simulsa/") if "/journals/" in key]


def test_a_shard_that_is_started_late_has_nothing_to_do(store, dataset, expected, tmp_path, monkeypatch):
    for text in ("1/2", "2/2"):
        score(dataset, text)
    finish(dataset)
    another_machine(monkeypatch, tmp_path, 2)
    assert score(dataset, "2/2").batches == []
    assert finish(dataset).batches == []
    assert objects(store) == expected


def test_the_run_that_finishes_scores_what_no_shard_has_scored(store, dataset, expected):
    score(dataset, "2/2")
    assert finish(dataset).batches
    assert objects(store) == expected


def test_a_run_that_finishes_and_is_killed_goes_on_elsewhere(store, dataset, expected, tmp_path, monkeypatch):
    score(dataset, "2/3")
    with pytest.raises(Killed), augmentation_at(OUT, None, finishes=True) as folder:
        augment_dataset(dataset, MortalModel(), SETTINGS, folder)
    another_machine(monkeypatch, tmp_path, 2)
    score(dataset, "1/3")
    finish(dataset)
    assert objects(store) == expected


def test_who_works_at_a_shard_is_named(store, dataset, tmp_path, monkeypatch):
    score(dataset, "1/2")
    with augmentation_at(OUT, Shard(2, 2), finishes=False):
        another_machine(monkeypatch, tmp_path, 2)
        monkeypatch.setattr(lease, "_is_dead_here", lambda _: False)  # all have the number of this process
        with pytest.raises(FolderInUseError, match=rf"^{OUT}/\.simulsa/shards/2-of-2 is in use by process"):
            finish(dataset)
        with pytest.raises(FolderInUseError, match=rf"^{OUT}/\.simulsa/shards/2-of-2 is in use by process"):
            score(dataset, "2/2")
    with augmentation_at(OUT, None, finishes=True):
        another_machine(monkeypatch, tmp_path, 3)
        with pytest.raises(FolderInUseError, match=rf"^{OUT}/\.simulsa/shards/1-of-2 is in use by process"):
            score(dataset, "1/2")


@pytest.mark.parametrize("what", ["settings", "weights"])
def test_a_shard_that_was_scored_otherwise_is_named(store, dataset, what):
    score(dataset, "1/2", ByteModel(description={"model": "bytes", "weights": "1"}))
    other = dataclasses.replace(SETTINGS, seed=7) if what == "settings" else SETTINGS
    score(dataset, "2/2", ByteModel(description={"model": "bytes", "weights": what}), other)
    with pytest.raises(
        StorageError, match=r"^Shard 2-of-2 was scored with other settings: .*, unlike those before it\."
    ):
        finish(dataset)
    assert [key for key in store.keys("out/.simulsa/") if "/journals/" in key]  # no row is lost


def test_the_devices_of_all_shards_are_listed(store, dataset):
    for text, device in (("1/2", "slate"), ("2/2", "abacus")):
        score(dataset, text, ByteModel(device=device))
    finish(dataset)
    assert json.loads(store.get("out/toy_simulsa/manifest.json"))["scored_on"] == ["abacus", "slate"]


def test_what_no_run_wrote_is_left_alone_by_shards(store, dataset):
    store.put("out/mine.txt", b"mine")
    with pytest.raises(StorageError, match=r"s3://corpus/out/mine\.txt was not made by this command"):
        score(dataset, "1/2")
    assert store.keys("out/") == ["out/mine.txt"]


def test_audio_that_lies_in_the_output_is_named_the_same_on_every_machine(store, tmp_path, monkeypatch):
    """As that of a corpus whose utterances are cut out of recordings."""

    def made(folder):
        dataset = make_dataset(folder / "toy_corpus", 30)
        for name in ("0.wav", "1.wav", "2.wav", "3.wav", "4.wav"):
            write_noise(folder / "toy_corpus" / name, 0.3, seed=0)  # too short to be cut
        return dataset

    for number, text in enumerate(("1/2", "2/2", None)):
        another_machine(monkeypatch, tmp_path, number)
        part = None if text is None else Shard.parse(text)
        with augmentation_at(OUT, part, finishes=part is None) as folder:
            if part:
                augment_shard(made(folder), ByteModel(), SETTINGS, folder, part)
            else:
                augment_dataset(made(folder), ByteModel(), SETTINGS, folder)
    out = tmp_path / "local"
    augment_dataset(made(out), ByteModel(), SETTINGS, out)
    local = {name: data for name, data in tree(out).items() if not name.endswith(".lock")}
    different = {name for name in objects(store).items() ^ local.items() for name in [name[0]]}
    assert different <= {"dataset_info.json"}  # where the entry of the offline rows has an absolute name
    rows = [json.loads(line) for line in store.get("out/toy_simulsa/scores.jsonl").splitlines()]
    assert all(row["audio"].startswith("toy_corpus/") for row in rows)
    skipped = [json.loads(line) for line in store.get("out/toy_simulsa/skipped.jsonl").splitlines()]
    assert skipped and all(row["audio"].startswith("toy_corpus/") for row in skipped)
    page = store.get("out/toy_simulsa/report.html").decode()
    assert str(tmp_path) not in page and '"rest": "data:' in page  # what was cut off is played


@pytest.mark.parametrize("part", [None, Shard(1, 2)], ids=str)
def test_an_error_names_the_address_that_was_given(store, part):
    place = augmentation_at("s3://no-such-bucket/out", part, finishes=part is None)
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/out: "), place:
        pass


def test_ranks_of_torchrun_need_a_folder(store):
    for place in (augmentation_at(OUT, Shard(1, 2), finishes=True), output_at(OUT, ranks=True)):
        with pytest.raises(UsageError, match="processes of torchrun need a folder that they share"), place:
            pass
    assert store.keys() == []


def test_a_run_that_finishes_one_dataset_keeps_the_rows_of_the_others(store, dataset, expected, tmp_path, monkeypatch):
    other = dataclasses.replace(dataset, name="other")
    for text in ("1/2", "2/2"):
        shard = Shard.parse(text)
        with augmentation_at(OUT, shard, finishes=False) as folder:
            for one in (dataset, other):
                augment_shard(one, ByteModel(), SETTINGS, folder, shard)
    finish(dataset)
    another_machine(monkeypatch, tmp_path, 2)
    assert finish(other).batches == []
    assert not [key for key in store.keys("out/.simulsa/") if "/journals/" in key]
    assert {name: data for name, data in objects(store).items() if name.startswith("toy_simulsa")} == {
        name: data for name, data in expected.items() if name.startswith("toy_simulsa")
    }
