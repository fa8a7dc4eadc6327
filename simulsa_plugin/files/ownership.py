"""Which files in a user's folder a command made: `.simulsa.json` lists them, and everything else there stays."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import StorageError, UsageError
from simulsa_plugin.files.atomic import refuse_link, remove_abandoned
from simulsa_plugin.files.dataset_info import DATASET_INFO, merge_dataset_info, registered_datasets
from simulsa_plugin.files.json_files import write_json

OWNED = ".simulsa.json"
_FILES, _CHECKSUM = "files", "sha256"


def refuse_foreign(folder: Path, names: Iterable[str], *, recognised: bool = False) -> None:
    """Raise StorageError where a link, or a file that no command wrote, has one of the names.

    Args:
        folder: the user's; it need not exist.
        names: of files and folders in it that are about to be written.
        recognised: the files are known to be those of a command, as earlier versions left them without a list.
    """
    owned = _listed_names(folder)
    for name in (OWNED, *names):
        refuse_link(folder / name)
        if not recognised and name not in owned and name != OWNED and (folder / name).exists():
            raise StorageError(
                f"{folder / name} was not made by this command, and stays as it is. Choose another --out, "
                "or move it away."
            )


def claim(folder: Path, names: Iterable[str], *, recognised: bool = False) -> None:
    """Claim the names from now on; see `refuse_foreign`, which comes first.

    Raises:
        StorageError: likewise; or the note cannot be written.
    """
    names = list(names)
    refuse_foreign(folder, names, recognised=recognised)
    owned = _listed_names(folder)
    remove_abandoned(folder / OWNED)
    if not owned.issuperset(names):
        files = sorted(owned.union(names))
        write_json(folder / OWNED, {_FILES: files, _CHECKSUM: _names_checksum(files)})


def add_datasets(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Put entries into `folder/dataset_info.json`; one that leads to the same file already stays as it is.

    Raises:
        StorageError: another dataset has one of the names; or as `merge_dataset_info`.
    """
    refuse_other_datasets(folder, entries)
    registered = registered_datasets(folder)
    merge_dataset_info(folder, {name: entry for name, entry in entries.items() if name not in registered})


def refuse_other_datasets(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise StorageError where `folder/dataset_info.json` has other datasets by the names of these."""
    registered = registered_datasets(folder)
    for name, entry in entries.items():
        if name in registered and _file_of_entry(folder, registered[name]) != _file_of_entry(folder, entry):
            raise StorageError(f"{folder / DATASET_INFO} has another dataset {name}. Choose another --out.")


def refuse_input_as_output(output: Path | None, inputs: Iterable[Path | None]) -> None:
    """Raise UsageError where a file that is read would be replaced by what is written."""
    for one in inputs:
        if output is not None and one is not None and output.exists() and one.exists() and output.samefile(one):
            raise UsageError(f"{output} is read, and would be replaced by the output. Give the output another name.")


def _listed_names(folder: Path) -> set[str]:
    """Return the names that are listed; none where a crash has damaged the list."""
    try:
        said = json.loads((folder / OWNED).read_bytes())
        return set(said[_FILES]) if said[_CHECKSUM] == _names_checksum(said[_FILES]) else set()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()


def _names_checksum(files: list[str]) -> str:
    return hashlib.sha256("\0".join(files).encode()).hexdigest()


def _file_of_entry(folder: Path, entry: object) -> object:
    """Return the file that an entry names; the entry itself where it names none."""
    if isinstance(entry, Mapping) and isinstance(entry.get("file_name"), str):
        return os.path.abspath(folder / entry["file_name"])
    return entry
