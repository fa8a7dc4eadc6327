"""Rows of a registered dataset in LLaMA-Factory's aligned form, through its own loader and converters."""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.llamafactory.data.json_problem import json_problem
from simulsa_plugin.llamafactory.data.lazy_rows import LazyRows, converting_on_access
from simulsa_plugin.llamafactory.data.low_memory_loading import low_memory_loading
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments, one_line

# Files, hubs and LLaMA-Factory's converters have no common error.
_LOADING_ERRORS = (OSError, ValueError, TypeError, AttributeError, LookupError, ImportError, RuntimeError, EOFError)
_CHECKED_ROWS = 1000
_NO_ROWS = "corresponds to no data"  # of an error of `datasets`
_NOT_ALLOWED = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))
# Files of a folder that hold rows, and not audio.
_TABLE_SUFFIXES = frozenset(
    (".arrow", ".csv", ".gz", ".json", ".jsonl", ".md", ".parquet", ".py", ".txt", ".yaml", ".zst")
)


def load_aligned_rows(arguments: InferenceArguments, attributes: Any, name: str, entry: Mapping[str, Any]) -> LazyRows:
    """Load all rows of a dataset in file order, with LLaMA-Factory's columns (`_prompt`, `_response`, `_audios` …).

    Rows are converted as they are read, the first ones at once: mistakes in an entry show before a model is loaded.

    Args:
        arguments: of the recipe.
        attributes: LLaMA-Factory's attributes of the dataset.
        name: of the dataset.
        entry: with absolute paths, see `dataset_registry.with_absolute_paths`.

    Raises:
        DatasetError: the rows cannot be loaded, or there are none.
    """
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.hparams import TrainingArguments

    attributes.num_samples = None  # the share is taken of the rows in the file
    training = TrainingArguments(output_dir=os.devnull)
    source = _local_source(entry)
    naming = functools.partial(_in_one_line, name, attributes.load_from, source)
    with naming(), _sorted_folders(), low_memory_loading(), converting_on_access(naming):
        model = _with_content_cache(arguments.model, source)
        rows = _load_single_dataset(attributes, model, _load_all_rows(arguments.data), training)
    if not isinstance(rows, LazyRows):  # labelled while loading, and aligned by now
        rows = LazyRows(rows, dict, attributes, naming)
    for row in range(min(len(rows), _CHECKED_ROWS)):
        rows[row]
    rows.release_memory()
    return rows


@contextlib.contextmanager
def _in_one_line(name: str, load_from: str, source: Path | None, row: int | None = None) -> Iterator[None]:
    """Raise DatasetError for what goes wrong while a dataset is loaded, or a row of it is converted.

    Args:
        name: of the dataset.
        load_from: LLaMA-Factory's name for where its rows come from.
        source: its local file or folder, if it has one.
        row: that is converted.
    """
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    where = f", in row {row} from 0" if row else ""  # where the first row fails, its entry does not fit any
    try:
        yield
    except StopIteration as error:
        raise DatasetError(f"The dataset {name} has no rows.") from error
    except KeyError as error:
        raise DatasetError(
            f"The dataset {name} cannot be loaded: {error} is not a column of its rows, or is a role without a tag"
            f"{where}. Check `columns` and `tags` of its entry in dataset_info.json."
        ) from error
    except _loading_errors(load_from, DatasetsError) as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        if _NO_ROWS in str(cause):
            raise DatasetError(f"The dataset {name} has no rows.") from error
        broken = json_problem(source) if source and "JSON" in str(cause) else None
        reason = broken or f"{one_line(cause).rstrip('.')}{where}"
        step = "Correct that line." if broken else _next_step(cause)
        raise DatasetError(f"The dataset {name} cannot be loaded: {reason}. {step}") from error


def _loading_errors(load_from: str, datasets_error: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the errors that reading rows may raise; those of clouds (credentials, bucket) have no common base."""
    return (Exception,) if load_from == "cloud_file" else (datasets_error, *_LOADING_ERRORS)


def _next_step(cause: BaseException) -> str:
    text = str(cause)
    if isinstance(cause, OSError) and cause.errno in _NOT_ALLOWED:
        return "Allow that, or set HF_HOME to a folder for caches that can be written."
    if "converter" in text and "not found" in text:
        from llamafactory.data.converter import DATASET_CONVERTERS

        return f"Set `formatting` of its entry in dataset_info.json to one of {', '.join(sorted(DATASET_CONVERTERS))}."
    if "torchcodec" in text:  # `datasets` needs it for audio columns, on which LLaMA-Factory cannot train
        return (
            "Its column holds audio data; LLaMA-Factory trains on paths: write audio files, and put their paths there."
        )
    if "Dataset scripts" in text:
        return "Write the rows that its script yields to a file, and register that with `file_name`."
    return "Check its entry in dataset_info.json, and that its rows fit `columns` and `tags`."


def _local_source(entry: Mapping[str, Any]) -> Path | None:
    """Return the local file or folder that the rows are read from; None where they come from elsewhere."""
    named = next((entry[key] for key in ("hf_hub_url", "script_url", "file_name") if entry.get(key)), None)
    return Path(named) if isinstance(named, str) and os.path.isabs(named) and os.path.exists(named) else None


def _with_content_cache(model_arguments: Any, source: Path | None) -> Any:
    """Return arguments with a `datasets` cache for the content; by default its key is names and times of files."""
    if source is None:
        return model_arguments
    import datasets

    digest = hashlib.blake2b(digest_size=16)
    files = (
        sorted(path for path in source.rglob("*") if path.suffix in _TABLE_SUFFIXES) if source.is_dir() else [source]
    )
    for path in (path for path in files if path.is_file()):
        digest.update(f"{path}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    keyed = copy.copy(model_arguments)
    folder = keyed.cache_dir or datasets.config.HF_DATASETS_CACHE
    keyed.cache_dir = os.path.join(folder, "simulsa", digest.hexdigest())
    return keyed


@contextlib.contextmanager
def _sorted_folders() -> Iterator[None]:
    """Let LLaMA-Factory read a folder's files sorted by name; the order of `os.listdir` differs between disks.

    Rows are selected and named by their number. A training shuffles them, so that the order does not matter there.
    """
    listdir = os.listdir
    os.listdir = lambda *path: sorted(listdir(*path))  # type: ignore[assignment]
    try:
        yield
    finally:
        os.listdir = listdir


def _load_all_rows(data_arguments: Any) -> Any:
    """Return arguments that load every row, and keep relative audio paths relative."""
    changed = copy.copy(data_arguments)
    changed.max_samples, changed.streaming = None, False
    changed.overwrite_cache = True  # the cache remembers which audio was missing when it was written
    if not isinstance(changed.dataset_dir, str):
        changed.dataset_dir = os.curdir  # the recipe holds the entries themselves
    folder = changed.media_dir if isinstance(changed.media_dir, str) else changed.dataset_dir
    changed.media_dir = os.path.relpath(folder)
    return changed
