"""`metadata.jsonl`, by which `datasets` and the viewer of the Hugging Face Hub find the audio of each row."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METADATA = "metadata.jsonl"  # the name that the loader "audiofolder" looks for


def metadata_row(audio: str, folder: Path, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `folder/metadata.jsonl`.

    Args:
        audio: absolute path; one outside of the folder stays so, and is found on this machine alone.
        folder: absolute.
        columns: the other columns; the audio becomes the column `audio`.

    >>> metadata_row("/data/a/clips/1.wav", Path("/data/a"), {"id": "1"})
    {'file_name': 'clips/1.wav', 'id': '1'}
    """
    return {"file_name": name_inside(audio, folder), **columns}


def name_inside(audio: str, folder: Path) -> str:
    """Return the name of audio relative to a folder that it lies in; anything else as it is.

    >>> [name_inside(audio, Path("/data")) for audio in ("/data/a/1.wav", "/1.wav", "s3://data/1.wav")]
    ['a/1.wav', '/1.wav', 's3://data/1.wav']
    """
    return os.path.relpath(audio, folder) if is_inside(audio, folder) else audio


def is_inside(audio: str, folder: Path) -> bool:
    """Return whether an absolute path leads into a folder; links are not followed."""
    return Path(os.path.normpath(audio)).is_relative_to(folder)
