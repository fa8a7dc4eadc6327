"""Tokens that decoding treats unlike others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids of a template and its tokenizer.

    Attributes:
        stop: end an answer.
        never: are not chosen; they stand for audio, images and videos.
        pad: fills up rows that have ended.
    """

    stop: frozenset[int]
    never: tuple[int, ...]
    pad: int
