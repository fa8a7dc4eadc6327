"""Runs a command that ends with its caller; a separate program that needs the standard library alone.

`python guard.py FOLDER COMMAND …` with a pipe as standard input. When the other end of the pipe is closed, which the
kernel does for a process that is killed, the command and its descendants are killed, including workers in their own
sessions, as torchrun's are. Until then the folder is locked, so that a restart waits until nothing writes there.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn

_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl
_CANNOT_RUN = 127  # as shells report it
_POLL_SECONDS = 0.02


def run_guarded(command: Sequence[str], folder: Path, output: IO[str]) -> int:
    """Run a command that ends with this process, even if this process is killed.

    Args:
        command: argument list; the first one is a path.
        folder: where it writes; waits for other guarded commands there.
        output: receives what it prints.

    Returns:
        Its exit code; 128 + the number of the signal that killed it.
    """
    words = [sys.executable, "-I", __file__, str(folder), *command]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    guard = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment)
    with guard:
        return guard.wait()  # an error, Ctrl-C among them, closes the pipe on its way out


def main(folder: str, *command: str) -> int:
    """Lock the folder, run the command, and kill its remaining processes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_CHILD_SUBREAPER, 1)  # orphans become children of this process
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the terminal signals the command as well
    signal.signal(signal.SIGTERM, _raise_exit)

    def prepare_child() -> None:
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    with _lock_folder(folder):
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=prepare_child)
        except OSError as error:
            print(f"Cannot run {command[0]}: {error.strerror}.", flush=True)
            return _CANNOT_RUN
        try:
            return _wait_for(child)
        finally:
            _kill_descendants()


def _wait_for(child: subprocess.Popen[bytes]) -> int:
    """Wait for the command, or for the end of the caller."""
    ended = os.pidfd_open(child.pid)
    ready, _, _ = select.select([ended, sys.stdin.fileno()], [], [])
    if ended not in ready:
        return 128 + signal.SIGKILL
    code = child.wait()
    return 128 - code if code < 0 else code


@contextlib.contextmanager
def _lock_folder(folder: str) -> Iterator[None]:
    """Lock the folder. Some network file systems have no locks; there a restart does not wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _kill_descendants() -> None:
    """Kill until no process is left; new ones are found in the next round."""
    while descendants := _find_descendants():
        for number in descendants:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(_POLL_SECONDS)


def _find_descendants() -> set[int]:
    """Find all descendants of this process except zombies."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # "pid (name) state parent …", where the name may hold spaces and brackets
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
    found: set[int] = set()
    below = {os.getpid()}
    while below := {number for number, parent in parents.items() if parent in below} - found:
        found |= below
    return found


def _raise_exit(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
