"""Labels that are applied when a dataset is loaded: a scores.jsonl, and an entry of dataset_info.json with a rule.

LLaMA-Factory calls `get_dataset_list` for the entries of its recipe and drops unknown keys; `with_label_entries` wraps
it and attaches the `simulsa_*` keys as `Labels`. `label_loading` applies them.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simulsa_plugin import __version__
from simulsa_plugin.augmentation.augment_settings import DECIDING_KEYS, AugmentSettings
from simulsa_plugin.augmentation.labeling import training_row
from simulsa_plugin.augmentation.method.acceptance import decide
from simulsa_plugin.augmentation.method.selection import wanted_samples
from simulsa_plugin.augmentation.output_layout import Layout
from simulsa_plugin.augmentation.scored_file import ScoredFile
from simulsa_plugin.errors import SimulsaError, UsageError
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.llamafactory.data.dataset_registry import read_dataset_info
from simulsa_plugin.settings import KEY_PREFIX, Settings, check_range, unknown_key

FORMATTING = "simulsa"
ATTRIBUTE = "simulsa_labels"  # of LLaMA-Factory's DatasetAttr
Entries = str | Mapping[str, Any]  # as `dataset_dir` gives them


@dataclass(frozen=True)
class ShareSettings(Settings):
    """Share of the scored rows that is used.

    Args:
        share: share of the rows of scores.jsonl to read, from the first on; larger shares contain smaller ones.

    Raises:
        UsageError: it is not in (0, 1].
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        check_range("simulsa_share", self.share, above=0, maximum=1)


# The lookback was fixed when the scores were computed; an entry names it where they come without their manifest.
LABEL_KEYS = (DECIDING_KEYS - {"simulsa_portable"}) | {"simulsa_lookback_ms"} | ShareSettings.keys().keys()
ENTRY_KEYS = LABEL_KEYS | {"file_name", "formatting"}


@dataclass(frozen=True)
class Scores:
    """A scores.jsonl of known content. `datasets` hashes all attributes for its cache.

    Attributes:
        path: absolute.
        digest: SHA-256 of the file.
        version: of this plugin.
    """

    path: str
    digest: str
    version: str = __version__

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read every row, checked and in file order; the path of its clip is absolute.

        Raises:
            StorageError: a row is malformed, belongs to another dataset, or is repeated; the message names its line.
        """
        source = ScoredFile.open(Path(self.path))
        return source.rows(Layout(source.path.parent.parent, source.name), portable=False)


@dataclass(frozen=True)
class Labels:
    """Scores with the rule that labels them.

    Attributes:
        scores: rows to be labeled.
        settings: rule, boundary, whether empty partials are kept; from the entry, else from the scores' manifest.
        output_width: V; None where it is not known.
        share: of the rows, 0 < share ≤ 1.
    """

    scores: Scores
    settings: AugmentSettings
    output_width: int | None
    share: float = 1.0

    @classmethod
    def open(cls, path: Path, keys: Mapping[str, Any]) -> Labels:
        """Read the settings beside the scores, and override them by `keys` of `LABEL_KEYS`; null is a key's default.

        Raises:
            UsageError: a value is not allowed for its key.
            StorageError: the scores are missing, empty or malformed, or of an unfinished run.
        """
        share = ShareSettings.from_keys(keys).share
        source = ScoredFile.open(path)
        settings = AugmentSettings.from_keys({**source.settings, **keys})
        scored = Scores(str(source.path), _digest(source.path))
        return cls(scored, settings, source.manifest.get("output_width"), share)

    def __str__(self) -> str:
        """Return the rule, and other settings that are not defaults, as keys of an entry."""
        keys, defaults = self.settings.as_keys(), AugmentSettings().as_keys()
        changed = [key for key in sorted(LABEL_KEYS & keys.keys()) if keys[key] != defaults[key]]
        return " ".join(f"{key}={keys[key]}" for key in dict.fromkeys(["simulsa_acceptance", *changed]))

    def wanted(self, rows: int) -> int:
        """Return how many of `rows` the share is, rounded half up, at least one."""
        return wanted_samples(rows, replace(self.settings, samples=None, ratio=self.share))

    def training_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Label a row of the scores. Return it as a line of NAME_simulsa.jsonl (`messages`, `audios`).

        Raises:
            UsageError: the rule needs a field that the row does not have; the message names the option for it.
        """
        return training_row({**row, "partial": decide(row, self.settings, self.output_width).partial})


def with_label_entries(get_dataset_list: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Wrap LLaMA-Factory's `get_dataset_list`: attach `Labels` to the attributes of `formatting: simulsa` entries."""

    @functools.wraps(get_dataset_list)
    def get(dataset_names: list[str] | None, dataset_dir: Entries) -> list[Any]:
        names = dataset_names or []
        # Before LLaMA-Factory checks the entries, as it refuses unknown formattings and missing files.
        entries = read_dataset_info(dataset_dir) if names and dataset_dir != "ONLINE" else {}
        folder = Path(dataset_dir if isinstance(dataset_dir, str) else os.curdir)
        labels_by_name = [open_labels(name, entries.get(name), folder) for name in names]
        attributes = get_dataset_list(dataset_names, dataset_dir)
        for attribute, labels in zip(attributes, labels_by_name, strict=True):
            if labels is not None:
                attribute.join({**SHAREGPT_ENTRY, "formatting": FORMATTING})  # the form of `Labels.training_row`
                setattr(attribute, ATTRIBUTE, labels)
        return attributes

    return get


def open_labels(name: str, entry: object, folder: Path) -> Labels | None:
    """Open the labels of an entry; None where it has another formatting, or LLaMA-Factory will refuse it.

    Args:
        name: of the dataset.
        entry: of the dataset in dataset_info.json.
        folder: start of a relative `file_name`.

    Raises:
        UsageError: the entry has an unknown key, a wrong value, or no `file_name`.
        StorageError: the scores are missing, empty or malformed, or of an unfinished run.
    """
    if not isinstance(entry, Mapping):
        return None
    try:
        if entry.get("formatting") != FORMATTING:
            _refuse_simulsa_keys(entry)
            return None
        _check_entry_keys(entry)
        keys = {key: value for key, value in entry.items() if key in LABEL_KEYS}
        return Labels.open(folder / entry["file_name"], keys)
    except SimulsaError as error:
        raise type(error)(f"The dataset {name} in dataset_info.json: {error}") from error


def _refuse_simulsa_keys(entry: Mapping[str, Any]) -> None:
    """Raise UsageError for `simulsa_*` keys of another formatting, which LLaMA-Factory would ignore."""
    own = next((key for key in entry if key.startswith(KEY_PREFIX)), None)
    if own is not None:
        formatting = entry.get("formatting", "alpaca")
        raise UsageError(
            f'{own} is for "formatting": "{FORMATTING}", but formatting is {formatting!r}. Set that and a scores.jsonl '
            f"as file_name, or remove {own}."
        )


def _check_entry_keys(entry: Mapping[str, Any]) -> None:
    for key in entry:
        if key in AugmentSettings.keys().keys() - LABEL_KEYS:
            raise UsageError(
                f"{key} was fixed when the scores were computed. Allowed here: {', '.join(sorted(LABEL_KEYS))}; "
                "simulsa_share uses fewer rows."
            )
        if key == "num_samples":
            raise UsageError("num_samples draws rows at random, some repeatedly. Use simulsa_share.")
        if key not in ENTRY_KEYS:
            raise unknown_key(key, ENTRY_KEYS)
    if not isinstance(entry.get("file_name"), str):
        raise UsageError(f"file_name is {entry.get('file_name')!r}; allowed: the path of a scores.jsonl.")


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
