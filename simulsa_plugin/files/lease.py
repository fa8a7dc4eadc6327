"""One process at a time below an address, on whatever machine; a killed one is followed after a while.

A store has no locks that end with their holder. The holder writes an object again every few seconds; where it has not
changed for `LEASE_SECONDS`, its holder is taken for dead. No clock is compared with that of another machine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from typing import Any

from simulsa_plugin.errors import FolderInUseError, OutputLostError, StorageError
from simulsa_plugin.files import remote
from simulsa_plugin.files.pid_namespace import pid_namespace

LEASE_SECONDS = 90.0
BEAT_SECONDS = 15.0
SETTLE_SECONDS = 2.0  # after a lease was taken over: whoever else did so at the same moment has written by then
logger = logging.getLogger(__name__)


class Lease:
    """The right to write below an address.

    Attributes:
        holder: of this process and this time of holding.
    """

    def __init__(self, url: str, shown: str) -> None:
        self.holder = uuid.uuid4().hex
        self._url, self._shown = url, shown
        self._beat = 0
        self._last = _now()
        self._lock = threading.Lock()
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="simulsa-lease", daemon=True)

    def take(self) -> None:
        """Take the lease; wait where it is not clear whether its holder lives.

        Raises:
            FolderInUseError: its holder lives, and is named.
            StorageError: the store cannot be read or written.
        """
        while not remote.create(self._url, self._content()):
            if self._is_held_by_the_dead():
                self._take_over()
                break
            time.sleep(_poll_seconds())
        self._last = _now()
        self._thread.start()

    def check(self, *, anew: bool = False) -> None:
        """Check that this process may still write.

        Args:
            anew: ask the store now; else the last answer counts, unless it is too old.

        Raises:
            OutputLostError: another process has taken over.
            StorageError: that cannot be told.
        """
        if anew or _now() - self._last > LEASE_SECONDS:  # suspended, or the store did not answer
            self._renew()
        if self._lost.is_set():
            raise OutputLostError(
                f"{self._shown} is no longer this process's: it was silent for too long, and another has taken over. "
                "Wait for that one, and start again."
            )

    def release(self) -> None:
        """Give the lease back, so that others need not wait."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._lost.is_set() and _read(self._url).get("holder") == self.holder:
            remote.remove(self._url)

    def _content(self) -> bytes:
        where = {"host": socket.gethostname(), "boot": pid_namespace(), "process": os.getpid()}
        return json.dumps({"holder": self.holder, **where, "beat": self._beat}).encode()

    def _is_held_by_the_dead(self) -> bool:
        """Wait to see whether the holder lives; return False where the lease was given back: others may have it next.

        Raises:
            FolderInUseError: it lives.
        """
        first = _read(self._url)
        if not first or _is_dead_here(first):
            return bool(first)
        logger.info(
            f"{self._shown} is held by {_name(first)}; waiting for up to {LEASE_SECONDS:.0f} s to see whether it lives"
        )
        end = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < end:
            time.sleep(_poll_seconds())
            now = _read(self._url)
            if not now:
                return False
            if now != first:
                raise self._in_use(now)
        return True

    def _take_over(self) -> None:
        """Take a dead process's lease. Raises FolderInUseError where another has done so at the same moment."""
        remote.write(self._url, self._content())
        time.sleep(SETTLE_SECONDS)
        now = _read(self._url)
        if now.get("holder") != self.holder:
            raise self._in_use(now)

    def _in_use(self, content: dict[str, Any]) -> FolderInUseError:
        return FolderInUseError(f"{self._shown} is in use by {_name(content)}. Wait for it, or choose another --out.")

    def _keep(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(StorageError):  # `check` tells when that has lasted too long
                self._renew()

    def _renew(self) -> None:
        """Give a sign of life, unless another process has taken over. Raises StorageError where that cannot be told."""
        with self._lock:
            if self._lost.is_set() or _read(self._url).get("holder") != self.holder:
                self._lost.set()
                return
            self._beat += 1
            remote.write(self._url, self._content())
            self._last = _now()


def _poll_seconds() -> float:
    return min(1.0, LEASE_SECONDS / 10)


def _now() -> float:
    """Return seconds on a clock that goes on while the machine is suspended, if it has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _read(url: str) -> dict[str, Any]:
    """Return what a lease says; empty where there is none."""
    data = remote.read(url)
    if data is None:
        return {}
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    return content if isinstance(content, dict) and content else {"holder": "unknown"}


def _name(content: dict[str, Any]) -> str:
    host, process = str(content.get("host", "?"))[:80], str(content.get("process", "?"))[:20]
    return f"process {process} on {host if host.isprintable() else '?'}"


def _is_dead_here(content: dict[str, Any]) -> bool:
    """Return whether the holder was a process of this machine, and of this container, that has ended."""
    here = content.get("host") == socket.gethostname() and content.get("boot") == pid_namespace()
    if not here or not isinstance(content.get("process"), int):
        return False
    try:
        os.kill(content["process"], 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return bool(content["process"] == os.getpid())  # a container that was started again
