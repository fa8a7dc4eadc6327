"""Integer position ids, so that bf16 and fp16 do not round them.

transformers 5.6's `get_rope_index` gives Qwen3-Omni's position ids as float32, because those of a video are fractions.
In bf16 integers are exact up to 256 only: of 401 positions 329 distinct ones are left. Batches are cast to the dtype of
a training by LLaMA-Factory's collator for SFT, by transformers' Trainer under DeepSpeed, and under FSDP; integers
are not. Delete this module when transformers returns integers, or none of these casts position ids.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from simulsa_plugin.llamafactory.plugin.notices import notify

POSITIONS = ("position_ids", "rope_deltas")
_notified: set[str] = set()


def with_integer_positions(compute: Callable[..., None]) -> Callable[..., None]:
    """Wrap the collator's `_compute_rope_position_ids`: the `POSITIONS` that it adds to a batch become integers."""

    @functools.wraps(compute)
    def compute_integers(collator: Any, features: Any, *arguments: Any, **options: Any) -> None:
        compute(collator, features, *arguments, **options)
        for key in POSITIONS:
            if key in features:
                features[key] = as_integers(features[key])

    return compute_integers


def as_integers(positions: torch.Tensor) -> torch.Tensor:
    """Convert positions of any shape to int64; fractions (of videos) are kept, with a notice."""
    if not positions.is_floating_point():
        return positions
    whole = positions.long()
    if torch.equal(whole.to(positions.dtype), positions):
        return whole
    if "fractions" not in _notified:
        _notified.add("fractions")
        notify(
            "positions of a video are fractions, which bf16 and fp16 round: beyond position 256 tokens share one in a "
            "half-precision training. Train rows with videos in fp32, or without the videos."
        )
    return positions


def is_feature(name: str) -> bool:
    """Return whether a model input of that name holds audio or image features, which need the model's dtype.

    Other floating-point inputs (positions, deltas, masks, seconds) keep their precision.
    """
    return name.endswith("features") or name.startswith("pixel_values")
