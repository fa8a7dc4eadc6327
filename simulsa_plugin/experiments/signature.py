"""What a run rests on besides its settings: the content of the data that it trains or is evaluated on."""

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
    """Ten characters that change with any change of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]


def named_datasets(*recipes: Mapping[str, Any]) -> tuple[str, ...]:
    """The datasets that recipes name, as they stand in `dataset` and `eval_dataset`.

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
    """Hash what a folder's dataset_info.json and files say of some datasets; audio counts by its path alone.

    Args:
        folder: holds dataset_info.json.
        names: those that are not registered there change nothing.

    Raises:
        StorageError: a file cannot be read.
    """
    entries = registered_datasets(folder)
    digest = hashlib.sha256()
    for name in names:
        if name in entries:
            digest.update(json.dumps([name, entries[name]], sort_keys=True).encode())
            for path in _files(folder, entries[name]):
                digest.update(_content(path))
    return digest.hexdigest()[:10]


def _files(folder: Path, entry: object) -> Iterator[Path]:
    named = entry.get("file_name") if isinstance(entry, Mapping) else None
    if not isinstance(named, str):
        return
    path = folder / named
    if path.is_dir():
        yield from (Path(place) / name for place, name in _walk(path))
    elif path.is_file():
        yield path


def _walk(folder: Path) -> Iterable[tuple[str, str]]:
    return sorted((place, name) for place, _, names in os.walk(folder) for name in names)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").digest()
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}. Make it readable.") from error
