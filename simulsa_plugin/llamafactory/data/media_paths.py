"""Paths of audio, images and videos in a row, of which a video's frames are nested lists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def absolute_paths(media: list[Any] | None) -> list[Any]:
    """Return absolute paths; those of a video's frames stay nested."""
    return [absolute_paths(one) if isinstance(one, list) else absolute_path(one) for one in media or []]


def flatten(media: list[Any]) -> Iterator[Any]:
    """Yield every path; those of a video's frames come from a nested list."""
    for one in media:
        if isinstance(one, list):
            yield from flatten(one)
        else:
            yield one


def is_relative(path: str) -> bool:
    """Return whether this is a relative path of a local file, and not a URL."""
    return bool(path) and "://" not in path and not os.path.isabs(path)


def absolute_path(path: str) -> str:
    """Return the absolute path of a file; URLs and empty text stay as they are."""
    if not path or "://" in path:
        return path
    # Behind a symbolic link `..` is another folder than `abspath`, which edits the text, would give.
    return os.path.realpath(path) if os.pardir in Path(path).parts else os.path.abspath(path)
