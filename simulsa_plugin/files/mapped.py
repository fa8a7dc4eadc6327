"""Memory of mapped files: pages that were read stay resident until memory is short, unless they are released."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_MAPPINGS = Path("/proc/self/maps")  # each line: start-end permissions offset device inode path


def release_mapped_pages(files: Iterable[str | Path]) -> None:
    """Release the resident pages of files that this process has mapped read-only; they are read again when needed.

    Does nothing where the system is not Linux.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is None:
        return
    wanted = tuple(os.path.realpath(file) for file in files)
    with contextlib.suppress(OSError):
        for line in _MAPPINGS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            if not line.endswith(wanted):  # quicker than splitting all of a thousand lines
                continue
            addresses, permissions, *_, path = line.split(maxsplit=5)
            if path in wanted and "w" not in permissions:
                start, end = (int(one, 16) for one in addresses.split("-"))
                ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)
