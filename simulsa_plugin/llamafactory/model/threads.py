"""Threads of arithmetic on the processor: with another number, sums may differ in their last digits."""

from __future__ import annotations

import torch


def num_threads() -> int:
    """Return how many threads PyTorch uses here."""
    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Let PyTorch use so many."""
    torch.set_num_threads(count)
