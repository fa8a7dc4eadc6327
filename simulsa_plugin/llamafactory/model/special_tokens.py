"""Tokens with a special role in decoding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids of a template and its tokenizer.

    Attributes:
        stop: end of answer.
        suppressed: never generated: placeholders of audio, images and videos.
        pad: fills finished rows.
    """

    stop: frozenset[int]
    suppressed: tuple[int, ...]
    pad: int
