"""Where a process number names one process: a machine since its start, or one container of it."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path


def pid_namespace() -> str:
    """Return what tells the PID namespace of this process from all others.

    Containers may have the name of their machine, and number processes each for itself.
    """
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()
