"""What decides the bytes of a run, written down at its start and compared when it goes on."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.json_files import dump_sealed, load_sealed, write_json
from simulsa_plugin.settings import MAX_SHOWN_CHARACTERS


def read_configuration(path: Path) -> dict[str, Any]:
    """The work, or the whole manifest, that a run wrote.

    Raises:
        StorageError: the file is broken.
    """
    try:
        work = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({error}). Remove its folder, or choose another --out.") from error
    return work if isinstance(work, dict) else {}


def write_configuration(path: Path, work: Mapping[str, Any]) -> None:
    """Write the work, or the whole manifest, with a checksum.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(path, json.loads(dump_sealed(work)))


def read_sealed_configuration(path: Path) -> dict[str, Any]:
    """Read what `write_configuration` wrote, without the checksum; files of older versions have none.

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


def configuration_changes(
    before: Mapping[str, Any], work: Mapping[str, Any], *, computes: bool
) -> list[tuple[str, Any, Any]]:
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
    >>> configuration_changes(before, now, computes=False), len(configuration_changes(before, now, computes=True))
    ([], 2)
    """
    ignored = {"device"}
    if not computes:
        ignored |= {"dtype"} if comparable_weights(before, work) else {"dtype", "weights"}
    model = {key: value for key, value in work["model"].items() if key not in ignored}
    return changed_keys(before, {**work, "model": model})


def comparable_weights(before: Mapping[str, Any], work: Mapping[str, Any]) -> bool:
    """Whether the same weights would have the same fingerprint in both; see `configuration_changes`."""
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
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"
