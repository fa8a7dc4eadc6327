"""Whether a test set is also a training set: by name, or by the file or repository that its rows come from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from simulsa_plugin.augmentation.output_layout import SUFFIX
from simulsa_plugin.llamafactory.data.dataset import SOURCES

_WHICH_ROWS = ("subset", "folder", "split")  # of one source: another split holds other rows


def trained_on(
    name: str, entry: Mapping[str, Any], training: Iterable[str], entries: Mapping[str, Any], folder: str
) -> str | None:
    """Say which training dataset holds the test set, or return None where none is known to.

    Args:
        name: of the test set; a training dataset of the same name and folder is the test set.
        entry: of the test set; a relative file name starts from `folder`.
        training: names of the datasets that the model is trained on.
        entries: of dataset_info.json, by name; the training datasets' are looked up there.
        folder: of that dataset_info.json.

    >>> entries = {"a": {"file_name": "x.json"}, "b": {"file_name": "x.json"}, "c": {"file_name": "y.json"}}
    >>> trained_on("a", entries["a"], ["c", "b"], entries, "/data")
    'the training dataset b, registered with the same source'
    >>> trained_on("c", entries["c"], ["a", "b"], entries, "/data")
    """
    names = list(training)
    if entries.get(name) is not None and _source(entries[name], folder) == _source(entry, folder):
        if name in names:
            return f"the training dataset {name}"
        if f"{name}{SUFFIX}" in names:
            return f"the dataset that the partial samples of {name}{SUFFIX}, a training dataset, were cut from"
    for other in names:
        if isinstance(entries.get(other), Mapping) and _holds(_source(entries[other], folder), _source(entry, folder)):
            return f"the training dataset {other}, registered with the same source"
    return None


Source = tuple[tuple[str | None, ...], tuple[str | None, ...]]


def _source(entry: Mapping[str, Any], folder: str) -> Source:
    """Where an entry's rows come from, comparable between entries."""
    which = tuple(entry.get(key) or ("train" if key == "split" else None) for key in _WHICH_ROWS)
    return tuple(_place(key, entry.get(key), folder) for key in SOURCES), which


def _place(key: str, value: object, folder: str) -> str | None:
    """A local file or folder by its real path, a place elsewhere as it is."""
    if not isinstance(value, str):
        return None
    if key in ("file_name", "script_url"):
        return os.path.realpath(os.path.join(folder, value))
    return os.path.realpath(value) if os.path.exists(value) else value  # a hub's name may be a folder here


def _holds(training: Source, test: Source) -> bool:
    """Whether the same source, or a folder of files that the test set's file is one of."""
    if training == test:
        return any(training[0])
    places = [(one, other) for one, other in zip(training[0], test[0], strict=True) if one and other]
    return training[1] == test[1] and any(os.path.dirname(other) == one for one, other in places)
