"""What a loss of power or a failing disk leaves: the order in which files get there, and files damaged on purpose."""

import shutil

import pytest
from helpers.fakes import ByteModel, Killed, make_dataset
from helpers.files import damaged_files, recorded_disk, tree

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset, augment_shard
from simulsa_plugin.augmentation.relabeling import relabel
from simulsa_plugin.errors import SimulsaError, StorageError
from simulsa_plugin.files.atomic import UNFINISHED
from simulsa_plugin.sharding import Shard

SETTINGS = AugmentSettings(samples=5, batch_size=2, max_seconds=0.6)


class StoppingModel(ByteModel):
    """Scores two batches, and no more."""

    def score(self, rendered, waveforms):
        if len(self.batches) == 2:
            raise Killed
        return super().score(rendered, waveforms)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("offline"), count=8)


def whole(toy, out):
    augment_dataset(toy, ByteModel(), SETTINGS, out)


def stopped(toy, out):
    with pytest.raises(Killed):
        augment_dataset(toy, StoppingModel(), SETTINGS, out)


def shard(toy, out):
    augment_shard(toy, ByteModel(), SETTINGS, out, Shard(1, 2))


def redecide(toy, out):
    return relabel(out / "toy_simulsa" / "scores.jsonl", {"simulsa_acceptance": "greedy"}, out, lambda *_: None)


@pytest.mark.parametrize("last", [whole, redecide], ids=["whole", "decided again"])
def test_what_is_relied_on_is_on_the_disk_first(toy, tmp_path, monkeypatch, last):
    events = recorded_disk(monkeypatch)
    shard(toy, tmp_path)
    augment_dataset(toy, ByteModel(), SETTINGS, tmp_path)
    last(toy, tmp_path)
    whole_files, named_folders, renamed = set(), set(), set()
    for event, path in events:
        if event == "fsync":
            whole_files.add(path)
            named_folders.add(path)
        elif event == "replace":
            assert path.suffix == ".wav" or any(
                file.name.startswith(f".{path.name}.") and file.name.endswith(UNFINISHED) for file in whole_files
            ), f"{path} was renamed before its content was on the disk"
            whole_files = {file for file in whole_files if not file.name.startswith(f".{path.name}.")}
            named_folders.discard(path.parent)
            renamed.add(path)
            if path.name == "scores.jsonl":
                clips = {file for file in renamed if file.suffix == ".wav"}
                assert clips <= whole_files
                assert {clip.parent for clip in clips} <= named_folders
        elif event == "unlink" and (path.suffix == ".jsonl" or path.name == "started.json"):
            replaced = tmp_path / "toy_simulsa" / ("manifest.json" if path.name == "started.json" else "scores.jsonl")
            assert replaced in renamed
            assert replaced.parent in named_folders, f"{path} was removed before {replaced} was on the disk"


@pytest.mark.parametrize("state", [whole, stopped, shard])
def test_what_is_damaged_is_made_again_or_named(toy, tmp_path, state):
    out = tmp_path / "out"
    whole(toy, out)
    expected = tree(out)
    shutil.rmtree(out)
    state(toy, out)
    out.rename(tmp_path / "state")
    named = []
    for name, damage in damaged_files(tmp_path / "state", out):
        try:
            whole(toy, out)
        except SimulsaError as error:
            named.append((name, damage))
            assert str(out / name) in str(error), f"{name}: {damage}"
            assert "\n" not in str(error)
            assert any(step in str(error) for step in ("Remove", "Fix", "Choose another")), f"{name}: {damage}"
        else:
            assert tree(out) == expected, f"{name}: {damage}"
        shutil.rmtree(out)
    assert {name for name, _ in named} <= {
        "toy_simulsa/started.json", "toy_simulsa/manifest.json", "dataset_info.json"
    }  # fmt: skip


def test_what_is_damaged_does_not_decide_again(toy, tmp_path):
    out = tmp_path / "out"
    whole(toy, out)
    redecide(toy, out)
    expected = tree(out)
    shutil.rmtree(out)
    whole(toy, out)
    out.rename(tmp_path / "state")
    for name, damage in damaged_files(tmp_path / "state", out):
        try:
            warnings = redecide(toy, out).warnings
        except SimulsaError as error:
            assert str(out / name) in str(error), f"{name}: {damage}"
            assert "\n" not in str(error)
        else:
            different = {one for one in expected if tree(out)[one] != expected[one]}
            # owned.json repeats the entries of dataset_info.json, whose checksum nobody knows
            heard = {"toy_simulsa/report.html"} if name.endswith(".wav") else set()  # the report holds clips
            assert different <= {name, "toy_simulsa/owned.json", *heard}, f"{name}: {damage}"
            if name.endswith(".wav") and damage in ("zero length", "half", "last line dropped", "twice"):
                assert f"1 clips are missing or damaged, the first is {out / name}" in warnings[0]
        shutil.rmtree(out)


def test_a_row_that_is_missing_is_scored_again_with_its_batch(toy, tmp_path):
    whole(toy, tmp_path)
    expected, scores = tree(tmp_path), tmp_path / "toy_simulsa" / "scores.jsonl"
    lines = scores.read_text(encoding="utf-8").splitlines(keepends=True)
    scores.write_text("".join(lines[:2] + lines[3:]), encoding="utf-8")
    with pytest.raises(StorageError, match=r"scores\.jsonl has 4 rows, and the manifest\.json beside it says 5\."):
        redecide(toy, tmp_path)
    model = ByteModel()
    outcome = augment_dataset(toy, model, SETTINGS, tmp_path)
    assert tree(tmp_path) == expected
    assert len(model.batches) == 1
    assert "1 of 5 rows of " in outcome.warnings[0]


def test_stopped_while_missing_rows_are_scored_again_it_goes_on(toy, tmp_path):
    whole(toy, tmp_path)
    expected, scores = tree(tmp_path), tmp_path / "toy_simulsa" / "scores.jsonl"
    scores.write_text("".join(scores.read_text(encoding="utf-8").splitlines(keepends=True)[:1]), encoding="utf-8")
    stopped(toy, tmp_path)
    whole(toy, tmp_path)
    assert tree(tmp_path) == expected
