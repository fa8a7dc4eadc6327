"""Journals: rows that are on the disk as they are written, after a kill and on a full disk too."""

import json
import os
import random
import signal

import pytest
from helpers.files import no_file_beyond, recorded_disk
from helpers.processes import FORK

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.journal import Journal
from simulsa_plugin.files.json_files import dump_sealed, read_jsonl, read_whole_rows

MAKE_ROOM = r"Make room and start again: the run goes on where it stopped\.$"


def test_a_journal_is_on_the_disk_when_it_is_closed(tmp_path, monkeypatch):
    events = recorded_disk(monkeypatch)
    with Journal(tmp_path / "a.jsonl") as journal:
        journal.append({"id": "a"})
        assert events == []
    assert events == [("fsync", tmp_path / "a.jsonl"), ("fsync", tmp_path)]
    with Journal(tmp_path / "a.jsonl"):
        pass  # nothing new
    assert len(events) == 2


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
