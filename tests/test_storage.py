"""Files that survive: whole or not at all, resumable, and held by one process at a time."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from simulsa_plugin import storage
from simulsa_plugin.errors import StorageError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.json"
    storage.write_json(target, {"ü": 1})
    assert target.read_text(encoding="utf-8") == '{\n  "ü": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(target, {"x": float("nan")})
    assert json.loads(target.read_text(encoding="utf-8")) == {"ü": 1}
    assert names(tmp_path) == ["a.json"]  # nothing temporary is left


def test_the_file_has_the_permissions_that_open_would_give(tmp_path):
    before = os.umask(0o027)
    try:
        storage.write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.json").write_text("0", encoding="utf-8")
    (tmp_path / "link.json").symlink_to("real.json")
    storage.write_json(tmp_path / "link.json", 1)
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text(encoding="utf-8") == "1\n"


def test_what_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(StorageError, match="Choose a folder that exists"):
        storage.write_json(tmp_path / "no" / "a.json", 1)
    with pytest.raises(StorageError, match="no regular file"):
        storage.write_json(tmp_path, 1)


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_an_output_folder_that_is_a_file_is_one_line(tmp_path, below):
    (tmp_path / "data").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match=r"data.* file; the output needs a folder\. Choose another --out"):
        storage.make_folder(tmp_path / "data" / below)


def test_jsonl_goes_round_and_keeps_its_umlauts(tmp_path):
    rows = [{"a": "Bücher\u2028", "b": [1.5, None]}, {"a": "日本"}]
    storage.write_jsonl(tmp_path / "a.jsonl", rows)
    assert list(storage.read_jsonl(tmp_path / "a.jsonl")) == rows
    assert "Bücher" in (tmp_path / "a.jsonl").read_text(encoding="utf-8")


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[2]\n', encoding="utf-8")
    with pytest.raises(StorageError, match=r"a\.jsonl, line 2: not a JSON object"):
        list(storage.read_jsonl(tmp_path / "a.jsonl"))
    with pytest.raises(StorageError, match=r"b\.jsonl does not exist"):
        list(storage.read_jsonl(tmp_path / "b.jsonl"))


@pytest.mark.parametrize("torn", [b'{"id": "c", "lo', b'{"id": "c"}', b'{"id": "\xc3', b"{\n", b"\0\0\0\0\n"])
def test_a_journal_goes_on_after_a_torn_last_line(tmp_path, torn):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b"}\n' + torn)
    with storage.Journal(path) as journal:
        assert [row["id"] for row in journal.rows] == ["a", "b"]
        journal.append({"id": "c"})
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "b"}\n{"id": "c"}\n'


def test_a_journals_rows_are_on_disk_as_they_are_written(tmp_path):
    with storage.Journal(tmp_path / "j.jsonl") as journal:
        journal.append({"id": "a"})
        assert (tmp_path / "j.jsonl").read_bytes() == b'{"id": "a"}\n'


HOLD = """
import sys, time
from pathlib import Path
from simulsa_plugin.storage import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_held_folder_names_the_process(tmp_path, holder):
    said = f"is in use by process {holder.pid}\\. Wait for it, or choose another --out"
    with pytest.raises(StorageError, match=said), storage.locked(tmp_path):
        pass


def test_a_killed_holder_leaves_nothing_stale(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with storage.locked(tmp_path):
        assert (tmp_path / ".lock").read_text(encoding="utf-8") == f"{os.getpid()}\n"
    assert names(tmp_path) == []


def test_waiting_gets_the_folder_when_it_is_free(tmp_path):
    order = []

    def hold_briefly():
        with storage.locked(tmp_path):
            order.append("first")
            started.set()
            time.sleep(0.2)
            order.append("first is done")

    started = threading.Event()
    thread = threading.Thread(target=hold_briefly)
    thread.start()
    started.wait()
    with storage.locked(tmp_path, wait=True):
        order.append("second")
    thread.join()
    assert order == ["first", "first is done", "second"]


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from simulsa_plugin.storage import replacing
with replacing(Path(sys.argv[1]), "w") as handle:
    handle.write("half")
    handle.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_is_found_and_removed(tmp_path):
    target = tmp_path / "a.jsonl"
    process = subprocess.Popen([sys.executable, "-c", WRITE_SLOWLY, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.wait()
    process.stdout.close()
    (tmp_path / ".mine").write_text("", encoding="utf-8")
    assert len(names(tmp_path)) == 2
    storage.remove_leftovers(tmp_path)
    assert names(tmp_path) == [".mine"]


def test_merging_keeps_other_entries_and_their_order(tmp_path):
    info = tmp_path / "dataset_info.json"
    info.write_text(json.dumps({"mine": {"file_name": "x.json"}, "demo": {"file_name": "old"}}), encoding="utf-8")
    storage.merge_dataset_info(tmp_path, {"demo": {"file_name": "new"}, "demo_simulsa": {}})
    assert json.loads(info.read_text(encoding="utf-8")) == {
        "mine": {"file_name": "x.json"},
        "demo": {"file_name": "new"},
        "demo_simulsa": {},
    }
    assert names(tmp_path) == ["dataset_info.json"]


def test_the_same_entries_leave_the_file_untouched(tmp_path):
    storage.merge_dataset_info(tmp_path, {"demo": {"a": 1}})
    before = (tmp_path / "dataset_info.json").stat().st_ino
    storage.merge_dataset_info(tmp_path, {"demo": {"a": 1}})
    assert (tmp_path / "dataset_info.json").stat().st_ino == before


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_dataset_info_is_not_overwritten(tmp_path, content):
    (tmp_path / "dataset_info.json").write_text(content, encoding="utf-8")
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "dataset_info.json"))):
        storage.merge_dataset_info(tmp_path, {"demo": {}})
    assert (tmp_path / "dataset_info.json").read_text(encoding="utf-8") == content
