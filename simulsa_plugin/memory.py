"""Gives memory back to the system that this process keeps, but does not need."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_MAPPINGS = Path("/proc/self/maps")  # each line: start-end permissions offset device inode path


def release_mapped_pages(files: Iterable[str | Path]) -> None:
    """Release the resident pages of files that this process has mapped read-only; they are read again when needed.

    Otherwise they stay until memory is short. Does nothing where the system is not Linux.
    """
    wanted = tuple(os.path.realpath(file) for file in files)
    if sys.platform != "linux" or not wanted:
        return
    with contextlib.suppress(OSError):
        for line in _MAPPINGS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            if not line.endswith(wanted):  # quicker than splitting all of a thousand lines
                continue
            addresses, permissions, *_, path = line.split(maxsplit=5)
            if path in wanted and "w" not in permissions:
                start, end = (int(one, 16) for one in addresses.split("-"))
                ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def release_freed() -> None:
    """Give back what was freed and is kept by Python or glibc; elsewhere than on Linux, only Python's part."""
    gc.collect()
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # not in musl
        libc.malloc_trim(0)
