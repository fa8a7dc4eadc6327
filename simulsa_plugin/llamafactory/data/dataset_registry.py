"""Entries of dataset_info.json: reading, checks, and where their rows come from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import DatasetError, UsageError
from simulsa_plugin.llamafactory.model.arguments import one_line
from simulsa_plugin.settings import did_you_mean, list_some

SOURCES = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


def read_dataset_info(dataset_dir: str | Mapping[str, Any]) -> dict[str, Any]:
    """Read the entries of `dataset_info.json`, from every source that LLaMA-Factory supports.

    Args:
        dataset_dir: a folder, `REMOTE:` and a dataset repository of the Hugging Face hub, or the entries themselves.

    Raises:
        DatasetError: it is missing or not valid, or does not exist (`ONLINE`).
    """
    if isinstance(dataset_dir, Mapping):
        return dict(dataset_dir)
    if not isinstance(dataset_dir, str):  # YAML reads `off`, `no` and `yes` as true or false
        raise UsageError(f'dataset_dir is {dataset_dir!r}; allowed: a folder. Put its name in quotes: "off".')
    if dataset_dir == "ONLINE":
        raise DatasetError(
            "dataset_dir: ONLINE loads datasets without an entry, and so without audio. "
            'Register the dataset in a dataset_info.json: {"hf_hub_url": …, "columns": {…, "audios": …}}.'
        )
    path = os.path.join(dataset_dir, "dataset_info.json")
    try:
        if dataset_dir.startswith("REMOTE:"):
            path = _download_info(dataset_dir.removeprefix("REMOTE:"))
        info = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is not valid JSON: {one_line(error)}. Fix it.") from error
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"No dataset is registered in {dataset_dir}: cannot read {path} "
            f"({getattr(error, 'strerror', None) or one_line(error)}). "
            "Set dataset_dir to a folder with a dataset_info.json."
        ) from error
    if not isinstance(info, dict):
        raise DatasetError(f"{path} holds a {type(info).__name__}; expected an object of datasets by name.")
    return info


def _download_info(repository: str) -> str:
    from huggingface_hub import hf_hub_download

    return str(hf_hub_download(repo_id=repository, filename="dataset_info.json", repo_type="dataset"))


def no_dataset_error() -> DatasetError:
    """Return the error for a recipe without a dataset."""
    return DatasetError("The recipe names no dataset. Add `dataset: NAME`, a name in dataset_info.json of dataset_dir.")


def unknown_dataset_error(name: str, info: Mapping[str, Any], place: str) -> DatasetError:
    """Return the error for a name that is not among the entries `info` of `place`."""
    names = list_some(sorted(map(str, info)))
    return DatasetError(f"No dataset {name} in {place}; registered there: {names}.{did_you_mean(name, info)}")


def check_dataset_entry(dataset_dir: object, info: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a copy of a dataset's entry. Raises DatasetError where LLaMA-Factory could not use it."""
    place = os.path.join(dataset_dir, "dataset_info.json") if isinstance(dataset_dir, str) else "dataset_dir"
    if name not in info:
        raise unknown_dataset_error(name, info, place)
    entry = info[name]
    if not isinstance(entry, dict):
        raise DatasetError(
            f"The entry of {name} in {place} is a {type(entry).__name__}; "
            'expected an object such as {"file_name": …}.'
        )
    for key in ("columns", "tags"):
        if key in entry and not isinstance(entry[key], dict):
            raise DatasetError(
                f"`{key}` in the entry of {name} in {place} is a {type(entry[key]).__name__}; expected an object."
            )
    if not any(isinstance(entry.get(key), str) for key in SOURCES):
        raise DatasetError(
            f"The entry of {name} in {place} names no source of its rows. Add one of {', '.join(SOURCES)}."
        )
    return dict(entry)


def has_audio_column(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry has an `audios` column; malformed ones count, as loading refuses them by name."""
    columns = entry.get("columns", {})
    return not isinstance(columns, dict) or isinstance(columns.get("audios"), str)


def registered_file(entry: object, dataset_dir: str) -> Path | None:
    """Return the absolute path of an entry's local file or folder; None where its rows come from elsewhere."""
    if not isinstance(entry, dict) or any(key in entry for key in SOURCES if key != "file_name"):
        return None
    file_name = entry.get("file_name")
    return Path(os.path.abspath(os.path.join(dataset_dir, file_name))) if isinstance(file_name, str) else None


def check_registered_file(name: str, path: Path) -> None:
    """Check that a dataset's local file or folder has content.

    Raises:
        DatasetError: it is missing or empty.
    """
    step = "Correct its entry in dataset_info.json, or create the data."
    if not path.exists():
        raise DatasetError(f"The dataset {name} is registered, but its file {path} does not exist. {step}")
    if path.is_dir() and not any(path.iterdir()):
        raise DatasetError(f"The dataset {name} is registered, but its folder {path} is empty. {step}")
    if path.is_file() and not path.stat().st_size:
        raise DatasetError(f"The dataset {name} is registered, but its file {path} is empty. {step}")


def with_absolute_paths(entry: dict[str, Any], attributes: Any, dataset_dir: object, name: str) -> dict[str, Any]:
    """Return an entry that is valid for any `dataset_dir` and working folder.

    Args:
        entry: of the dataset.
        attributes: LLaMA-Factory's attributes of the dataset.
        dataset_dir: start of relative paths.
        name: of the dataset.

    Raises:
        DatasetError: a local file or folder is missing or empty.
    """
    if attributes.load_from == "hf_hub" and os.path.exists(attributes.dataset_name):
        return entry | {"hf_hub_url": os.path.abspath(attributes.dataset_name)}
    if attributes.load_from not in ("file", "script"):
        return entry
    folder = dataset_dir if isinstance(dataset_dir, str) else os.curdir
    path = os.path.abspath(os.path.join(folder, attributes.dataset_name))
    check_registered_file(name, Path(path))
    return entry | {"file_name" if attributes.load_from == "file" else "script_url": path}
