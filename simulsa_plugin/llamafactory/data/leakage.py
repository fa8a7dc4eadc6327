"""Detection of test sets that a model is trained on, by name or by the source of their rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from simulsa_plugin.augmentation.output_layout import SUFFIX
from simulsa_plugin.llamafactory.data.dataset_registry import SOURCES

_PART_KEYS = ("subset", "folder", "split")  # parts of one source have different rows


def find_training_overlap(
    name: str, entry: Mapping[str, Any], training: Iterable[str], entries: Mapping[str, Any], folder: str
) -> str | None:
    """Return a phrase for the training dataset that contains the test set; None where none is known to.

    Args:
        name: of the test set; a training dataset of the same name and folder is the test set.
        entry: of the test set; a relative file name starts from `folder`.
        training: names of the datasets that the model is trained on.
        entries: of dataset_info.json, by name; the training datasets' are looked up there.
        folder: of that dataset_info.json.

    >>> entries = {"a": {"file_name": "x.json"}, "b": {"file_name": "x.json"}, "c": {"file_name": "y.json"}}
    >>> find_training_overlap("a", entries["a"], ["c", "b"], entries, "/data")
    'the training dataset b, registered with the same source'
    >>> find_training_overlap("c", entries["c"], ["a", "b"], entries, "/data")
    """
    names = list(training)
    if entries.get(name) is not None and _source(entries[name], folder) == _source(entry, folder):
        if name in names:
            return f"the training dataset {name}"
        if f"{name}{SUFFIX}" in names:
            return f"the dataset that the partial samples of {name}{SUFFIX}, a training dataset, were cut from"
    for other in names:
        if isinstance(entries.get(other), Mapping) and _contains(
            _source(entries[other], folder), _source(entry, folder)
        ):
            return f"the training dataset {other}, registered with the same source"
    return None


EntrySource = tuple[tuple[str | None, ...], tuple[str | None, ...]]


def _source(entry: Mapping[str, Any], folder: str) -> EntrySource:
    """Return the source of an entry's rows, comparable between entries."""
    which = tuple(entry.get(key) or ("train" if key == "split" else None) for key in _PART_KEYS)
    return tuple(_resolve_source(key, entry.get(key), folder) for key in SOURCES), which


def _resolve_source(key: str, value: object, folder: str) -> str | None:
    """Resolve a local file or folder to its real path; other sources stay as they are."""
    if not isinstance(value, str):
        return None
    if key in ("file_name", "script_url"):
        return os.path.realpath(os.path.join(folder, value))
    return os.path.realpath(value) if os.path.exists(value) else value  # the name of a repository may be a local folder


def _contains(training: EntrySource, test: EntrySource) -> bool:
    """Return whether the sources are the same, or the test set is a file in the folder of the training set."""
    if training == test:
        return any(training[0])
    places = [(one, other) for one, other in zip(training[0], test[0], strict=True) if one and other]
    return training[1] == test[1] and any(os.path.dirname(other) == one for one, other in places)
