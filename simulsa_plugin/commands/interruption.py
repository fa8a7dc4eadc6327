"""Ctrl-C: one line on stderr, exit code 130, and no process left behind.

Every run can be resumed, so a process that has not unwound after a few seconds is ended.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
UNWINDING_SECONDS = 3.0  # for files to be closed and worker processes to end


class Interruption:
    """Whether the user has pressed Ctrl-C during one command."""

    def __init__(self, message: str) -> None:
        """Store the message; nothing is printed before Ctrl-C."""
        self._message, self._process = message, os.getpid()
        self._reported = self.happened = False
        self._unraisable = sys.unraisablehook

    def report(self) -> None:
        """Print once, on stderr, that the command was interrupted."""
        if not self._reported:
            self._reported = True
            with contextlib.suppress(OSError, ValueError):  # nobody reads
                print(self._message, file=sys.stderr, flush=True)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt; end the process if that is swallowed, or at the second Ctrl-C."""
        if os.getpid() != self._process:
            os._exit(INTERRUPTED)  # a forked worker; its parent prints the message
        if self.happened:
            self._end()
        self.happened = True
        timer = threading.Timer(UNWINDING_SECONDS, self._end)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    def unraisable(self, problem: Any) -> None:
        """Replace `sys.unraisablehook`: hide errors that are caused by the interruption."""
        if not self.happened:
            self._unraisable(problem)

    def _end(self) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()
        self.report()
        os._exit(INTERRUPTED)


@contextlib.contextmanager
def interruptible(message: str) -> Iterator[Interruption]:
    """Handle Ctrl-C within the context, and after it where it has happened.

    Outside the main thread, which alone can handle signals, or where SIGINT is ignored (`nohup`, `&`), nothing changes.
    """
    interruption = Interruption(message)
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield interruption
        return
    signal.signal(signal.SIGINT, interruption.handle)
    sys.unraisablehook = interruption.unraisable
    try:
        yield interruption
    finally:
        if not interruption.happened:  # else what is left of the process may still be interrupted
            signal.signal(signal.SIGINT, before)
            sys.unraisablehook = interruption._unraisable
