"""Entries of dataset_info.json: merged into what others wrote there, by many processes at once."""

import json
import re

import pytest
from helpers.files import names, no_file_beyond
from helpers.processes import FORK

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.dataset_info import merge_dataset_info

MAKE_ROOM = r"Make room and start again: the run goes on where it stopped\.$"


def test_a_full_disk_leaves_dataset_info_as_it_was(tmp_path):
    merge_dataset_info(tmp_path, {"mine": {}})
    with no_file_beyond(20), pytest.raises(StorageError, match=rf"dataset_info\.json: File too large\. {MAKE_ROOM}"):
        merge_dataset_info(tmp_path, {"other": {"file_name": "x"}})
    assert (tmp_path / "dataset_info.json").read_text(encoding="utf-8") == '{\n  "mine": {}\n}\n'
    assert names(tmp_path) == ["dataset_info.json"]


def merge_some(folder, worker):
    for number in range(5):
        merge_dataset_info(folder, {f"set{worker}-{number}": {"file_name": "x"}})


def test_many_processes_merge_without_losing_an_entry(tmp_path):
    workers = [FORK.Process(target=merge_some, args=(tmp_path, worker)) for worker in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    info = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))
    assert set(info) == {f"set{worker}-{number}" for worker in range(6) for number in range(5)}
    assert names(tmp_path) == ["dataset_info.json"]


def test_merging_keeps_other_entries_and_their_order(tmp_path):
    info = tmp_path / "dataset_info.json"
    info.write_text(json.dumps({"mine": {"file_name": "x.json"}, "demo": {"file_name": "old"}}), encoding="utf-8")
    merge_dataset_info(tmp_path, {"demo": {"file_name": "new"}, "demo_simulsa": {}})
    assert json.loads(info.read_text(encoding="utf-8")) == {
        "mine": {"file_name": "x.json"},
        "demo": {"file_name": "new"},
        "demo_simulsa": {},
    }
    assert names(tmp_path) == ["dataset_info.json"]


THEIRS = {
    "one line": b'{"a": {"n": 1.50, "t": "\\u00e4\xc3\xa4"}, "b": []}',
    "tabs": b'{\n\t"a": {},\n\n\t"b" : {"c": [1, 2]}\n}\n\n',
    "CRLF": b'\r\n{\r\n  "a": 1\r\n}\r\n',
    "a key twice": b'{"a": 1, "a": {"b": "}"}}',
}


@pytest.mark.parametrize("before", THEIRS.values(), ids=THEIRS.keys())
def test_what_others_wrote_into_dataset_info_stays_byte_for_byte(tmp_path, before):
    info = tmp_path / "dataset_info.json"
    info.write_bytes(before)
    merge_dataset_info(tmp_path, {"mine": {"x": 1}})
    kept = before[: before.rindex(b"}")].rstrip()
    assert info.read_bytes().startswith(kept + b',\n  "mine": {\n    "x": 1\n  }\n}')
    merge_dataset_info(tmp_path, {"mine": {"x": 2}, "other": {}})
    assert info.read_bytes().startswith(kept + b',\n  "mine": {\n    "x": 2\n  },\n  "other": {}\n}')
    assert json.loads(info.read_bytes()) == {**json.loads(before), "mine": {"x": 2}, "other": {}}


def test_the_same_entries_leave_the_file_untouched(tmp_path):
    merge_dataset_info(tmp_path, {"demo": {"a": 1}})
    before = (tmp_path / "dataset_info.json").stat().st_ino
    merge_dataset_info(tmp_path, {"demo": {"a": 1}})
    assert (tmp_path / "dataset_info.json").stat().st_ino == before


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_dataset_info_is_not_overwritten(tmp_path, content):
    (tmp_path / "dataset_info.json").write_text(content, encoding="utf-8")
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "dataset_info.json"))):
        merge_dataset_info(tmp_path, {"demo": {}})
    assert (tmp_path / "dataset_info.json").read_text(encoding="utf-8") == content
