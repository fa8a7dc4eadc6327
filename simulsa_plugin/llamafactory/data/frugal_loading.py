"""Settings of `datasets` and Arrow that keep the memory small in which files of rows are read and mapped."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

_ROWS_PER_BATCH = 10_000


@contextlib.contextmanager
def frugally() -> Iterator[None]:
    """Let `datasets` read tables in this context with less memory; rows and their order stay the same.

    Opening a mapped file touches every batch of its rows, and with each at least 64 KB, so that the usual batches of
    1000 rows bring a large part of it into memory. Arrow's own allocator keeps what it has freed; the system's gives
    it back when it is told to.
    """
    import pyarrow as pa
    from datasets import ArrowBasedBuilder

    pool, rows = pa.default_memory_pool(), ArrowBasedBuilder.DEFAULT_WRITER_BATCH_SIZE
    pa.set_memory_pool(pa.system_memory_pool())
    ArrowBasedBuilder.DEFAULT_WRITER_BATCH_SIZE = _ROWS_PER_BATCH
    try:
        yield
    finally:
        ArrowBasedBuilder.DEFAULT_WRITER_BATCH_SIZE = rows
        pa.set_memory_pool(pool)
        release_freed()


def release_freed() -> None:
    """Give back what is no longer used, but is kept by Python or glibc; without glibc, only Python's part."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
