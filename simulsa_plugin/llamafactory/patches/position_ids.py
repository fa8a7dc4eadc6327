"""Positions stay exact in bf16 and fp16.

transformers' `get_rope_index` gives Qwen3-Omni's positions as float32, because those of a video are fractions. In bf16
whole numbers are exact up to 256 only: of 401 positions 329 are left, and tokens share them. A batch loses them in
LLaMA-Factory's collator for SFT, which casts everything to the training's dtype, in transformers' Trainer under
DeepSpeed, and under FSDP. All of them leave integers alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from simulsa_plugin.llamafactory.plugin.notices import notify

POSITIONS = ("position_ids", "rope_deltas")
_told: set[str] = set()


def exact_positions(compute: Callable[..., None]) -> Callable[..., None]:
    """Wrap the collator's `_compute_rope_position_ids`, which adds `POSITIONS` to a batch: they become integers."""

    @functools.wraps(compute)
    def compute_integers(collator: Any, features: Any, *arguments: Any, **options: Any) -> None:
        compute(collator, features, *arguments, **options)
        for key in POSITIONS:
            if key in features:
                features[key] = as_integers(features[key])

    return compute_integers


def as_integers(positions: torch.Tensor) -> torch.Tensor:
    """Convert positions of any shape to int64; those of a video, which are fractions, stay as they are."""
    if not positions.is_floating_point():
        return positions
    whole = positions.long()
    if torch.equal(whole.to(positions.dtype), positions):
        return whole
    if "fractions" not in _told:
        _told.add("fractions")
        notify(
            "positions of a video are fractions, which bf16 and fp16 round: beyond position 256 tokens share one in a "
            "half-precision training. Train rows with videos in fp32, or without the videos."
        )
    return positions


def is_feature(name: str) -> bool:
    """Whether a model's input of that name holds audio or image features, which the model wants in its own dtype.

    Everything else that is floating point (positions, deltas, masks, seconds) keeps its precision.
    """
    return name.endswith("features") or name.startswith("pixel_values")
