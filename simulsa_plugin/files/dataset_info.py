"""LLaMA-Factory's dataset_info.json: entries are added, and what else it holds stays byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import remove_leftovers, replacing
from simulsa_plugin.files.json_files import reading_from
from simulsa_plugin.files.locks import locked

DATASET_INFO = "dataset_info.json"

# How our own datasets stand in dataset_info.json: the form that LLaMA-Factory and ms-swift both read.
SHAREGPT_ENTRY: dict[str, Any] = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "audios": "audios"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}


def merge_dataset_info(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Put entries into `folder/dataset_info.json`; everything else in it stays byte for byte.

    Raises:
        StorageError: the file cannot be read or written, is a link, or is not a JSON object.
    """
    path = folder / DATASET_INFO
    with locked(folder, wait=True):
        remove_leftovers(folder, path.name)
        info, text = _read_dataset_info(path)
        changed = {name: entry for name, entry in entries.items() if name not in info or info[name] != entry}
        if changed:
            with replacing(path) as handle:
                handle.write(_with_entries(text, changed).encode())


def registered_datasets(folder: Path) -> dict[str, Any]:
    """Return the entries of `folder/dataset_info.json`; none where there is no such file.

    Raises:
        StorageError: the file cannot be read, or is not a JSON object.
    """
    return _read_dataset_info(folder / DATASET_INFO)[0]


def _read_dataset_info(path: Path) -> tuple[dict[str, Any], str]:
    """Return the entries and the text of the file."""
    try:
        with reading_from(path):
            text = path.read_bytes().decode("utf-8") if path.exists() else "{}\n"
        info = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is not valid JSON ({error}). Fix it, or move it away.") from error
    if not isinstance(info, dict):
        raise StorageError(f"{path} holds a {type(info).__name__}; expected an object of datasets by name.")
    return info, text


def _with_entries(text: str, entries: Mapping[str, Any]) -> str:
    r"""Put entries into the text of a JSON object; whatever else it holds stays as it is written.

    >>> print(_with_entries('{"mine": [1.50], "a": 0}', {"a": 1, "b": 2}))
    {"mine": [1.50], "a": 1,
      "b": 2
    }
    """
    for name, entry in entries.items():
        value = json.dumps(entry, ensure_ascii=False, indent=2, allow_nan=False).replace("\n", "\n  ")
        spans, end = _value_spans(text)
        if name in spans:
            start, stop = spans[name]
            text = text[:start] + value + text[stop:]
        else:
            before = text[:end].rstrip() + ("," if spans else "")
            text = f"{before}\n  {json.dumps(name, ensure_ascii=False)}: {value}\n{text[end:]}"
    return text


def _value_spans(text: str) -> tuple[dict[str, tuple[int, int]], int]:
    """Return where the value of each key of a valid JSON object begins and ends, and where its closing brace is."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,:]*")
    spans: dict[str, tuple[int, int]] = {}
    at = text.index("{") + 1
    while True:
        at = _end(between, text, at)
        if text[at] == "}":
            return spans, at
        name, at = decoder.raw_decode(text, at)
        start = _end(between, text, at)
        _, at = decoder.raw_decode(text, start)
        spans[name] = (start, at)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return the end of a match that may be empty."""
    found = pattern.match(text, at)
    return found.end() if found else at
