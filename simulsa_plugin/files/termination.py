"""SIGTERM where leaving at once costs others time: what is left is done first, in the half minute before SIGKILL."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class _TerminatedError(BaseException):
    """SIGTERM has come; nothing but `unwinding_at_termination` catches it."""


@contextlib.contextmanager
def unwinding_at_termination() -> Iterator[None]:
    """Let SIGTERM unwind what is in the context before it ends the process, as it would have; a second one does not.

    Batch systems send it to jobs that they preempt or that ran out of time. Outside the main thread, or where somebody
    else handles it, nothing changes.
    """
    here, process = threading.current_thread() is threading.main_thread(), os.getpid()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != process:  # a forked worker
            os.kill(os.getpid(), signal.SIGTERM)
        raise _TerminatedError

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    except _TerminatedError:
        os.kill(process, signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def unwind() -> None:
    """Unwind the main thread as SIGTERM does, from any thread; do nothing outside `unwinding_at_termination`."""
    if getattr(signal.getsignal(signal.SIGTERM), "__module__", None) == __name__:
        os.kill(os.getpid(), signal.SIGTERM)
