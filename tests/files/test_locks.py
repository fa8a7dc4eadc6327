"""One process at a time in a folder, and nothing that a killed one leaves behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.files import names
from helpers.processes import FORK, kill, lock_holder

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.locks import LOCK, locked


def lock(folder):
    with locked(folder):
        pass


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
