"""Rates of this machine, measured; no table of specifications."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from simulsa_plugin.model.cost import Machine, ModelSize

COPIED_BYTES = {"cpu": 1 << 26, "cuda": 1 << 28}  # twice: from here to there, more than caches hold


def this_device() -> str:
    """Return "cuda" where there is a GPU, and else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def this_machine(size: ModelSize, copying: float | None = None) -> Machine:
    """Measure the GPU here, or else the processor, in the number format of a model.

    Args:
        size: of the model.
        copying: `copy_rate` of `this_device`, where it was measured before memory was needed for other things.
    """
    dtype, device = torch.float32 if size.dtype_bytes == torch.float32.itemsize else torch.bfloat16, this_device()
    return measure_machine(dtype, device, copying)


def measure_machine(dtype: torch.dtype, device: str, copying: float | None = None) -> Machine:
    """Measure the rates of a device in a number format, in about a second.

    Args:
        dtype: of numbers in the matrices.
        device: "cpu" or "cuda".
        copying: its `copy_rate`, where it was measured before.
    """
    return Machine(matmul_rate(dtype, device), copying or copy_rate(device), name=device_name(device))


def device_name(device: str) -> str:
    """Return the name of the GPU, or the kernel's name of the processor with the number of threads in use."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{processor_name()} ({threads} thread{'s' * (threads != 1)})"


def processor_name() -> str:
    """Return the kernel's name of the processor; `platform.processor()` is empty on most Linux machines."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def matmul_rate(dtype: torch.dtype, device: str, width: int | None = None) -> float:
    """Return the FLOP per second of a product of square matrices, of 4096 rows on a GPU and of 1024 elsewhere."""
    width = width or (4096 if device == "cuda" else 1024)
    square = torch.randn(width, width, device=device).to(dtype)
    return 2 * width**3 / best_seconds(lambda: square @ square, device)


def copy_rate(device: str, num_bytes: int | None = None) -> float:
    """Return the bytes per second that a large copy reads and writes, both counted."""
    num_bytes = num_bytes or COPIED_BYTES[device]
    block = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    return 2 * num_bytes / best_seconds(lambda: other.copy_(block), device)


def best_seconds(function: Callable[[], object], device: str, times: int = 5) -> float:
    """Return the least wall time of several runs, after one that does not count."""
    found = []
    for _ in range(times + 1):
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found[1:])
