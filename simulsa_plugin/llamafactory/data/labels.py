"""Labels that are decided when a dataset is loaded: a scores.jsonl, and an entry of dataset_info.json with a rule.

LLaMA-Factory calls `get_dataset_list` for the entries of its recipe and drops the keys that it does not know;
`carrying_labels` wraps it, and lets ours travel along. What comes of them is in `label_loading`.
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
from simulsa_plugin.llamafactory.data.dataset import read_dataset_info
from simulsa_plugin.settings import KEY_PREFIX, Settings, check_range, unknown_key

FORMATTING = "simulsa"
ATTRIBUTE = "simulsa_labels"  # of LLaMA-Factory's DatasetAttr
Entries = str | Mapping[str, Any]  # as `dataset_dir` gives them


@dataclass(frozen=True)
class ShareSettings(Settings):
    """How much of the scored rows is read.

    Args:
        share: share of the rows of scores.jsonl to read, from the first on; larger shares contain smaller ones.

    Raises:
        UsageError: it is no share.
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        check_range("simulsa_share", self.share, above=0, maximum=1)


# How far to look back was settled by the scores as well; it is named where they come without their manifest.
LABEL_KEYS = (DECIDING_KEYS - {"simulsa_portable"}) | {"simulsa_lookback_ms"} | ShareSettings.keys().keys()
ENTRY_KEYS = LABEL_KEYS | {"file_name", "formatting"}


@dataclass(frozen=True)
class Scores:
    """A scores.jsonl as it was when it was looked at. `datasets` makes the names of its cache from all of it.

    Attributes:
        path: absolute.
        digest: of what the file holds.
        version: of this plugin, which reads it.
    """

    path: str
    digest: str
    version: str = __version__

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, checked, in the order of the walk; its clip is absolute.

        Raises:
            StorageError: a row is broken, is another dataset's, or stands twice; its line is named.
        """
        source = ScoredFile.open(Path(self.path))
        return source.rows(Layout(source.path.parent.parent, source.name), portable=False)


@dataclass(frozen=True)
class Labels:
    """What is decided over which scores.

    Attributes:
        scores: over these.
        settings: rule, boundary, whether empty partials are kept; where the entry is silent, as the scores' manifest
            has it.
        output_width: V; None where it is not known.
        share: of the rows, 0 < share ≤ 1.
    """

    scores: Scores
    settings: AugmentSettings
    output_width: int | None
    share: float = 1.0

    @classmethod
    def open(cls, path: Path, keys: Mapping[str, Any]) -> Labels:
        """Read what stands beside the scores, and let `keys` of `LABEL_KEYS` replace it; null is a key's default.

        Raises:
            UsageError: a value is none that its key takes.
            StorageError: the scores are missing, empty or broken, or of a run that is not finished.
        """
        share = ShareSettings.from_keys(keys).share
        source = ScoredFile.open(path)
        settings = AugmentSettings.from_keys({**source.settings, **keys})
        scored = Scores(str(source.path), _digest(source.path))
        return cls(scored, settings, source.manifest.get("output_width"), share)

    def __str__(self) -> str:
        """The rule, and what else is not as it is by default, as keys of an entry."""
        keys, defaults = self.settings.as_keys(), AugmentSettings().as_keys()
        told = [key for key in sorted(LABEL_KEYS & keys.keys()) if keys[key] != defaults[key]]
        return " ".join(f"{key}={keys[key]}" for key in dict.fromkeys(["simulsa_acceptance", *told]))

    def wanted(self, rows: int) -> int:
        """How many of so many rows: the share rounded half up, at least one."""
        return wanted_samples(rows, replace(self.settings, samples=None, ratio=self.share))

    def training_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the scores as a line of NAME_simulsa.jsonl (`messages`, `audios`).

        Raises:
            UsageError: the rule needs a field that the row does not have; the option that computes it is named.
        """
        return training_row({**row, "partial": decide(row, self.settings, self.output_width).partial})


def carrying_labels(get_dataset_list: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Wrap LLaMA-Factory's `get_dataset_list`: entries with `formatting: simulsa` keep their keys, as `Labels`."""

    @functools.wraps(get_dataset_list)
    def get(dataset_names: list[str] | None, dataset_dir: Entries) -> list[Any]:
        names = dataset_names or []
        # Before LLaMA-Factory looks, which knows no formatting but its own and stops at what is not there.
        entries = read_dataset_info(dataset_dir) if names and dataset_dir != "ONLINE" else {}
        folder = Path(dataset_dir if isinstance(dataset_dir, str) else os.curdir)
        asked = [labels_of(name, entries.get(name), folder) for name in names]
        attributes = get_dataset_list(dataset_names, dataset_dir)
        for attribute, labels in zip(attributes, asked, strict=True):
            if labels is not None:
                attribute.join({**SHAREGPT_ENTRY, "formatting": FORMATTING})  # what `Labels.training_row` gives
                setattr(attribute, ATTRIBUTE, labels)
        return attributes

    return get


def labels_of(name: str, entry: object, folder: Path) -> Labels | None:
    """The labels that an entry asks for; None where it is of another formatting, or is for LLaMA-Factory to refuse.

    Args:
        name: of the dataset.
        entry: of the dataset in dataset_info.json.
        folder: that a relative `file_name` starts from.

    Raises:
        UsageError: the entry has a key or a value that nobody reads, or no `file_name`; it is named.
        StorageError: the scores are missing, empty or broken, or of a run that is not finished.
    """
    if not isinstance(entry, Mapping):
        return None
    try:
        if entry.get("formatting") != FORMATTING:
            _refuse_own_keys(entry)
            return None
        _check_keys(entry)
        keys = {key: value for key, value in entry.items() if key in LABEL_KEYS}
        return Labels.open(folder / entry["file_name"], keys)
    except SimulsaError as error:
        raise type(error)(f"The dataset {name} in dataset_info.json: {error}") from error


def _refuse_own_keys(entry: Mapping[str, Any]) -> None:
    """Elsewhere LLaMA-Factory would pass over our keys in silence."""
    own = next((key for key in entry if key.startswith(KEY_PREFIX)), None)
    if own is not None:
        formatting = entry.get("formatting", "alpaca")
        raise UsageError(
            f'{own} is for "formatting": "{FORMATTING}", but formatting is {formatting!r}. Set that and a scores.jsonl '
            f"as file_name, or remove {own}."
        )


def _check_keys(entry: Mapping[str, Any]) -> None:
    for key in entry:
        if key in AugmentSettings.keys().keys() - LABEL_KEYS:
            raise UsageError(
                f"{key} was settled when the scores were made. Allowed here: {', '.join(sorted(LABEL_KEYS))}; "
                "simulsa_share takes fewer rows."
            )
        if key == "num_samples":
            raise UsageError("num_samples draws rows at random, also twice. Use simulsa_share.")
        if key not in ENTRY_KEYS:
            raise unknown_key(key, ENTRY_KEYS)
    if not isinstance(entry.get("file_name"), str):
        raise UsageError(f"file_name is {entry.get('file_name')!r}; allowed: the path of a scores.jsonl.")


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
