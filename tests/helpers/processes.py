"""Processes beside the test: forked from it, so that they begin within milliseconds, and waited for by what they do."""

import contextlib
import multiprocessing
import os
import time
from typing import Any

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.locks import locked

FORK = multiprocessing.get_context("fork")
PATIENCE_SECONDS = 120.0  # ends a test that hangs; no test measures time
REFUSED = 3
_started: list[Any] = []
# What a launcher or an earlier run leaves behind would change what is tested.
INHERITED = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "FORCE_TORCHRUN",
    "NPROC_PER_NODE",
    "DS_ACCELERATOR",
    "SIMULSA_PLUGIN",
    "SIMULSA_PLUGIN_ANNOUNCED",
    "LLAMAFACTORY_VERBOSITY",
)


def environment_of_no_launcher():
    """Return the environment without what a launcher or an earlier run has left in it."""
    return {name: value for name, value in os.environ.items() if name not in INHERITED}


def start(function, *arguments):
    """Call a function in a process; its exit code is 0, REFUSED after a StorageError, or 1 after any other error."""
    process = FORK.Process(target=_quietly, args=(function, *arguments))
    process.start()
    _started.append(process)
    return process


def kill_started():
    """Kill the processes that a test has left running: pytest would wait for them at its end."""
    while _started:
        process = _started.pop()
        if process.is_alive():
            kill(process)


def _quietly(function, *arguments):
    try:
        function(*arguments)
    except StorageError:
        os._exit(REFUSED)
    except BaseException:
        os._exit(1)
    os._exit(0)


def kill(process):
    process.kill()
    process.join()


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.contextmanager
def lock_holder(folder):
    """A process that holds a folder until it is killed, at the latest at the end of the block."""
    held = FORK.Event()
    process = start(_hold, folder, held)
    assert held.wait(PATIENCE_SECONDS)
    yield process
    kill(process)


def _hold(folder, held):
    with locked(folder):
        held.set()
        FORK.Event().wait()
