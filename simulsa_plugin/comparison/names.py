"""Short names of results, for tables and legends."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return path → name: its last parts, as many as tell the paths apart.

    >>> short_names(["runs/a/out", "runs/b/out", "runs/b/out"])
    {'runs/a/out': 'a/out', 'runs/b/out': 'b/out'}
    >>> short_names(["runs/offline"])
    {'runs/offline': 'offline'}
    """
    unique = list(dict.fromkeys(paths))
    parts = {path: PurePath(path).parts or (path,) for path in unique}
    longest = max(map(len, parts.values()), default=1)
    for count in range(1, longest + 1):
        names = {path: "/".join(parts[path][-count:]) for path in unique}
        if len(set(names.values())) == len(unique):
            return names
    return {path: path for path in unique}
