"""Files that say what they and their neighbours should hold, so that what a crash or a disk has changed is seen.

A rename may survive a loss of power where the data did not; a disk may change a digit. A sealed file carries the
checksum of its own content, and may carry those of files beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.json_files import CHECKSUM, write_json


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with its checksum as the last key.

    >>> is_sealed(sealed({"rows": 2})), is_sealed(sealed({"rows": 2}) | {"rows": 3})
    (True, False)
    """
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    return rest | {CHECKSUM: _checksum(rest)}


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that `read_sealed` reads, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(path, sealed(content))


def is_sealed(content: object) -> bool:
    """Return whether this is what `sealed` made, unchanged, be it read from JSON or not."""
    if not isinstance(content, dict) or CHECKSUM not in content:
        return False
    return bool(sealed(content)[CHECKSUM] == content[CHECKSUM])


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Return the content of a sealed file, without its checksum; None where it is missing, broken or changed.

    Raises:
        StorageError: the system cannot read it.
    """
    try:
        content = json.loads(_read(path) or b"")
    except (ValueError, RecursionError):
        return None
    if not is_sealed(content):
        return None
    del content[CHECKSUM]
    return dict(content)


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return name → checksum of files below a folder.

    Raises:
        StorageError: one is missing or cannot be read.
    """
    found = {}
    for name in names:
        data = _read(folder / name)
        if data is None:
            raise StorageError(f"{folder / name} does not exist.")
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def first_damaged(folder: Path, expected: Mapping[str, str]) -> str | None:
    """Return the first file that is missing or holds something else than `checksums` found; None where all are whole.

    Raises:
        StorageError: the system cannot read one.
    """
    for name, checksum in expected.items():
        data = _read(folder / name)
        if data is None or hashlib.sha256(data).hexdigest() != checksum:
            return name
    return None


def refuse_damaged(folder: Path, expected: Mapping[str, str], way_out: str) -> None:
    """Raise StorageError where a file is missing or holds something else than `checksums` found; it is named.

    Args:
        folder: of the files.
        expected: name → checksum.
        way_out: the next step.
    """
    damaged = first_damaged(folder, expected)
    if damaged is not None:
        raise StorageError(
            f"{folder / damaged} is missing or not as it was written: its checksum does not fit. {way_out}"
        )


def _read(path: Path) -> bytes | None:
    """Return the bytes of a file; None where there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}. Make it readable.") from error


def _checksum(content: Mapping[str, Any]) -> str:
    # By way of JSON, as numbers that are keys become texts there, and tuples become lists.
    plain = json.loads(json.dumps(content, allow_nan=False))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
