"""What an output folder holds, how the work that is asked for differs from it, and a process's share of it."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import StorageError, UsageError

LONGEST_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` parts of the work, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/4`.

        Raises:
            UsageError: it is no such thing.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard is {text!r}; allowed: K/N with 1 ≤ K ≤ N, such as 2/4.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


def read_work(path: Path) -> dict[str, Any]:
    """The work, or the whole manifest, that a run wrote.

    Raises:
        StorageError: the file is broken.
    """
    try:
        work = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({error}). Remove its folder, or choose another --out.") from error
    return work if isinstance(work, dict) else {}


def changed_keys(before: Mapping[str, Any], work: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, before, now) of everything that differs; what lies inside mappings under its own name.

    >>> changed_keys({"rows": 2, "settings": {"seed": 1}}, {"rows": 2, "settings": {"seed": 3}})
    [('seed', 1, 3)]
    """
    changed = []
    for key, new in work.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += changed_keys(old, new)
        elif old != new:
            changed.append((key, old, new))
    return changed


def change_in_words(change: tuple[str, Any, Any]) -> str:
    """One of `changed_keys` for a message.

    >>> change_in_words(("simulsa_seed", 1, None))
    'another simulsa_seed (1, now not set)'
    """
    key, old, new = change
    return f"another {key} ({_short(old)}, now {_short(new)})"


def versions(*packages: str) -> dict[str, str]:
    """Package → installed version."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
