"""Batches that do not fit into memory are processed in halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an accelerator, PyTorch's allocator on the host or NumPy is out of memory.

    On the host PyTorch raises a plain RuntimeError: `DefaultCPUAllocator: can't allocate memory: you tried to …`.
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def in_halves(
    process: Callable[..., Sequence[Result]], *columns: Sequence[Any], on_split: Callable[[int], object]
) -> list[Result]:
    """Return `process(*columns)`; a batch that does not fit into memory is split in two, as often as needed.

    Args:
        process: takes columns of equal length and returns one result for each row.
        columns: rows of the batch.
        on_split: called with the number of rows of a batch that did not fit.

    Raises:
        torch.OutOfMemoryError, MemoryError, RuntimeError: a single row does not fit; see `is_out_of_memory`.
    """
    rows = len(columns[0])
    try:
        return list(process(*columns))
    except (RuntimeError, MemoryError) as error:
        if rows == 1 or not is_out_of_memory(error):
            raise
    # Outside the handler, whose traceback keeps the tensors of the failed pass.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    on_split(rows)
    middle = (rows + 1) // 2
    first, second = [column[:middle] for column in columns], [column[middle:] for column in columns]
    return [*in_halves(process, *first, on_split=on_split), *in_halves(process, *second, on_split=on_split)]
