"""Ctrl-C: one line and exit code 130, wherever it comes, and no process left behind.

All work is written so that it goes on after any stop. So what cannot be unwound in a few seconds is simply ended.
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
        """Note what to say when it happens; nothing is said before."""
        self._message, self._process = message, os.getpid()
        self._said = self.happened = False
        self._unraisable = sys.unraisablehook

    def say(self) -> None:
        """Say once, on stderr, that the command was interrupted."""
        if not self._said:
            self._said = True
            with contextlib.suppress(OSError, ValueError):  # nobody reads
                print(self._message, file=sys.stderr, flush=True)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, and end the process if that is swallowed, or if the user asks again."""
        if os.getpid() != self._process:
            os._exit(INTERRUPTED)  # a forked worker; its parent speaks
        if self.happened:
            self._end()
        self.happened = True
        timer = threading.Timer(UNWINDING_SECONDS, self._end)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    def unraisable(self, problem: Any) -> None:
        """Stand for `sys.unraisablehook`: leave out what an interruption breaks elsewhere."""
        if not self.happened:
            self._unraisable(problem)

    def _end(self) -> None:
        for worker in multiprocessing.active_children():
            worker.kill()
        self.say()
        os._exit(INTERRUPTED)


@contextlib.contextmanager
def interruptible(message: str) -> Iterator[Interruption]:
    """Handle Ctrl-C as this module says for as long as the context lasts, and after it where it has happened.

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
