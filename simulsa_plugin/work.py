"""What an output folder holds, how the work that is asked for differs from it, and a process's share of it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import StorageError, UsageError
from simulsa_plugin.storage import dump_sealed, load_sealed, write_json

LONGEST_SHOWN = 80  # characters of a value in a message
POLL_SECONDS = 0.2
FIRST_LINE_SECONDS = 30.0
PATIENCE_SECONDS = 3600.0  # nothing is written while a block of an evaluation is decoded, or a large model is loaded


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


def wait_until(done: Callable[[], bool], progress: Callable[[], object], whom: str) -> None:
    """Wait for other processes for as long as they get on; say so on stderr now and then.

    Args:
        done: whether there is nothing more to wait for.
        progress: what changes while they work.
        whom: they, for messages.

    Raises:
        StorageError: nothing has changed for PATIENCE_SECONDS.
    """
    start = since = time.monotonic()
    last, pause = progress(), FIRST_LINE_SECONDS
    while not done():
        time.sleep(POLL_SECONDS)
        now, found = time.monotonic(), progress()
        if found != last:
            last, since = found, now
        if now - since > PATIENCE_SECONDS:
            raise StorageError(
                f"{whom} wrote nothing for {PATIENCE_SECONDS / 60:.0f} minutes: it was never started, has ended, or "
                "hangs. Start the same command again, with all its processes or with one; it goes on where it stopped."
            )
        if now - start > pause:
            print(f"waiting for {whom}, {(now - since) / 60:.0f} min since it last wrote something", file=sys.stderr)
            pause += max(2 * FIRST_LINE_SECONDS, (now - start) / 2)


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


def write_work(path: Path, work: Mapping[str, Any]) -> None:
    """Write the work, or the whole manifest, with a checksum.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(path, json.loads(dump_sealed(work)))


def read_sealed_work(path: Path) -> dict[str, Any]:
    """What `write_work` wrote, without the checksum; files without one, of older versions, are taken as they are.

    Raises:
        StorageError: the file is missing, broken, or was changed since.
    """
    try:
        work = load_sealed(path.read_text(encoding="utf-8"))
        if not isinstance(work, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be read ({error}); it says what its folder was made with. Remove that folder, or choose "
            "another --out. If you know that this recipe and model made it, remove only the file, and start again."
        ) from error
    return work


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


def changed_work(before: Mapping[str, Any], work: Mapping[str, Any], *, computes: bool) -> list[tuple[str, Any, Any]]:
    """`changed_keys`, less what differs between machines that may share one piece of work.

    The model's device may differ. Where no forward pass is left, its dtype may as well, and the fingerprint of its
    weights counts only where both sides give the same one for the same weights: rounding to another dtype, and merging
    adapters on another device, change values.

    Args:
        before: what was noted.
        work: what is asked for; its `model` is that of `AudioLanguageModel.describe`, or a part of it.
        computes: whether forward passes are left.

    >>> before = {"model": {"weights": "4f", "dtype": "bfloat16", "device": "cuda"}}
    >>> now = {"model": {"weights": "9a", "dtype": "float32", "device": "cpu"}}
    >>> changed_work(before, now, computes=False), len(changed_work(before, now, computes=True))
    ([], 2)
    """
    ignored = {"device"}
    if not computes:
        ignored |= {"dtype"} if comparable_weights(before, work) else {"dtype", "weights"}
    model = {key: value for key, value in work["model"].items() if key not in ignored}
    return changed_keys(before, {**work, "model": model})


def comparable_weights(before: Mapping[str, Any], work: Mapping[str, Any]) -> bool:
    """Whether the same weights would have the same fingerprint in both; see `changed_work`."""
    old, new = before.get("model") or {}, work["model"]
    if old.get("dtype") != new.get("dtype"):
        return False
    return old.get("device") == new.get("device") or not new.get("adapter")


def unequal_weights(before: Mapping[str, Any], work: Mapping[str, Any]) -> str:
    """Say that weights could not be compared, and are taken to be the same."""
    (old_dtype, old), (dtype, device) = (
        (one["model"].get("dtype"), one["model"].get("device")) for one in (before, work)
    )
    return (
        f"the weights cannot be compared between {old_dtype} on {old} and {dtype} on {device}, and are taken to be the "
        "same: make sure that the checkpoint did not change."
    )


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
