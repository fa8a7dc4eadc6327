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
}


@pytest.mark.parametrize("behind", [b"", b'{"id": "z"}\n'], ids=["at the end", "in the middle"])
@pytest.mark.parametrize("torn", TORN.values(), ids=TORN.keys())
def test_a_journal_goes_on_after_a_torn_line(tmp_path, torn, behind):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b\xc3\xa4"}\n' + torn + behind)
    with storage.Journal(path) as journal:
        assert len(journal) == 2
        assert ["a" in journal, "b\u00e4" in journal, "c" in journal, "z" in journal] == [True, True, False, False]
        journal.append({"id": "c"})
        assert journal.read("c") == {"id": "c"}
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "b\xc3\xa4"}\n{"id": "c"}\n'


def test_a_whole_journal_is_not_touched(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"id": "a"}\n')
    os.utime(path, ns=(0, 0))
    with storage.Journal(path) as journal:
        assert "a" in journal
    assert path.stat().st_mtime_ns == 0


def test_a_journals_rows_are_on_disk_as_they_are_written(tmp_path):
    with storage.Journal(tmp_path / "j.jsonl") as journal:
        journal.append({"id": "a"})
        assert (tmp_path / "j.jsonl").read_bytes() == b'{"id": "a"}\n'


def test_a_journals_rows_are_read_from_the_disk_in_any_order(tmp_path):
    rows = [{"id": f"r{n}", "text": "\u00fc\u65e5\U0001f600" * n, "x": [n / 3, -1, 1e300, None]} for n in range(20)]
    with storage.Journal(tmp_path / "j.jsonl") as journal:
        for row in rows[:10]:
            journal.append(row)
    with storage.Journal(tmp_path / "j.jsonl") as journal:
        for row in rows[10:]:
            journal.append(row)
            assert journal.read(rows[0]["id"]) == rows[0]  # reading moves no place of writing
        assert [journal.read(row["id"]) for row in reversed(rows)] == rows[::-1]
        with pytest.raises(KeyError):
            journal.read("r20")
    assert list(storage.read_jsonl(tmp_path / "j.jsonl")) == rows


@pytest.mark.parametrize("row", [{"id": "a", "x": 2}, {"x": 2}, {"id": 5}, {"id": "b", "x": float("nan")}])
def test_a_row_that_a_journal_could_not_find_again_is_refused(tmp_path, row):
    with storage.Journal(tmp_path / "j.jsonl") as journal:
        journal.append({"id": "a"})
        with pytest.raises(ValueError, match=r"'a' already|must be a string|not JSON compliant"):
            journal.append(row)
        assert (len(journal), "b" in journal) == (1, False)
    assert (tmp_path / "j.jsonl").read_bytes() == b'{"id": "a"}\n'


def test_a_journal_that_somebody_else_changed_is_one_line(tmp_path):
    with storage.Journal(tmp_path / "j.jsonl") as journal:
        journal.append({"id": "a"})
        journal.append({"id": "b"})
        (tmp_path / "j.jsonl").write_bytes(b'{"id": "b"}\n')
        for identifier in "ab":
            with pytest.raises(StorageError, match=r"j\.jsonl was changed while it was open"):
                journal.read(identifier)


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
