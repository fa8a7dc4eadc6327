"""Report of a training's data at its start: rows of each dataset, and changes of the share of partial samples.

LLaMA-Factory's `get_dataset` calls `_get_merged_dataset` for the training's datasets, which calls
`_load_single_dataset` for each; all three are wrapped.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from typing import Any

from simulsa_plugin.augmentation.training_share import Mixing, Part, rows_line, share_lines, tokenized_line
from simulsa_plugin.llamafactory.data.labels import ATTRIBUTE
from simulsa_plugin.llamafactory.plugin.notices import notify

_loaded: list[tuple[Any, int | None]] = []  # attributes and rows of the datasets that are being merged in this process


def with_row_counts(load_single_dataset: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap LLaMA-Factory's `_load_single_dataset`: record the number of rows."""

    @functools.wraps(load_single_dataset)
    def load(dataset_attr: Any, *arguments: Any, **named: Any) -> Any:
        dataset = load_single_dataset(dataset_attr, *arguments, **named)
        _loaded.append((dataset_attr, len(dataset) if hasattr(dataset, "__len__") else None))
        return dataset

    return load


def with_share_report(get_merged_dataset: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap LLaMA-Factory's `_get_merged_dataset`: report rows, and the share of partial samples among them."""

    @functools.wraps(get_merged_dataset)
    def merged(dataset_names: list[str] | None, model_args: Any, data_args: Any, *rest: Any, **more: Any) -> Any:
        _loaded.clear()
        dataset = get_merged_dataset(dataset_names, model_args, data_args, *rest, **more)
        if dataset_names and dataset_names is data_args.dataset and os.environ.get("RANK", "0") == "0":
            _notify_rows(dataset_names, data_args)
        return dataset

    return merged


def with_tokenized_warning(get_dataset: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap LLaMA-Factory's `get_dataset`: warn where tokenized data replaces the recipe's datasets."""

    @functools.wraps(get_dataset)
    def get(template: Any, model_args: Any, data_args: Any, *rest: Any, **more: Any) -> Any:
        line = tokenized_line(data_args.tokenized_path)
        if line:
            notify(f"WARNING: {line}")
        return get_dataset(template, model_args, data_args, *rest, **more)

    return get


def _notify_rows(names: list[str], data_args: Any) -> None:
    mixing = Mixing.from_keys(vars(data_args))
    parts = [_describe_part(name, attributes, data_args) for name, (attributes, _) in zip(names, _loaded, strict=True)]
    kept = [rows for _, rows in _loaded]
    line = rows_line(parts, mixing, kept)
    if line:
        notify(line)
    for warning in share_lines(parts, mixing, kept):
        notify(f"WARNING: {warning}")


def _describe_part(name: str, attributes: Any, data_args: Any) -> Part:
    labels = getattr(attributes, ATTRIBUTE, None)
    if labels is not None:
        scored = rows_in_file(labels.scores.path)
        whole = scored is not None and labels.settings.keep_empty
        return Part(name, labels.wanted(scored) if whole else None)
    folder = data_args.dataset_dir
    path = os.path.join(folder if isinstance(folder, str) else os.curdir, attributes.dataset_name)
    return Part(name, rows_in_file(path) if attributes.load_from == "file" else None, attributes.num_samples)


def rows_in_file(path: str) -> int | None:
    """Count the rows of a .jsonl or .json file; None where that needs LLaMA-Factory's reader."""
    try:
        if path.endswith(".jsonl"):
            with open(path, "rb") as lines:
                return sum(not line.isspace() for line in lines)
        if path.endswith(".json"):
            with open(path, encoding="utf-8") as handle:
                rows = json.load(handle)
            return len(rows) if isinstance(rows, list) else None
    except (OSError, ValueError):
        return None  # LLaMA-Factory has read it: it may be JSON lines by another name
    return None
