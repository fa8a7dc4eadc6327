"""What stands in an output folder and was made by somebody else is the same bytes after a run as before it."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.fakes import ByteModel, ListDataset, make_dataset
from helpers.files import tree

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.augmentation.relabeling import relabel
from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY

SETTINGS = AugmentSettings(ratio=0.2)
USERS_ENTRY = {"file_name": "toy.jsonl", "columns": {"messages": "conversations", "audios": "sounds"}, "ranking": False}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("audio"), count=20)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def run(dataset, out):
    return augment_dataset(dataset, ByteModel(), SETTINGS, out)


def again(out, other):
    return relabel(out / "toy_simulsa" / "scores.jsonl", {"simulsa_acceptance": "greedy"}, other, lambda *_: None)


def info(out):
    return json.loads((out / "dataset_info.json").read_text(encoding="utf-8"))


def put(path, content=b"mine\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


ENTRY_OF_ROWS = json.dumps({"toy_simulsa": {"file_name": "elsewhere.jsonl"}}).encode()
FOREIGN = {
    "rows": {"toy_simulsa.jsonl": b'{"messages": [], "audios": ["a.wav"]}\n'},
    "text in the place of rows": {"toy_simulsa.jsonl": b"mine\n"},
    "a report": {"toy_simulsa/report.html": b"mine\n"},
    "shards": {"toy_simulsa/shards/1-of-2/notes.txt": b"mine\n"},
    "clips": {"toy_simulsa/clips/a.wav": b"mine\n"},
    "a manifest of something else": {"toy_simulsa/manifest.json": b'{"name": "web app"}\n'},
    "the folder is a file": {"toy_simulsa": b"mine\n"},
    "an entry": {"dataset_info.json": ENTRY_OF_ROWS},
    "another dataset of the name": {"dataset_info.json": b'{"toy": {"file_name": "/other.jsonl"}}'},
    "an entry that is no object": {"dataset_info.json": b'{"toy": null}'},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_run_refuses_what_is_not_its_own_and_changes_nothing(toy, out, files):
    for name, content in files.items():
        put(out / name, content)
    before, model = tree(out), ByteModel()
    with pytest.raises(StorageError, match=r"Choose another --out"):
        augment_dataset(toy, model, SETTINGS, out)
    after = tree(out)
    assert before.items() <= after.items()
    assert set(after) - set(before) <= {"toy_simulsa/owned.json"}
    assert model.batches == []


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN.keys())
def test_deciding_again_refuses_what_is_not_its_own_and_changes_nothing(toy, out, files):
    run(toy, out)
    other = out.parent / "other"
    for name, content in files.items():
        put(other / name, content)
    before = tree(other)
    with pytest.raises(StorageError, match=r"Choose another --out"):
        again(out, other)
    assert before.items() <= tree(other).items()


@pytest.mark.parametrize("name", ["toy_simulsa", "toy_simulsa.jsonl", "toy_simulsa/clips", "toy_simulsa/scores.jsonl",
                                  "toy_simulsa/scores.partial.jsonl", "toy_simulsa/shards", "toy_simulsa/owned.json",
                                  "dataset_info.json"])  # fmt: skip
@pytest.mark.parametrize("finished", [False, True], ids=["new", "finished"])
def test_no_link_is_followed(toy, out, tmp_path, name, finished):
    if finished:
        run(toy, out)
    outside = tmp_path / "outside"
    is_folder = "." not in name
    if is_folder:
        put(outside / "notes.txt")
    else:
        put(outside, b"{}\n")
    if (out / name).is_dir():
        shutil.rmtree(out / name)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(outside)
    before = tree(tmp_path)
    with pytest.raises(StorageError, match=r"is a link and will not be written through"):
        run(toy, out)
    after = tree(tmp_path)
    assert {path: after[path] for path in before if path.startswith("outside")}.items() <= before.items()
    assert [path for path in after if path.startswith("outside")] == [
        path for path in before if path.startswith("outside")
    ]
    assert (out / name).is_symlink()


@pytest.mark.parametrize("relative", [False, True])
def test_the_users_own_entry_and_file_stay_and_the_same_command_gives_the_same_bytes(toy, out, relative):
    # dataset_dir and --out are one folder, with relative audio and with absolute.
    text = json.dumps({"toy": USERS_ENTRY, "other": {"file_name": "x.json"}}, indent="\t").encode()
    put(out / "dataset_info.json", text)
    put(out / "toy.jsonl")
    dataset = ListDataset("toy", toy.rows, {**USERS_ENTRY, "file_name": str(out / "toy.jsonl")}, relative, home=out)
    run(dataset, out)
    first = tree(out)
    assert (out / "toy.jsonl").read_bytes() == b"mine\n"
    assert (out / "dataset_info.json").read_bytes().startswith(text[: text.rindex(b"}")].rstrip() + b",\n")
    assert info(out)["toy"] == USERS_ENTRY
    assert info(out)["toy_simulsa"] == {"file_name": "toy_simulsa.jsonl", **SHAREGPT_ENTRY}
    run(dataset, out)
    assert tree(out) == first
    again(out, out)
    assert info(out)["toy"] == USERS_ENTRY


def test_deciding_elsewhere_says_what_relative_audio_needs(toy, out, tmp_path):
    put(out / "dataset_info.json", json.dumps({"toy": USERS_ENTRY}).encode())
    put(out / "toy.jsonl")
    entry = {**USERS_ENTRY, "file_name": str(out / "toy.jsonl")}
    run(ListDataset("toy", toy.rows, entry, relative=True, home=out), out)
    assert again(out, out).warnings == ()
    assert f"or else media_dir: {out}." in again(out, tmp_path / "second").warnings[0]
    assert info(tmp_path / "second")["toy"] == entry


def test_a_foreign_file_in_the_place_of_the_rewritten_one_is_refused_before_the_work(toy, out):
    put(out / "toy.jsonl")
    model = ByteModel()
    with pytest.raises(StorageError, match=r"toy\.jsonl was not made by simulsa-augment, and stays as it is"):
        augment_dataset(ListDataset("toy", toy.rows, toy.entry, relative=True), model, SETTINGS, out)
    assert ((out / "toy.jsonl").read_bytes(), model.batches) == (b"mine\n", [])


def test_a_foreign_file_that_is_in_nobodys_way_stays(toy, out):
    put(out / "toy.jsonl")
    put(out / "toy" / "a.wav")
    run(toy, out)
    assert ((out / "toy.jsonl").read_bytes(), (out / "toy" / "a.wav").read_bytes()) == (b"mine\n", b"mine\n")


def test_what_the_user_adds_to_our_entries_stays(toy, out):
    run(toy, out)
    path = out / "dataset_info.json"
    changed = info(out)
    changed["toy_simulsa"]["num_samples"] = 3
    path.write_text(json.dumps(changed), encoding="utf-8")
    before = path.read_bytes()
    run(toy, out)
    assert path.read_bytes() == before


def test_an_entry_of_ours_follows_the_offline_set(toy, out):
    run(toy, out)
    run(ListDataset("toy", toy.rows, {**toy.entry, "num_samples": 3}), out)
    assert info(out)["toy"] == {**toy.entry, "num_samples": 3}


@pytest.mark.parametrize("relative", [False, True])
def test_what_an_earlier_version_made_is_recognised(toy, out, relative):
    dataset = ListDataset("toy", toy.rows, toy.entry, relative)
    run(dataset, out)
    finished = tree(out)
    (out / "toy_simulsa" / "owned.json").unlink()
    run(dataset, out)
    assert {**tree(out), "toy_simulsa/owned.json": ""} == {**finished, "toy_simulsa/owned.json": ""}


@pytest.mark.parametrize("relative", [False, True])
def test_whoever_removes_the_folder_begins_anew(toy, out, relative):
    # As the messages advise; the files beside it and the entries are known by what they say.
    dataset = ListDataset("toy", toy.rows, toy.entry, relative)
    run(dataset, out)
    finished = tree(out)
    shutil.rmtree(out / "toy_simulsa")
    run(dataset, out)
    assert {key: tree(out)[key] for key in finished if key.endswith(".jsonl")} == {
        key: value for key, value in finished.items() if key.endswith(".jsonl")
    }


@pytest.mark.parametrize("said", [b"", b"[]", b'{"files": 5}'])
def test_a_damaged_note_of_what_is_ours_locks_nobody_out(toy, out, said):
    run(toy, out)
    finished = tree(out)
    (out / "toy_simulsa" / "owned.json").write_bytes(said)
    run(toy, out)
    assert tree(out) == finished


def test_files_that_others_put_among_the_shards_stay(toy, out):
    run(toy, out)
    put(out / "toy_simulsa" / "shards" / "notes.txt")
    put(out / "toy_simulsa" / "shards" / "1-of-2" / "finished", b"")
    run(toy, out)
    assert [path.name for path in Path(out / "toy_simulsa" / "shards").iterdir()] == ["notes.txt"]
