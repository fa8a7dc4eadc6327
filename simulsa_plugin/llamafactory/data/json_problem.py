"""Which line of a dataset's file is not JSON: `datasets` names neither the file nor, in most cases, the line."""

from __future__ import annotations

import json
from pathlib import Path

from simulsa_plugin.files.json_files import parse_problem

_SUFFIXES = frozenset((".json", ".jsonl"))


def json_problem(path: Path) -> str | None:
    """Return the first line of a file in JSON or JSON Lines that cannot be parsed, and why; None where there is none.

    Args:
        path: a file in UTF-8; others than .json and .jsonl are not looked at.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix not in _SUFFIXES or not path.is_file():
        return None
    with path.open("rb") as handle:
        if handle.read(1024).lstrip()[:1] == b"[":
            return _problem_of_array(path)
        handle.seek(0)
        for number, line in enumerate(handle, 1):
            try:
                if line.strip():
                    json.loads(line)
            except ValueError as error:
                return f"{path}, line {number}: not JSON ({parse_problem(error)})"
    return None


def _problem_of_array(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        return f"{path}, line {error.lineno}: not JSON ({parse_problem(error)})"
    except ValueError as error:  # not UTF-8
        return f"{path}: not JSON ({parse_problem(error)})"
    return None
