"""Output below an address: what a run leaves there, runs that are killed, and two runs at once."""

import functools
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import driver
import fsspec
import pytest
from helpers.files import tree as checksums_of

from simulsa_plugin.errors import FolderInUseError, MissingExtraError, StorageError, UsageError
from simulsa_plugin.files import lease, mirror, remote
from simulsa_plugin.files.pid_namespace import pid_namespace

OUT = "s3://corpus/out"
KILLS = 3


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mirror, "PUSH_SECONDS", 3600.0)
    monkeypatch.setattr(mirror, "_SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.05)


def checksum(data):
    return hashlib.sha256(data).hexdigest()


def objects(store, prefix="out/"):
    """Name → checksum of the result."""
    keys = [key for key in store.keys(prefix) if not key.startswith(f"{prefix}.simulsa/")]
    return {key.removeprefix(prefix): checksum(store.get(key)) for key in keys}


def another_machine(monkeypatch, tmp_path, number):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{number}"))


def held(process=None, host="elsewhere", beat=0):
    return json.dumps({"holder": "x", "host": host, "boot": pid_namespace(), "process": process, "beat": beat}).encode()


@pytest.fixture
def expected(tmp_path):
    """The files of the same run in a folder."""
    driver.run(tmp_path / "offline", tmp_path / "local")
    return {name: data for name, data in checksums_of(tmp_path / "local").items() if not name.endswith(".lock")}


def test_a_run_leaves_below_the_address_what_it_leaves_in_a_folder(store, tmp_path, expected):
    with mirror.mirrored(OUT) as folder:
        driver.run(tmp_path / "offline", folder)
    assert objects(store) == expected
    assert sorted(store.keys("out/.simulsa")) == ["out/.simulsa/driver"]


def start(store, tmp_path, cache, seconds=0.05):
    environment = {**os.environ, **store.environment, "XDG_CACHE_HOME": str(tmp_path / cache)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    return subprocess.Popen(
        [sys.executable, driver.__file__, OUT, str(tmp_path / "offline"), str(seconds)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def test_a_killed_driver_is_continued_on_another_machine(store, tmp_path, expected):
    process = start(store, tmp_path, "a", seconds=2.0)
    until(lambda: any("/.simulsa/journals/" in path for method, path, _ in store.requests if method == "PUT"), process)
    process.kill()
    process.communicate()
    assert "toy_simulsa/manifest.json" not in objects(store)
    store.requests.clear()
    finish(start(store, tmp_path, "b", seconds=0.0))
    fetched = [path for method, path, _ in store.requests if method == "GET"]
    assert objects(store) == expected
    assert store.keys("out/.simulsa") == ["out/.simulsa/driver"]
    assert any("/.simulsa/journals/" in path for path in fetched)
    assert not any("/clips/" in path for path in fetched)


def test_a_driver_that_is_terminated_writes_what_it_has_and_gives_back_the_lease(store, tmp_path):
    process = start(store, tmp_path, "a", seconds=0.3)
    journal = f"out/{mirror._JOURNALS}/toy_simulsa/scores.partial.jsonl/"
    until(lambda: store.keys(journal), process)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert "out/.simulsa/lease" not in store.keys("out/")
    (here,) = (tmp_path / "a").rglob("scores.partial.jsonl")
    assert b"".join(map(store.get, store.keys(journal))) == here.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("same_machine", [True, False])
def test_drivers_killed_at_any_moment_end_with_the_same_bytes(store, tmp_path, expected, same_machine):
    moments = random.Random(5)
    for number in range(KILLS):
        process = start(store, tmp_path, "a" if same_machine else str(number))
        until(functools.partial(has_begun, process, store, len(store.requests)))
        time.sleep(moments.uniform(0.0, 2.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(store, tmp_path, "a" if same_machine else "last", seconds=0.0))
    assert objects(store) == expected


def has_begun(process, store, before):
    return len(store.requests) > before or process.poll() is not None


def until(condition, process=None, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_was_not_written_stays_in_the_cache(store, tmp_path, monkeypatch):
    with pytest.raises(StorageError), mirror.mirrored(OUT) as folder:
        (folder / "a.txt").write_text("a")
        monkeypatch.setattr(remote, "upload", refuse)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    with mirror.mirrored(OUT) as folder:
        assert (folder / "a.txt").read_text() == "a"
    assert objects(store) == {"a.txt": checksum(b"a")}


def refuse(*_):
    raise StorageError("Cannot write: no room.")


def test_a_folder_that_another_machine_has_gone_on_with_is_fetched_again(store, tmp_path, monkeypatch):
    with mirror.mirrored(OUT) as folder:
        (folder / "a.txt").write_text("a")
        (folder / "b.txt").write_text("b")
    another_machine(monkeypatch, tmp_path, 2)
    with mirror.mirrored(OUT) as folder:
        (folder / "a.txt").write_text("new")
        (folder / "b.txt").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with mirror.mirrored(OUT) as folder:
        assert (folder / "a.txt").read_text() == "new"
        assert not (folder / "b.txt").exists()
    assert objects(store) == {"a.txt": checksum(b"new")}


def test_a_cache_that_was_removed_takes_nothing_out_of_the_store(store, tmp_path):
    with mirror.mirrored(OUT) as folder:
        (folder / "a.txt").write_text("a")
    shutil.rmtree(folder)
    with mirror.mirrored(OUT) as folder:
        assert (folder / "a.txt").read_text() == "a"
    assert objects(store) == {"a.txt": checksum(b"a")}


def test_a_cache_that_is_removed_meanwhile_takes_nothing_out_of_the_store(store, tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="was removed while the run worked there"), mirror.mirrored(OUT) as folder:
        held_by = mirror.Mirror(OUT, folder, types.SimpleNamespace(check=lambda **_: None))
        (folder / "a.txt").write_text("a")
        held_by.push()
        shutil.rmtree(tmp_path / "cache")
        for _ in range(2):
            with pytest.raises(StorageError, match="was removed while the run worked there"):
                held_by.push()
    assert objects(store) == {"a.txt": checksum(b"a")}


def test_what_others_put_below_the_address_stays(store, tmp_path, monkeypatch):
    with mirror.mirrored(OUT) as folder:
        (folder / "a.txt").write_text("a")
        (folder / "b.txt").write_text("b")
    store.put("out/notes.txt", b"mine")
    store.put("out/x/mine.jsonl", b"{}")
    theirs = {"notes.txt": checksum(b"mine"), "x/mine.jsonl": checksum(b"{}")}
    for _ in range(2):
        with mirror.mirrored(OUT) as folder:
            (folder / "b.txt").unlink(missing_ok=True)
        assert objects(store) == {"a.txt": checksum(b"a"), **theirs}
    another_machine(monkeypatch, tmp_path, 2)
    with mirror.mirrored(OUT) as folder:
        (folder / "a.txt").write_text("new")
    assert objects(store) == {"a.txt": checksum(b"new"), **theirs}


def test_a_file_removed_just_before_a_kill_is_removed_below_the_address(store, tmp_path):
    with mirror.mirrored(OUT) as folder:
        (folder / "decoding").mkdir()
        (folder / "decoding" / "block").write_text("b")
    shutil.rmtree(folder / "decoding")  # as a run does that is killed before it can push
    with mirror.mirrored(OUT):
        pass
    assert objects(store) == {}


def test_an_address_below_that_of_another_output_is_refused(store):
    with mirror.mirrored(OUT) as folder:
        (folder / "a.txt").write_text("a")
    with (
        pytest.raises(StorageError, match=r"^s3://corpus/out/sub lies below s3://corpus/out, which holds the output"),
        mirror.mirrored(f"{OUT}/sub"),
    ):
        pass
    with pytest.raises(StorageError, match="was not made by this command"), mirror.mirrored("s3://corpus"):
        pass


def test_an_error_names_the_address_that_was_given(store):
    with (
        pytest.raises(StorageError, match=r"s3://no-such-bucket/out(?!/\.simulsa)"),
        mirror.mirrored("s3://no-such-bucket/out"),
    ):
        pass


def test_journals_do_not_wait_for_thousands_of_clips(store, monkeypatch):
    monkeypatch.setattr(mirror, "_AUDIO_AT_ONCE", 1)
    with mirror.mirrored(OUT) as folder:
        monkeypatch.setattr(mirror, "PUSH_SECONDS", -1.0)  # not before: the run would push all the time beside this
        held_by = mirror.Mirror(OUT, folder, types.SimpleNamespace(check=lambda **_: None))
        for name in ("a.wav", "b.wav", "manifest.json", "scores.partial.jsonl"):
            (folder / name).write_text("x\n")
        held_by.push()
        assert [key for key in store.keys("out/") if "/.simulsa/d" not in key and "/.simulsa/l" not in key] == [
            "out/.simulsa/journals/scores.partial.jsonl/000000000000000",
            "out/started.json",  # what the manifest says, until that is there
        ]
        held_by.push(ends=True)
        assert objects(store).keys() == {"a.wav", "b.wav", "manifest.json"}


def test_journals_are_written_in_pieces_of_whole_lines(store, monkeypatch):
    with mirror.mirrored(OUT) as folder:
        held_by = mirror.Mirror(OUT, folder, types.SimpleNamespace(check=lambda **_: None))
        journal = folder / "scores.partial.jsonl"
        for text in ('{"id": "1"}\n{"id": "2"}\n{"i', 'd": "3"}\n'):
            with journal.open("a") as handle:
                handle.write(text)
            held_by.push()
        pieces = {key: store.get(key) for key in store.keys("out/.simulsa/journals")}
        assert list(pieces.values()) == [b'{"id": "1"}\n{"id": "2"}\n', b'{"id": "3"}\n']
        assert [key.rpartition("/")[2] for key in pieces] == ["000000000000000", "000000000000024"]
        journal.unlink()
        journal.write_text('{"id": "9"}\n')  # begun anew
        held_by.push()
        assert [store.get(key) for key in store.keys("out/.simulsa/journals")] == [b'{"id": "9"}\n']
        journal.unlink()
        held_by.push()
        assert len(store.keys("out/.simulsa/journals")) == 1  # what replaces it is written before it goes
        held_by.push()
        assert store.keys("out/.simulsa/journals") == []


def test_pieces_are_put_together_and_stale_ones_left_out(store, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), mirror.mirrored(OUT) as folder:
        (folder / "a.partial.jsonl").write_text("one\ntwo\n")
        raise KeyboardInterrupt
    for start, text in ((4, b"old\n"), (8, b"three\n"), (99, b"stray\n")):
        store.put(f"out/.simulsa/journals/a.partial.jsonl/{start:015d}", text)
    another_machine(monkeypatch, tmp_path, 2)
    with mirror.mirrored(OUT) as folder:
        assert (folder / "a.partial.jsonl").read_text() == "one\ntwo\nthree\n"
        (folder / "a.partial.jsonl").unlink()
    assert store.keys("out/") == ["out/.simulsa/driver"]


def test_unfinished_files_and_locks_stay_here(store):
    with mirror.mirrored(OUT) as folder:
        (folder / ".a.x.unfinished").write_text("half")
        (folder / "00001.unfinished").mkdir()
        (folder / "00001.unfinished" / "a").write_text("half")
        (folder / ".simulsa.lock").write_text("1")
        (folder / "link").symlink_to("/etc/passwd")
        (folder / "a").write_text("whole")
    assert objects(store) == {"a": checksum(b"whole")}


def test_what_no_run_wrote_is_left_alone(store):
    store.put("out/mine.txt", b"mine")
    with (
        pytest.raises(StorageError, match=r"s3://corpus/out/mine\.txt was not made by this command"),
        mirror.mirrored(OUT),
    ):
        pass
    assert store.keys("out/") == ["out/mine.txt"]


def test_a_folder_that_was_made_in_a_console_is_empty(store):
    store.put("out/", b"")
    with mirror.mirrored(OUT) as folder:
        (folder / "a").write_text("a")
    assert store.keys("out/") == ["out/", "out/.simulsa/driver", "out/a"]
    assert remote.list_folder(OUT) == [f"{OUT}/a"]


def test_a_missing_package_is_named_at_once(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    remote.forget()
    monkeypatch.setattr(fsspec, "filesystem", missing)
    with (
        pytest.raises(MissingExtraError, match=r"s3:// needs the package s3fs\. .*pip install '\.\[s3\]'"),
        mirror.mirrored(OUT),
    ):
        pass


def test_names_that_lead_out_of_the_folder_are_refused(store, tmp_path, monkeypatch):
    store.put("out/.simulsa/driver", b"x")
    store.put("out/a/../../../owned", b"x")
    with pytest.raises(StorageError, match="is not the name of a file of a run"), mirror.mirrored(OUT):
        pass
    assert not list(tmp_path.rglob("owned"))


# The lease


def test_a_second_driver_is_refused_and_the_first_one_named(store, tmp_path, monkeypatch):
    with mirror.mirrored(OUT):
        with pytest.raises(FolderInUseError, match=rf"^{OUT} is in use by process {os.getpid()}"), mirror.mirrored(OUT):
            pass
        another_machine(monkeypatch, tmp_path, 2)
        monkeypatch.setattr(lease, "_is_dead_here", lambda _: False)  # both have the number of this process
        with (
            pytest.raises(FolderInUseError, match=rf"^{OUT} is in use by process {os.getpid()} on "),
            mirror.mirrored(OUT),
        ):
            pass
    with mirror.mirrored(OUT):
        pass


def test_a_holder_elsewhere_that_gives_no_sign_is_followed(store):
    store.put("out/.simulsa/lease", held(process=1))
    begin = time.monotonic()
    with mirror.mirrored(OUT):
        assert time.monotonic() - begin > lease.LEASE_SECONDS
    assert store.keys("out/") == ["out/.simulsa/driver"]


def test_a_dead_process_of_this_machine_is_followed_at_once(store, monkeypatch):
    dead = subprocess.Popen(["true"])
    dead.wait()
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3600.0)
    store.put("out/.simulsa/lease", held(dead.pid, socket.gethostname()))
    with mirror.mirrored(OUT):
        pass


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("code", ["PreconditionFailed", "ConditionalRequestConflict", "NotImplemented"])
def test_stores_have_words_of_their_own_for_an_object_that_is_there(store, monkeypatch, code, there):
    """Not all name the condition, for which s3fs looks; S3 has another word while two create the same."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    def refuse(*_, **__):
        raise translate_boto_error(ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject"))

    written, filesystem = [], remote.filesystem(OUT)[0]
    monkeypatch.setattr(filesystem, "pipe_file", refuse)
    monkeypatch.setattr(remote, "write", lambda *arguments: written.append(arguments))
    if there:
        store.put("out/a", b"theirs")
    assert remote.create(f"{OUT}/a", b"mine") == (code == "NotImplemented" and not there)
    assert written == ([(f"{OUT}/a", b"mine")] if code == "NotImplemented" and not there else [])


@pytest.mark.parametrize("other", [True, False])
def test_numbers_of_processes_count_within_a_container_alone(monkeypatch, other):
    """Two containers with the name of their machine: the first process of each has the same number."""
    with monkeypatch.context() as elsewhere:
        if other:
            elsewhere.setattr(os, "readlink", lambda path: "pid:[4026532999]")
        lease_of_the_first = json.loads(held(os.getpid(), socket.gethostname()))
    assert lease._is_dead_here(lease_of_the_first) == (not other)


def test_a_driver_that_was_silent_for_too_long_writes_nothing_more(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 3600.0)  # silent: a beat could overwrite the other's lease
    with pytest.raises(StorageError, match="no longer this process's"), mirror.mirrored(OUT) as folder:
        store.put("out/.simulsa/lease", held(process=7, beat=3))  # taken over
        (folder / "a").write_text("late")
    assert "out/a" not in store.keys("out/")
    assert json.loads(store.get("out/.simulsa/lease"))["process"] == 7


def test_a_run_that_has_lost_its_output_ends_instead_of_computing_for_nothing(store, tmp_path):
    process = start(store, tmp_path, "a", seconds=3600.0)

    def take_over():
        if "out/.simulsa/lease" in store.keys("out/"):
            store.put("out/.simulsa/lease", held(process=7))
        return process.poll() is not None

    until(take_over)
    said = process.communicate()[1]
    assert process.returncode == 1
    assert f"OutputLostError: {OUT} is no longer this process's" in said
    assert "_TerminatedError" not in said


def test_a_lease_that_is_given_back_goes_to_who_takes_it_first(store, monkeypatch):
    store.put("out/.simulsa/lease", held(process=1))
    read, seen = remote.read, []

    def give_back(url):
        """Two processes wait; the lease is given back, and the other one is quicker."""
        seen.append(url)
        if len(seen) in (3, 6):
            store.put("out/.simulsa/lease", held(process=2, beat=len(seen)))
        return None if len(seen) == 3 else read(url)

    monkeypatch.setattr(remote, "read", give_back)
    with pytest.raises(FolderInUseError, match="in use by process 2"):
        lease.Lease(f"{OUT}/.simulsa/lease", OUT).take()
    assert json.loads(store.get("out/.simulsa/lease"))["process"] == 2


def test_a_lease_that_holds_nothing_is_that_of_a_dead_process(store):
    store.put("out/.simulsa/lease", b"{}")
    with mirror.mirrored(OUT):
        pass
    assert store.keys("out/") == ["out/.simulsa/driver"]


@pytest.mark.parametrize("suspended", [True, False])
def test_a_driver_asks_for_its_lease_before_it_writes(store, monkeypatch, suspended):
    """A suspended machine, whose clocks stand still but for one; or a store that lets two create the same object."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 3600.0)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 90.0)
    mine = lease.Lease(f"{OUT}/.simulsa/lease", OUT)
    mine.take()
    store.put("out/.simulsa/lease", held(process=7))
    if suspended:
        later = time.clock_gettime(time.CLOCK_BOOTTIME) + 100
        monkeypatch.setattr(time, "clock_gettime", lambda _: later)
    with pytest.raises(StorageError, match="no longer this process's"):
        mine.check(anew=not suspended)
    mine.release()
    assert json.loads(store.get("out/.simulsa/lease"))["process"] == 7


@pytest.mark.parametrize("url", ["https://example.org/out", "ftp://a/b", "file:///out", "s3://a/b?c=d"])
def test_addresses_that_cannot_be_written_are_refused(url):
    with pytest.raises(UsageError, match=r"allowed: a folder, or s3://…, gs://…"), mirror.mirrored(url):
        pass
