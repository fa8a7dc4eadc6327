"""Settings of `datasets` and Arrow that keep the memory small in which files of rows are read and mapped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from simulsa_plugin.memory import release_freed

_ROWS_PER_BATCH = 10_000


@contextlib.contextmanager
def low_memory_loading() -> Iterator[None]:
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
