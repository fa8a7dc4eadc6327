"""One process at a time in a folder; a killed one leaves no lock behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from simulsa_plugin.errors import FolderInUseError
from simulsa_plugin.files.atomic import refuse_link, writing_to

LOCK = ".simulsa.lock"  # in a folder that is held; the name is nobody else's
LOCK_WAIT_SECONDS = 10.0  # for processes that begin at the same moment
LOCK_POLL_SECONDS = 0.2


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process. The kernel drops the lock with the process, so a kill -9 leaves nothing stale.

    Processes that are forked meanwhile do not hold it: one that outlives a killed parent must not lock it out.

    Args:
        folder: what to hold; it exists.
        wait: wait for the holder, for short work, instead of refusing.

    Raises:
        StorageError: another process holds the folder, its number is named; or the folder cannot be written.
    """
    path, owner = folder / LOCK, os.getpid()
    descriptor = _lock_file(path, folder, wait)
    _HELD_LOCKS.add(descriptor)
    try:
        with writing_to(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{owner}\n".encode())
        yield
    finally:
        if os.getpid() == owner:
            with contextlib.suppress(OSError):  # a file that stays does not keep the lock
                path.unlink(missing_ok=True)
            _HELD_LOCKS.discard(descriptor)
            os.close(descriptor)


@contextlib.contextmanager
def locked_soon(folder: Path) -> Iterator[None]:
    """Hold a folder that others hold for moments: wait for them, but not for long.

    Raises:
        FolderInUseError: another process has held the folder for `LOCK_WAIT_SECONDS`.
    """
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except FolderInUseError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_POLL_SECONDS)
        yield


def _lock_file(path: Path, folder: Path, wait: bool) -> int:
    """Open the lock file, lock it, and return its descriptor."""
    while True:
        refuse_link(path)
        with writing_to(folder):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            with writing_to(path):  # some network file systems have no locks
                _flock(descriptor, folder, wait)
            if _is_file_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the holder before us removed the file that we had opened; lock the one that counts


def _flock(descriptor: int, folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        time.sleep(_NUMBER_SECONDS)
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise FolderInUseError(
            f"{folder} is in use by process {holder}. Wait for it, or choose another --out."
        ) from error


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


_NUMBER_SECONDS = 0.05  # a holder may have the lock, but not yet have written its number over a dead one's
_HELD_LOCKS: set[int] = set()  # descriptors of the locks of this process


def _forget_locks() -> None:
    """Close the parent's locks in a forked child, without unlocking them."""
    while _HELD_LOCKS:
        os.close(_HELD_LOCKS.pop())


os.register_at_fork(after_in_child=_forget_locks)
