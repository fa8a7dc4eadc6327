"""mwerSegmenter: which part of an unsegmented translation belongs to each reference, by the least word error rate.

Source: Matusov et al. 2005, in the package mweralign, as simulstream 1.0.0 calls it for StreamLAAL.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata, util

from simulsa_plugin.errors import LogError, MissingExtraError
from simulsa_plugin.metrics.records import LatencyUnit

_PACKAGE = "mweralign"


def is_installed() -> bool:
    """Return whether the aligner, which the extra `longform` brings, is installed."""
    try:
        return util.find_spec(_PACKAGE) is not None
    except ValueError:  # it is blocked: its entry among the loaded modules is None
        return False


def aligner_name() -> str:
    """Return the name of the aligner with its version, as signatures have it."""
    try:
        return f"{_PACKAGE}-{metadata.version(_PACKAGE)}"
    except metadata.PackageNotFoundError:  # no audio had several segments
        return _PACKAGE


def divide_text(text: str, references: Sequence[str], unit: LatencyUnit) -> list[str]:
    """Divide the translation of a recording into one part per reference.

    Args:
        text: its units, words between single spaces, or characters.
        references: of its segments, in the order of time.
        unit: word or char.

    Returns:
        The parts; the words, or all characters, of `text` in their order.

    Raises:
        LogError: the aligner returns another number of parts, or other units.
        MissingExtraError: there are several references, and the aligner is not installed.
    """
    filled = max((number for number, reference in enumerate(references, 1) if reference.strip()), default=1)
    # the aligner returns no line for empty references at the end
    parts = _align(text, references[:filled], unit) if filled > 1 else [text]
    if len(parts) != filled or sum(count_part(part, unit) for part in parts) != count_part(text, unit):
        raise LogError(
            f"The text cannot be aligned with its {len(references)} references: "
            f"{len(parts)} parts, or different units. Check for line breaks in tokens or references."
        )
    return parts + [""] * (len(references) - filled)


def count_part(text: str, unit: LatencyUnit) -> int:
    """Count units as simulstream does: words between spaces only, or all characters."""
    return sum(1 for word in text.split(" ") if word) if unit == "word" else len(text)


def _align(text: str, references: Sequence[str], unit: LatencyUnit) -> list[str]:
    try:
        with _logging_unchanged():
            from mweralign import mweralign
            from mweralign.segmenter import CJSegmenter
    except ImportError as error:
        raise MissingExtraError.for_package(
            "Aligning an audio of several segments with its references", _PACKAGE, "longform"
        ) from error
    if unit == "word":
        with _silent():
            return list(mweralign.align_texts("\n".join(references), text).split("\n"))
    encode = CJSegmenter().encode
    with _silent():
        parts = mweralign.align_texts("\n".join(" ".join(encode(one)) for one in references), " ".join(encode(text)))
    return [part.replace(" ", "").replace("▁", " ").replace("\0", "▁") for part in parts.split("\n")]


@contextlib.contextmanager
def _logging_unchanged() -> Iterator[None]:
    """Undo what the aligner does to the root logger when imported: it would write the messages of all libraries."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what the aligner's C++ writes to stderr: two lines for every recording."""
    sys.stderr.flush()
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)
