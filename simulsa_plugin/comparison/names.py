"""Short names of results, for tables and legends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePath

from simulsa_plugin.logs.simuleval import INSTANCES_LOG


def path_text(path: Path) -> str:
    """Return a path as text that JSON and HTML can hold; it may not be valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return path → name: its last parts, as many as tell the paths apart.

    >>> short_names(["runs/a/out", "runs/b/out", "runs/b/out"])
    {'runs/a/out': 'a/out', 'runs/b/out': 'b/out'}
    >>> short_names(["runs/offline"])
    {'runs/offline': 'offline'}
    >>> short_names(["runs/offline/instances.log"])
    {'runs/offline/instances.log': 'offline/instances.log'}
    """
    unique = list(dict.fromkeys(paths))
    parts = {path: PurePath(path).parts or (path,) for path in unique}
    longest = max(map(len, parts.values()), default=1)
    for count in range(1, longest + 1):
        names = {path: "/".join(parts[path][-max(count, _least_parts(path)) :]) for path in unique}
        if len(set(names.values())) == len(unique):
            return names
    return {path: path for path in unique}


def _least_parts(path: str) -> int:
    """Return how many parts say something: the log of every cell and system has the same name."""
    return 2 if PurePath(path).name == INSTANCES_LOG else 1
