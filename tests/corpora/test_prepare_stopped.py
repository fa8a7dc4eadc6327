"""A raw corpus that is stopped, killed or prepared by several at once becomes the same dataset, byte by byte.

Run as a program, this file is the server of `helpers.killing`.
"""

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import sys
import threading
from dataclasses import replace

import pytest
from helpers.fakes import Killed
from helpers.files import no_file_beyond, tree
from helpers.killing import MOST_RUNS, Server, serve
from prepared_corpora import make, refusal, snapshot, stop_at, write_mustc, write_parquet

from simulsa_plugin.corpora import placement
from simulsa_plugin.corpora import prepare as module
from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.errors import FolderInUseError, StorageError
from simulsa_plugin.files.atomic import UNFINISHED
from simulsa_plugin.files.locks import locked
from simulsa_plugin.run_configuration import RunFolder

KILLS = 16


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("place", "name"),
    [(placement, "_write"), (placement, "audio_info"), (placement, "write_wav"), (RunFolder, "begin"),
     (RunFolder, "finish"), (module, "write_jsonl"), (module, "remove_durably"), (module, "add_datasets")],
)  # fmt: skip
def test_stopped_anywhere_it_goes_on_and_ends_with_the_same_bytes(mustc, out, monkeypatch, place, name, workers):
    settings = replace(mustc, corpus_workers=workers)
    make(settings, out)
    expected = tree(out)
    shutil.rmtree(out)
    for call in range(1, MOST_RUNS):
        calls = stop_at(monkeypatch, place, name, call)
        with contextlib.suppress(Killed):
            make(settings, out)
        monkeypatch.undo()
        monkeypatch.setenv("HF_DATASETS_CACHE", str(out.parent / "cache"))
        if len(calls) < call:
            break
        make(settings, out)
        assert tree(out) == expected, f"stopped at call {call}"
        shutil.rmtree(out)
    assert call > 1
    assert tree(out) == expected


def test_gone_on_with_parts_are_not_cut_again(mustc, out, monkeypatch):
    stop_at(monkeypatch, placement, "_write", 5)
    with pytest.raises(Killed):
        make(mustc, out)
    monkeypatch.undo()
    done = {name: one for name, one in snapshot(out).items() if name.endswith(".wav")}
    assert len(done) == 4
    calls = stop_at(monkeypatch, placement, "_write", MOST_RUNS)
    make(mustc, out)
    assert len(calls) == 7 - 4
    assert {name: snapshot(out)[name] for name in done} == done


def test_a_full_disk_is_one_line_and_with_room_it_ends_with_the_same_bytes(mustc, out):
    make(mustc, out)
    expected = tree(out)
    sizes = sorted({path.stat().st_size for path in out.rglob("*") if path.is_file()})
    shutil.rmtree(out)
    assert len(sizes) > 8
    for size in sizes:  # each file in turn is the first that does not fit
        with no_file_beyond(size - 1):
            message = refusal(StorageError, lambda: make(mustc, out))
        assert message.endswith("Make room and start again: the run goes on where it stopped.")
        assert not list(out.rglob(f"*{UNFINISHED}"))
        make(mustc, out)
        assert tree(out) == expected
        shutil.rmtree(out)


def test_a_folder_in_use_is_refused_and_left_alone(mustc, out):
    (out / "toy_corpus").mkdir(parents=True)
    with locked(out / "toy_corpus"):
        before = snapshot(out)
        assert f"is in use by process {os.getpid()}" in refusal(FolderInUseError, lambda: make(mustc, out))
        assert snapshot(out) == before
    make(mustc, out)


def test_who_waits_finds_it_made_and_makes_nothing_again(mustc, out, monkeypatch):
    waits, flock, results = threading.Event(), fcntl.flock, []
    make(mustc, out)
    before = tree(out)

    def telling(descriptor, operation):
        if not operation & fcntl.LOCK_NB:
            waits.set()
        return flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", telling)
    calls = stop_at(monkeypatch, placement, "_write", MOST_RUNS)
    with locked(out / "toy_corpus"):
        thread = threading.Thread(target=lambda: results.append(make(mustc, out, wait=True)))
        thread.start()
        assert waits.wait(60)
        assert results == []
    thread.join(60)
    assert results[0].manifest["counts"]["utterances"] == 8
    assert calls == []
    assert tree(out) == before


def test_processes_that_start_together_and_wait_make_it_once(mustc, out, tmp_path):
    server = [server_of(mustc, out) for _ in range(3)]
    try:
        for one in server:
            one.ask(wait=True)
        assert [one.answer()["status"] for one in server] == [0, 0, 0]
        together = tree(out)
        shutil.rmtree(out)
        make(mustc, out)
        assert together == tree(out)
    finally:
        for one in server:
            one.close()


def start(settings):
    """Be the server."""
    import simulsa_plugin.corpora.formats.table  # noqa: F401  here, and not in every run

    settings = CorpusSettings.from_keys(json.loads(settings))
    if settings.corpus == "table":
        import datasets  # noqa: F401
    serve(lambda request, out: work(request, out, settings))


def work(request, out, settings):
    workers = request.get("workers", settings.corpus_workers)
    make(replace(settings, corpus_workers=workers), out, wait=request.get("wait", False))


def server_of(settings, out):
    keys = {key: value for key, value in settings.as_keys().items() if value not in (None, [], {})}
    return Server(__file__, [json.dumps(keys)], out)


@pytest.fixture
def server(tmp_path, out, request):
    settings = write_mustc(tmp_path / "m") if request.param == "talks" else write_parquet(tmp_path / "table")
    server = server_of(replace(settings, corpus_workers=1), out)
    yield server
    server.close()


@pytest.mark.parametrize("server", ["talks", "audio inside a table"], indirect=True)
def test_killed_before_any_single_change_of_the_disk_it_ends_with_the_same_bytes(server, out):
    expected, _ = server.undisturbed()
    for change in range(1, MOST_RUNS):
        stopped = server.run(change=change)["status"]
        if stopped == 0:
            break
        assert server.run(workers=2)["status"] == 0
        assert tree(out) == expected, f"killed before change {change}"
        shutil.rmtree(out)
    assert stopped == 0
    assert tree(out) == expected
    assert change > 40


@pytest.mark.parametrize("server", ["talks"], indirect=True)
def test_killed_again_and_again_it_ends_with_the_same_bytes(server, out):
    # Each run gets a few changes further than the one before.
    expected, _ = server.undisturbed()
    for number in range(MOST_RUNS):
        if server.run(change=32 + number % 3)["status"] == 0:
            break
    assert tree(out) == expected
    assert number >= 3


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path, out):
    segments = [(talk, start / 50, 0.5) for talk in (1, 2, 4, 5) for start in range(60)]
    settings = write_mustc(tmp_path / "m", segments, rate=44_100, channels=2)
    server = server_of(replace(settings, corpus_workers=3), out)
    try:
        expected, seconds = server.undisturbed()
        moments, stages = random.Random(11), []
        longest = seconds
        for _ in range(MOST_RUNS):
            if server.run(seconds=moments.uniform(0, longest))["status"] == -signal.SIGKILL:
                stages.append(len(list(out.rglob("*.wav"))))
                longest *= 1.1  # a machine that has become slower must not keep a run from ever coming far
            else:
                assert tree(out) == expected
                shutil.rmtree(out)
                longest = seconds
            if len(stages) >= KILLS and len(set(stages)) >= 3:
                break
        assert server.run()["status"] == 0
        assert tree(out) == expected
        assert len(stages) >= KILLS
        assert len(set(stages)) >= 3
    finally:
        server.close()


if __name__ == "__main__":
    start(*sys.argv[1:])
