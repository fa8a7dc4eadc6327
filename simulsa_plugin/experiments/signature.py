"""Hashes of settings and of the data of a run."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.dataset_info import registered_datasets


def short_hash(value: object) -> str:
    """Hash a JSON value to ten characters."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]


def named_datasets(*recipes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the datasets in `dataset` and `eval_dataset` of recipes.

    >>> named_datasets({"dataset": "demo, demo_simulsa"}, {"eval_dataset": ["test"]})
    ('demo', 'demo_simulsa', 'test')
    """
    named: list[str] = []
    for recipe in recipes:
        for key in ("dataset", "eval_dataset"):
            value = recipe.get(key) or []
            named += value.split(",") if isinstance(value, str) else map(str, value)
    return tuple(sorted({name.strip() for name in named} - {""}))


@functools.cache
def data_signature(folder: Path, names: tuple[str, ...]) -> str:
    """Hash entries and files of datasets; of audio only the path counts.

    Args:
        folder: holds dataset_info.json.
        names: of datasets; unregistered ones are ignored.

    Raises:
        StorageError: a file cannot be read.
    """
    entries = registered_datasets(folder)
    digest = hashlib.sha256()
    for name in names:
        if name in entries:
            digest.update(json.dumps([name, entries[name]], sort_keys=True).encode())
            for path in _data_files(folder, entries[name]):
                digest.update(_hash_file(path))
    return digest.hexdigest()[:10]


def _data_files(folder: Path, entry: object) -> Iterator[Path]:
    named = entry.get("file_name") if isinstance(entry, Mapping) else None
    if not isinstance(named, str):
        return
    path = folder / named
    if path.is_dir():
        yield from (Path(place) / name for place, name in _list_data_files(path))
    elif path.is_file():
        yield path


def _list_data_files(folder: Path) -> Iterable[tuple[str, str]]:
    return sorted((place, name) for place, _, names in os.walk(folder) for name in names)


def _hash_file(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").digest()
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}. Make it readable.") from error
