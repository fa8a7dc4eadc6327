"""Runs a command that does not outlive who asked for it: a program of its own, of the standard library alone.

`python guard.py FOLDER COMMAND …` with a pipe as standard input. When the other end of the pipe is closed, which the
kernel does for a process that is killed, the command ends with all that it has started, also with workers in their own
sessions, as torchrun's are. Until then the folder is held: who starts again waits until nothing old writes there.
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
_LOOK_AGAIN_SECONDS = 0.02


def run_guarded(command: Sequence[str], folder: Path, output: IO[str]) -> int:
    """Run a command that ends with this process, however this process ends.

    Args:
        command: its words; the first one is a path.
        folder: where it writes; it begins when no other guarded command works there.
        output: takes what it prints.

    Returns:
        Its exit code; 128 + the signal's number where a signal has ended it.
    """
    words = [sys.executable, "-I", __file__, str(folder), *command]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    guard = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment)
    with guard:
        return guard.wait()  # an error, Ctrl-C among them, closes the pipe on its way out


def main(folder: str, *command: str) -> int:
    """Hold the folder, run the command, and end what is left of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_CHILD_SUBREAPER, 1)  # what loses its parent becomes a child of this process
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the terminal tells the command as well, which may end in its own way
    signal.signal(signal.SIGTERM, _stop)

    def in_the_command() -> None:
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    with _held(folder):
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=in_the_command)
        except OSError as error:
            print(f"Cannot run {command[0]}: {error.strerror}.", flush=True)
            return _CANNOT_RUN
        try:
            return _exit_code(child)
        finally:
            _end_descendants()


def _exit_code(child: subprocess.Popen[bytes]) -> int:
    """Wait for the command, or for the end of who asked for it."""
    ended = os.pidfd_open(child.pid)
    ready, _, _ = select.select([ended, sys.stdin.fileno()], [], [])
    if ended not in ready:
        return 128 + signal.SIGKILL
    code = child.wait()
    return 128 - code if code < 0 else code


@contextlib.contextmanager
def _held(folder: str) -> Iterator[None]:
    """Wait for the folder. Some network file systems have no locks; there a restart does not wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _end_descendants() -> None:
    """Kill until nothing is left; what is started meanwhile is found in the next round."""
    while descendants := _descendants():
        for number in descendants:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(_LOOK_AGAIN_SECONDS)


def _descendants() -> set[int]:
    """All processes below this one; those that have ended and wait for their parent do not count."""
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


def _stop(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
