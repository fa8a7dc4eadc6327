"""The configuration of a run: recorded when it begins, and compared when it is resumed."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import remove_durably, sync_folder
from simulsa_plugin.files.json_files import Json, dump_sealed, load_sealed, write_json
from simulsa_plugin.settings import MAX_SHOWN_CHARACTERS


def read_configuration(path: Path) -> dict[str, Any]:
    """Read the configuration, or the whole manifest, that a run wrote, without a look at its checksum.

    Raises:
        StorageError: the file is broken.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be read ({error}). Choose another --out, or move its folder away."
        ) from error
    return found if isinstance(found, dict) else {}


def write_configuration(path: Path, configuration: Mapping[str, Any]) -> None:
    """Write a configuration, or a whole manifest, with a checksum.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(path, json.loads(dump_sealed(configuration)))


def read_sealed_configuration(path: Path) -> dict[str, Any]:
    """Read what `write_configuration` wrote, without the checksum; files of older versions have none.

    Raises:
        StorageError: the file is missing, broken, or was changed since.
    """
    try:
        found = load_sealed(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be read ({error}); it records how its folder was made. Choose another --out, or move "
            "that folder away. If you know that this recipe and model made it, move only the file, and start again."
        ) from error
    return found


def changed_keys(before: Mapping[str, Any], configuration: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (key, before, now) of everything that differs; keys inside mappings stand by their own names.

    >>> changed_keys({"rows": 2, "settings": {"seed": 1}}, {"rows": 2, "settings": {"seed": 3}})
    [('seed', 1, 3)]
    """
    changed = []
    for key, new in configuration.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += changed_keys(old, new)
        elif old != new:
            changed.append((key, old, new))
    return changed


def configuration_changes(
    before: Mapping[str, Any], configuration: Mapping[str, Any], *, computes: bool
) -> list[tuple[str, Any, Any]]:
    """Return `changed_keys` without what may differ between machines that share a run.

    The model's device may differ. Where no forward pass is left, its dtype may as well, and the fingerprint of its
    weights counts only where both sides give the same one for the same weights: rounding to another dtype, and merging
    adapters on another device, change values.

    Args:
        before: the recorded configuration.
        configuration: the one asked for; its `model`, if it has one, is of `AudioLanguageModel.describe`, or a part.
        computes: whether forward passes are left.

    >>> before = {"model": {"weights": "4f", "dtype": "bfloat16", "device": "cuda"}}
    >>> now = {"model": {"weights": "9a", "dtype": "float32", "device": "cpu"}}
    >>> configuration_changes(before, now, computes=False), len(configuration_changes(before, now, computes=True))
    ([], 2)
    """
    if "model" not in configuration:
        return changed_keys(before, configuration)
    ignored = {"device"}
    if not computes:
        ignored |= {"dtype"} if comparable_weights(before, configuration) else {"dtype", "weights"}
    model = {key: value for key, value in configuration["model"].items() if key not in ignored}
    return changed_keys(before, {**configuration, "model": model})


def comparable_weights(before: Mapping[str, Any], configuration: Mapping[str, Any]) -> bool:
    """Return whether the same weights would have the same fingerprint in both; see `configuration_changes`."""
    old, new = before.get("model") or {}, configuration["model"]
    if old.get("dtype") != new.get("dtype"):
        return False
    return old.get("device") == new.get("device") or not new.get("adapter")


def unequal_weights(before: Mapping[str, Any], configuration: Mapping[str, Any]) -> str:
    """Return a warning that weights could not be compared, and are taken to be the same."""
    (old_dtype, old), (dtype, device) = (
        (one["model"].get("dtype"), one["model"].get("device")) for one in (before, configuration)
    )
    return (
        f"the weights cannot be compared between {old_dtype} on {old} and {dtype} on {device}, and are taken to be the "
        "same: make sure that the checkpoint did not change."
    )


def change_in_words(change: tuple[str, Any, Any]) -> str:
    """Describe one of `changed_keys` for a message.

    >>> change_in_words(("simulsa_seed", 1, None))
    'other settings: simulsa_seed was 1, now not set'
    """
    key, old, new = change
    return f"other settings: {key} was {_shorten(old)}, now {_shorten(new)}"


def versions(*packages: str) -> dict[str, str]:
    """Return package → installed version."""
    return {name: _installed_version(name) for name in packages}


def _installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _shorten(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"


@dataclass(frozen=True)
class RunFolder:
    """A folder that one run begins, that only the same configuration resumes, and that the run finishes.

    Attributes:
        folder: the folder, for messages.
        started: file that records the configuration when the run begins.
        finished: file that records it, with the results, when the run ends; `started` is removed then.
        kind: what the folder holds, for messages: "a run".
        read: how to read both files.
        write: how to write both files.
    """

    folder: Path
    started: Path
    finished: Path
    kind: str
    read: Callable[[Path], Json | None] = read_sealed_configuration
    write: Callable[[Path, Mapping[str, Any]], None] = write_configuration

    @property
    def record(self) -> Path | None:
        """The file that records the configuration: of a finished run, else of one that has begun; None in a new one."""
        return next((path for path in (self.finished, self.started) if path.exists()), None)

    def recorded(self) -> Json:
        """Return what `record` holds; nothing in a new folder.

        Raises:
            StorageError: the file is broken, or was changed since.
        """
        path = self.record
        return self.read(path) or {} if path else {}

    def begin(self, configuration: Mapping[str, Any]) -> None:
        """Record the configuration.

        Raises:
            StorageError: it cannot be written.
        """
        self.write(self.started, configuration)
        sync_folder(self.folder)

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Record configuration and results: from now on the run is finished.

        Raises:
            StorageError: they cannot be written.
        """
        self.write(self.finished, manifest)
        remove_durably(self.started)

    def refuse_other(
        self,
        before: Mapping[str, Any],
        configuration: Mapping[str, Any],
        next_step: str | Callable[[set[str]], str],
        *,
        computes: bool = False,
    ) -> None:
        """Raise StorageError where a recorded configuration is another one; the first difference is named.

        Args:
            before: the recorded configuration; an empty one is not compared.
            configuration: the one asked for.
            next_step: end of the message; or how to make it of the keys that differ.
            computes: whether forward passes are left; see `configuration_changes`.
        """
        changed = configuration_changes(before, configuration, computes=computes) if before else []
        if changed:
            step = next_step if isinstance(next_step, str) else next_step({key for key, _, _ in changed})
            raise StorageError(f"{self.folder} holds {self.kind} with {change_in_words(changed[0])}. {step}")
