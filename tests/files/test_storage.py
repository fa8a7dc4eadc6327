"""Files that survive: replaced whole or not at all, on a full disk, without permission and after a kill."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers.files import names, no_file_beyond, recorded_disk

from simulsa_plugin.audio.samples import write_wav
from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import (
    UNFINISHED,
    make_folder,
    make_own_folder,
    remove_abandoned,
    remove_durably,
    remove_leftovers,
    replacing,
    sync_files,
)
from simulsa_plugin.files.dataset_info import merge_dataset_info
from simulsa_plugin.files.journal import Journal
from simulsa_plugin.files.json_files import read_jsonl, write_json, write_jsonl
from simulsa_plugin.files.locks import LOCK, locked

NOBODY = 65534
MAKE_ROOM = r"Make room and start again: the run goes on where it stopped\.$"


@pytest.fixture
def forbidden():
    """A folder with a file, neither readable nor writable; a test that root runs is somebody else meanwhile."""
    folder = Path(tempfile.mkdtemp())
    (folder / "a.jsonl").write_bytes(b'{"id": "a"}\n')
    (folder / "dataset_info.json").write_bytes(b"{}")
    for name in names(folder):
        (folder / name).chmod(0o000)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        if not os.access(folder, os.X_OK, effective_ids=True):
            pytest.skip(f"whoever root becomes here cannot enter {folder.parent}")
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"ü": 1})
    assert target.read_text(encoding="utf-8") == '{\n  "ü": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, {"x": float("nan")})
    assert json.loads(target.read_text(encoding="utf-8")) == {"ü": 1}
    assert names(tmp_path) == ["a.json"]  # nothing temporary is left


def test_the_file_has_the_permissions_that_open_would_give(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    write_json(tmp_path / "a.json", 1)
    (tmp_path / "a.json").chmod(0o600)
    write_json(tmp_path / "a.json", 2)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600


LINK_WRITERS = {
    "a.json": lambda folder: write_json(folder / "a.json", 1),
    "j.jsonl": lambda folder: append(folder / "j.jsonl"),
    LOCK: lambda folder: lock(folder),
    "dataset_info.json": lambda folder: merge_dataset_info(folder, {"a": {}}),
    "folder": lambda folder: make_own_folder(folder / "folder"),
}


@pytest.mark.parametrize("behind", ["there", "nowhere", "itself"])
@pytest.mark.parametrize("name", LINK_WRITERS)
def test_nothing_is_written_through_a_link(tmp_path, name, behind):
    (tmp_path / "outside").write_bytes(b"{}")
    (tmp_path / "out").mkdir()
    target = {"there": "../outside", "nowhere": "../new", "itself": name}[behind]
    (tmp_path / "out" / name).symlink_to(target)
    with pytest.raises(StorageError, match=rf"^{tmp_path}/out/{re.escape(name)} is a link and will not be written"):
        LINK_WRITERS[name](tmp_path / "out")
    assert names(tmp_path) == ["out", "outside"]
    assert (tmp_path / "outside").read_bytes() == b"{}"
    assert os.readlink(tmp_path / "out" / name) == target
    assert names(tmp_path / "out") == [name]


def test_what_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(StorageError, match="Choose a folder that exists"):
        write_json(tmp_path / "no" / "a.json", 1)
    with pytest.raises(StorageError, match="not a regular file"):
        write_json(tmp_path, 1)


def test_content_is_on_the_disk_before_the_name_and_the_name_before_anything_else(tmp_path, monkeypatch):
    events = recorded_disk(monkeypatch)
    write_json(tmp_path / "a.json", 1)
    remove_durably(tmp_path / "a.json")
    remove_durably(tmp_path / "a.json")  # it is gone
    assert [(event, path.suffix or path) for event, path in events] == [
        ("fsync", UNFINISHED), ("replace", ".json"), ("fsync", tmp_path),
        ("unlink", ".json"), ("fsync", tmp_path),
    ]  # fmt: skip


def test_many_files_are_put_on_the_disk_together(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.wav" for number in range(3)]
    events = recorded_disk(monkeypatch)
    for path in paths:
        with replacing(path, durable=False) as handle:
            handle.write(b"0")
    assert not [path for event, path in events if event == "fsync"]
    events.clear()
    sync_files(paths)
    assert sorted(path for _, path in events[:3]) == paths
    assert events[3:] == [("fsync", tmp_path)]
    with pytest.raises(StorageError, match=r"Cannot write .*gone\.wav: No such file"):
        sync_files([tmp_path / "gone.wav"])


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.wav", "journal", "removed", "many"])
def test_a_disk_that_fails_when_it_is_to_be_sure_is_one_line(tmp_path, monkeypatch, name):
    path = tmp_path / "a.wav"
    writers = {
        **WRITERS,
        "journal": append,
        "removed": remove_durably,
        "many": lambda path: sync_files([path]),
    }
    path.touch()
    fail_sync(monkeypatch, errno.EIO)
    with pytest.raises(StorageError, match=rf"^Cannot write {re.escape(str(tmp_path))}.*: Input/output error\. "):
        writers[name](path)
    assert [other for other in names(tmp_path) if other.endswith(UNFINISHED)] == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_fsync_is_taken_as_it_is(tmp_path, monkeypatch, code):
    fail_sync(monkeypatch, code)
    write_json(tmp_path / "a.json", 1)
    append(tmp_path / "a.jsonl")
    sync_files([tmp_path / "a.json"])
    remove_durably(tmp_path / "a.json")
    assert names(tmp_path) == ["a.jsonl"]


def fail_sync(monkeypatch, code):
    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)


WRITE = """
import sys, time
from pathlib import Path
from simulsa_plugin.files.atomic import replacing
with replacing(Path(sys.argv[1]), "w"):
    print("open", flush=True)
    time.sleep(60)
"""


def test_what_killed_writers_left_is_removed_and_what_others_are_writing_is_not(tmp_path):
    path = tmp_path / "a.json"
    for kept in (".a.json.b.c.unfinished", ".ab.json.x.unfinished", "a.json.x.unfinished"):
        (tmp_path / kept).touch()  # of a file "a.json.b", of another, and somebody else's
    (tmp_path / ".a.json.link.unfinished").symlink_to("ab")
    before = names(tmp_path)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [writer.stdout.readline() for writer in writers] == ["open\n"] * 2
    writers[0].kill()
    writers[0].wait()
    assert len(names(tmp_path)) == len(before) + 2
    remove_abandoned(path)
    assert len(names(tmp_path)) == len(before) + 1
    writers[1].kill()
    writers[1].wait()
    remove_abandoned(path)
    assert names(tmp_path) == before
    for writer in writers:
        writer.stdout.close()
    remove_abandoned(tmp_path / "gone" / "a.json")  # the writing itself will say so


def write_bytes(path, count):
    with replacing(path) as handle:
        handle.write(bytes(count))


def write_clip(path):
    with replacing(path) as handle:
        write_wav(handle, np.zeros(100, np.int16))


def append(path):
    with Journal(path) as journal:
        journal.append({"id": "a" * 100})


def lock(folder):
    with locked(folder):
        pass


WRITERS = {
    "a.json": lambda path: write_json(path, "a" * 100),
    "a.jsonl": lambda path: write_jsonl(path, [{"a": "b" * 100}]),
    "refused when it is closed": lambda path: write_bytes(path, 100),
    "refused when it is written": lambda path: write_bytes(path, 1_000_000),
    "a.wav": write_clip,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path, name):
    (tmp_path / name).write_bytes(b"old")
    said = f"^Cannot write {re.escape(str(tmp_path / name))}: File too large\\. {MAKE_ROOM}"
    with no_file_beyond(50), pytest.raises(StorageError, match=said):
        WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"old"
    assert names(tmp_path) == [name]
    WRITERS[name](tmp_path / name)
    assert (tmp_path / name).stat().st_size > 50


def test_a_disk_that_is_full_at_once_has_no_room_for_a_lock_either(tmp_path):
    said = rf"^Cannot write .*/\.simulsa\.lock: File too large\. {MAKE_ROOM}"
    with no_file_beyond(0), pytest.raises(StorageError, match=said):
        lock(tmp_path)
    assert names(tmp_path) == []


def test_what_fails_beside_the_writing_keeps_its_own_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt", "w") as handle:
        handle.write((tmp_path / "source.txt").read_text(encoding="utf-8"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_full_disk_does_not_hide_what_stopped_the_writer(tmp_path, mode, capfd):
    with no_file_beyond(0), pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt", mode) as handle:
        handle.write("half" if mode == "w" else b"half")  # still in the buffer
        raise KeyboardInterrupt
    del handle
    assert names(tmp_path) == []
    assert capfd.readouterr().err == ""


FORBIDDEN_WRITERS = {
    "replacing": lambda folder: write_json(folder / "a.json", 1),
    "make_folder": lambda folder: make_folder(folder / "deep" / "er"),
    "locked": lock,
    "journal": lambda folder: append(folder / "b.jsonl"),
    "merge_dataset_info": lambda folder: merge_dataset_info(folder, {"a": {}}),
}


@pytest.mark.parametrize("writer", FORBIDDEN_WRITERS)
def test_a_folder_that_may_not_be_written_is_one_line(forbidden, writer):
    said = f"^Cannot write .*{forbidden}.*: Permission denied\\. Choose another --out"
    with pytest.raises(StorageError, match=said):
        FORBIDDEN_WRITERS[writer](forbidden)
    assert names(forbidden) == ["a.jsonl", "dataset_info.json"]


def test_what_may_not_be_read_is_one_line(forbidden):
    with pytest.raises(
        StorageError, match=rf"^Cannot read {forbidden}/a\.jsonl: Permission denied\. Make it readable\.$"
    ):
        list(read_jsonl(forbidden / "a.jsonl"))


def test_leftovers_that_may_not_be_removed_are_one_line(forbidden):
    if os.getuid() == 0:
        os.seteuid(0)
    forbidden.chmod(0o777)
    (forbidden / f".a.json.ab12{UNFINISHED}").write_bytes(b"half")
    forbidden.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(NOBODY)
    with pytest.raises(StorageError, match=f"^Cannot write {forbidden}: Permission denied"):
        remove_leftovers(forbidden)


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path):
    (tmp_path / "dataset_info.json").mkdir()
    with pytest.raises(
        StorageError, match=r"^Cannot read .*/dataset_info\.json: Is a directory\. A file is expected\.$"
    ):
        list(read_jsonl(tmp_path / "dataset_info.json"))
    with pytest.raises(StorageError, match=r"^Cannot write .*/dataset_info\.json: Is a directory"):
        Journal(tmp_path / "dataset_info.json")
    with pytest.raises(StorageError, match=r"^Cannot read .*/dataset_info\.json: Is a directory"):
        merge_dataset_info(tmp_path, {"a": {}})


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_an_output_folder_that_is_a_file_is_one_line(tmp_path, below):
    (tmp_path / "data").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match=r"data.* file; the output needs a folder\. Choose another --out"):
        make_folder(tmp_path / "data" / below)


def test_jsonl_goes_round_and_keeps_its_umlauts(tmp_path):
    rows = [{"a": "Bücher\u2028", "b": [1.5, None]}, {"a": "日本"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert list(read_jsonl(tmp_path / "a.jsonl")) == rows
    assert "Bücher" in (tmp_path / "a.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", [b"[2]", b"{", b'{"a": "\xff"}'])
def test_a_broken_line_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(StorageError, match=r"a\.jsonl, line 2: not a JSON object"):
        list(read_jsonl(tmp_path / "a.jsonl"))
    with pytest.raises(StorageError, match=r"b\.jsonl does not exist"):
        list(read_jsonl(tmp_path / "b.jsonl"))


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from simulsa_plugin.files.atomic import replacing
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
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".mine"]


def test_leftovers_of_one_file_are_told_from_those_of_others(tmp_path):
    mine = [f".a[1].jsonl.ab12{UNFINISHED}", f".a[1].jsonl.cd34{UNFINISHED}"]
    others = [f".a1.jsonl.ab12{UNFINISHED}", f".a[1].jsonl.bak.ab12{UNFINISHED}", "a[1].jsonl"]
    for name in mine + others:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / f".folder{UNFINISHED}").mkdir()
    remove_leftovers(tmp_path, "a[1].jsonl")
    assert names(tmp_path) == sorted([*others, f".folder{UNFINISHED}"])
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [f".folder{UNFINISHED}", "a[1].jsonl"]
