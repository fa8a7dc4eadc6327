"""Files that survive: whole or not at all, resumable, and held by one process at a time."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.files import no_file_beyond, recorded_disk
from helpers.processes import FORK, kill, lock_holder

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
from simulsa_plugin.files.json_files import dump_sealed, read_jsonl, read_whole_rows, write_json, write_jsonl
from simulsa_plugin.files.locks import LOCK, locked

NOBODY = 65534
MAKE_ROOM = r"Make room and start again: the run goes on where it stopped\.$"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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


def test_a_journal_is_on_the_disk_when_it_is_closed(tmp_path, monkeypatch):
    events = recorded_disk(monkeypatch)
    with Journal(tmp_path / "a.jsonl") as journal:
        journal.append({"id": "a"})
        assert events == []
    assert events == [("fsync", tmp_path / "a.jsonl"), ("fsync", tmp_path)]
    with Journal(tmp_path / "a.jsonl"):
        pass  # nothing new
    assert len(events) == 2


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


def test_a_full_disk_leaves_dataset_info_as_it_was(tmp_path):
    merge_dataset_info(tmp_path, {"mine": {}})
    with no_file_beyond(20), pytest.raises(StorageError, match=rf"dataset_info\.json: File too large\. {MAKE_ROOM}"):
        merge_dataset_info(tmp_path, {"other": {"file_name": "x"}})
    assert (tmp_path / "dataset_info.json").read_text(encoding="utf-8") == '{\n  "mine": {}\n}\n'
    assert names(tmp_path) == ["dataset_info.json"]


@pytest.mark.parametrize("room", [0, 1, 60, 137])  # before, in, and at the last byte of the second row
def test_a_journal_on_a_full_disk_is_as_it_was_and_goes_on_when_there_is_room(tmp_path, room):
    rows = [{"id": letter, "text": letter * 90} for letter in "abc"]
    first = len(dump_sealed(rows[0])) + 1
    assert first == 138
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append(rows[0])
        said = rf"^Cannot write .*/j\.jsonl: File too large\. {MAKE_ROOM}"
        with no_file_beyond(first + room), pytest.raises(StorageError, match=said):
            journal.append(rows[1])
        assert (tmp_path / "j.jsonl").stat().st_size == first
        assert ("a" in journal, "b" in journal, journal.read("a")) == (True, False, rows[0])
        journal.append(rows[1])
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append(rows[2])
    assert list(read_jsonl(tmp_path / "j.jsonl", sealed=True)) == rows


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
    with pytest.raises(StorageError, match=rf"^Cannot read {forbidden}/a\.jsonl: Permission denied\. Make it readable"):
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
    with pytest.raises(StorageError, match=r"^Cannot read .*/dataset_info\.json: Is a directory\. Make it readable"):
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


TORN = {
    "half a row": b'{"id": "c", "lo',
    "no newline": b'{"id": "c"}',
    "half a character": b'{"id": "\xc3',
    "half a character, and a newline": b'{"id": "\xc3\n',
    "no JSON": b"{\n",
    "zeros, as a lost page leaves them": b"\0\0\0\0\n",
    "a blank line": b"\n",
    "no object": b'["id"]\n',
    "no id": b'{"name": "c"}\n',
    "an id that is a number": b'{"id": 5}\n',
    "an id for the second time": b'{"id": "a", "again": true}\n',
    "NaN, which is no JSON": b'{"id": "c", "x": NaN}\n',
    "deeper than any row": b"[" * 100_000 + b"\n",
    "two rows in one line": b'{"id": "c"}{"id": "d"}\n',
    "a changed digit": b'{"id": "c", "x": 2, "checksum": "d8d3c5a1"}\n',
}


@pytest.mark.parametrize("behind", [b"", b'{"id": "z"}\n'], ids=["at the end", "in the middle"])
@pytest.mark.parametrize("torn", TORN.values(), ids=TORN.keys())
def test_a_journal_goes_on_after_a_torn_line(tmp_path, torn, behind):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b\xc3\xa4"}\n' + torn + behind)
    with Journal(path) as journal:
        assert len(journal) == 2
        assert ["a" in journal, "b\u00e4" in journal, "c" in journal, "z" in journal] == [True, True, False, False]
        journal.append({"id": "c"})
        assert journal.read("c") == {"id": "c"}
    sealed = dump_sealed({"id": "c"}).encode()
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "b\xc3\xa4"}\n' + sealed + b"\n"


def test_a_whole_journal_is_not_touched(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"id": "a"}\n')
    os.utime(path, ns=(0, 0))
    with Journal(path) as journal:
        assert "a" in journal
    assert path.stat().st_mtime_ns == 0


def test_a_journals_rows_are_on_disk_as_they_are_written(tmp_path):
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append({"id": "a"})
        assert (tmp_path / "j.jsonl").read_bytes() == b'{"id": "a", "checksum": "af678071"}\n'


def test_a_row_that_was_changed_is_named_and_one_that_was_only_written_otherwise_is_not(tmp_path):
    rows = [{"id": f"ü{number}", "x": [number / 3, None, 1e-9]} for number in range(3)]
    sealed = [dump_sealed(row) for row in rows]
    assert dump_sealed(json.loads(sealed[0])) == sealed[0]
    path = tmp_path / "a.jsonl"
    otherwise = json.dumps(json.loads(sealed[0]), separators=(",", ":"))
    path.write_text("\n".join([otherwise, *sealed[1:]]), encoding="utf-8")
    assert list(read_jsonl(path, sealed=True)) == list(read_whole_rows(path)) == rows
    for number in range(len(sealed[1].encode())):
        changed = bytearray(sealed[1].encode())
        changed[number] ^= 1
        path.write_bytes(b"\n".join([sealed[0].encode(), changed, sealed[2].encode()]))
        whole = list(read_whole_rows(path))
        assert whole[:1] + whole[-1:] == rows[::2]
        # What changed in the name of the checksum itself leaves a row without one.
        assert len(whole) == 2 or [row for key, row in whole[1].items() if key in rows[1]] == [*rows[1].values()]
        if len(whole) == 2:
            with pytest.raises(StorageError, match=r"a\.jsonl, line 2: (damaged, or changed|not a JSON object)"):
                list(read_jsonl(path, sealed=True))


def test_a_journals_rows_are_read_from_the_disk_in_any_order(tmp_path):
    rows = [{"id": f"r{n}", "text": "\u00fc\u65e5\U0001f600" * n, "x": [n / 3, -1, 1e300, None]} for n in range(20)]
    with Journal(tmp_path / "j.jsonl") as journal:
        for row in rows[:10]:
            journal.append(row)
    with Journal(tmp_path / "j.jsonl") as journal:
        for row in rows[10:]:
            journal.append(row)
            assert journal.read(rows[0]["id"]) == rows[0]  # reading moves no place of writing
        assert [journal.read(row["id"]) for row in reversed(rows)] == rows[::-1]
        with pytest.raises(KeyError):
            journal.read("r20")
    assert list(read_jsonl(tmp_path / "j.jsonl", sealed=True)) == rows


@pytest.mark.parametrize("row", [{"id": "a", "x": 2}, {"x": 2}, {"id": 5}, {"id": "b", "x": float("nan")}])
def test_a_row_that_a_journal_could_not_find_again_is_refused(tmp_path, row):
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append({"id": "a"})
        with pytest.raises(ValueError, match=r"'a' already|must be a string|not JSON compliant"):
            journal.append(row)
        assert (len(journal), "b" in journal) == (1, False)
    assert [row["id"] for row in read_jsonl(tmp_path / "j.jsonl")] == ["a"]


def test_a_journal_that_somebody_else_changed_is_one_line(tmp_path):
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append({"id": "a"})
        journal.append({"id": "b"})
        (tmp_path / "j.jsonl").write_bytes(b'{"id": "b"}\n')
        for identifier in "ab":
            with pytest.raises(StorageError, match=r"j\.jsonl was changed while it was open"):
                journal.read(identifier)


HOLD = """
import sys, time
from pathlib import Path
from simulsa_plugin.files.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    with lock_holder(tmp_path) as process:
        yield process


def test_a_held_folder_names_the_process(tmp_path, holder):
    said = f"is in use by process {holder.pid}\\. Wait for it, or choose another --out"
    with pytest.raises(StorageError, match=said), locked(tmp_path):
        pass


def test_a_killed_holder_leaves_nothing_stale(tmp_path, holder):
    kill(holder)
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text(encoding="utf-8") == f"{os.getpid()}\n"
    assert names(tmp_path) == []


FORK_AND_DIE = """
import os, signal, sys, time
from pathlib import Path
from simulsa_plugin.files.locks import locked
started, ready = os.pipe()
with locked(Path(sys.argv[1])):
    if not os.fork():
        print(os.getpid(), flush=True)
        os.write(ready, b".")
        time.sleep(60)
    os.read(started, 1)  # the child is itself by now
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_outlives_its_killed_parent_holds_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", FORK_AND_DIE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        assert process.wait(60) == -signal.SIGKILL
        os.kill(child, 0)  # it lives
        lock(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_a_worker_that_unwinds_takes_no_lock_away(tmp_path):
    parent = os.getpid()
    try:
        with locked(tmp_path):
            if not os.fork():
                raise SystemExit  # leaves the block, in the child
            os.wait()
            assert names(tmp_path) == [LOCK]
            refused = subprocess.run(
                [sys.executable, "-c", HOLD, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
            )
    finally:
        if os.getpid() != parent:
            os._exit(0)
    assert f"is in use by process {parent}." in refused.stderr


def count_up(folder, times):
    for _ in range(times):
        with locked(folder, wait=True):
            count = int((folder / "count").read_text(encoding="utf-8"))
            time.sleep(0)
            (folder / "count").write_text(str(count + 1), encoding="utf-8")


def test_two_never_hold_a_folder_though_each_removes_the_lock_file(tmp_path):
    (tmp_path / "count").write_text("0", encoding="utf-8")
    workers = [FORK.Process(target=count_up, args=(tmp_path, 100)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (tmp_path / "count").read_text(encoding="utf-8") == "400"
    assert names(tmp_path) == ["count"]


def append_until_killed(path, total):
    with Journal(path) as journal:
        for number in range(total):
            if f"r{number}" not in journal:
                journal.append({"id": f"r{number}", "text": "für" * (number % 500)})


def test_a_journal_killed_at_any_moment_goes_on_with_the_same_bytes(tmp_path):
    append_until_killed(tmp_path / "whole.jsonl", 3000)
    moments, kills = random.Random(3), 0
    for _ in range(200):
        worker = FORK.Process(target=append_until_killed, args=(tmp_path / "j.jsonl", 3000))
        worker.start()
        worker.join(moments.uniform(0.001, 0.02))
        worker.kill()
        worker.join()
        kills += worker.exitcode == -signal.SIGKILL
        if worker.exitcode == 0:
            break
    append_until_killed(tmp_path / "j.jsonl", 3000)
    assert kills > 0
    assert (tmp_path / "j.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_waiting_gets_the_folder_when_it_is_free(tmp_path):
    order = []

    def hold_briefly():
        with locked(tmp_path):
            order.append("first")
            started.set()
            time.sleep(0.2)
            order.append("first is done")

    started = threading.Event()
    thread = threading.Thread(target=hold_briefly)
    thread.start()
    started.wait()
    with locked(tmp_path, wait=True):
        order.append("second")
    thread.join()
    assert order == ["first", "first is done", "second"]


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
