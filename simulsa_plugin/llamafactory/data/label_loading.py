"""`formatting: simulsa` inside LLaMA-Factory: scored rows to labeled samples, by its own `datasets.map`.

Scored rows reach `datasets` as lines of text. Its JSON reader infers types: it fails where a list is empty in the first
ten megabytes and not later (`unstable_prefixes` of a large file), and converts references that look like dates.

A module of its own, because the workers of `datasets.map` pickle the converter by its name.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

from llamafactory.data.converter import SharegptDatasetConverter

from simulsa_plugin.errors import DatasetError, SimulsaError
from simulsa_plugin.files.json_files import dump_line
from simulsa_plugin.llamafactory.data.labels import ATTRIBUTE, FORMATTING, Labels, Scores
from simulsa_plugin.llamafactory.plugin.notices import notify

COLUMN = "scored_row"


class LabelConverter:
    """LLaMA-Factory's converter for `formatting: simulsa`: a scored row to a sample in its aligned form.

    `datasets` hashes the converter for its cache: `Labels`, and so the rule, the digest of the scores and the version
    of the plugin.
    """

    def __init__(self, dataset_attr: Any, data_args: Any) -> None:
        self.labels: Labels = getattr(dataset_attr, ATTRIBUTE)
        self.from_sharegpt = SharegptDatasetConverter(dataset_attr, data_args)

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        """Label `{"scored_row": one line of scores.jsonl}`.

        Raises:
            UsageError: the rule needs a field that the row does not have; the message names the option for it.
        """
        aligned: dict[str, Any] = self.from_sharegpt(self.labels.training_row(json.loads(example[COLUMN])))
        return aligned


def with_label_converter(register_dataset_converter: Callable[..., None]) -> Callable[..., None]:
    """Register the converter with LLaMA-Factory's `register_dataset_converter`, and return that unchanged."""
    register_dataset_converter(FORMATTING, LabelConverter)
    return register_dataset_converter


def with_labels_applied(load_single_dataset: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap LLaMA-Factory's `_load_single_dataset`: entries with `Labels` are loaded by `load_labeled`."""

    @functools.wraps(load_single_dataset)
    def load(dataset_attr: Any, model_args: Any, data_args: Any, training_args: Any) -> Any:
        labels = getattr(dataset_attr, ATTRIBUTE, None)
        if labels is None:
            return load_single_dataset(dataset_attr, model_args, data_args, training_args)
        return load_labeled(labels, dataset_attr, model_args, data_args, training_args)

    return load


def load_labeled(labels: Labels, dataset_attr: Any, model_args: Any, data_args: Any, training_args: Any) -> Any:
    """Load the samples of the requested share, in file order, without empty partials unless those are kept.

    Args:
        labels: scores and rule.
        dataset_attr: LLaMA-Factory's attributes of the dataset, with the labels.
        model_args: LLaMA-Factory's, for its cache folder.
        data_args: LLaMA-Factory's; `max_samples` counts labeled samples, as for NAME_simulsa.jsonl.
        training_args: LLaMA-Factory's.

    Returns:
        a `Dataset` of LLaMA-Factory's columns (`_prompt`, `_response`, …), or an `IterableDataset` when streaming.

    Raises:
        StorageError: a row of the scores is malformed; the message names its line.
        UsageError: the rule needs a field that the rows do not have; the message names the option for it.
        DatasetError: no row is left.
    """
    from llamafactory.data.converter import align_dataset

    rows = _scored_rows(labels.scores, model_args.cache_dir)
    chosen = rows.select(range(labels.wanted(len(rows))))
    notify(f"{labels.scores.path}: {len(chosen)} of {len(rows)} scored rows, {labels}.")
    if data_args.streaming:
        chosen = chosen.to_iterable_dataset(num_shards=min(len(chosen), max(1, training_args.dataloader_num_workers)))
    samples = align_dataset(chosen, dataset_attr, data_args, training_args)
    if not labels.settings.keep_empty:
        samples = _without_empty(samples, labels)
    if data_args.max_samples is not None:
        samples = samples.select(range(min(data_args.max_samples, len(samples))))
    return samples


def _scored_rows(scores: Scores, cache_dir: str | None) -> Any:
    from datasets import Dataset, Features, Value
    from datasets.exceptions import DatasetGenerationError

    try:
        return Dataset.from_generator(
            scored_lines,
            features=Features({COLUMN: Value("large_string")}),
            cache_dir=cache_dir,
            gen_kwargs={"scores": scores},
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, SimulsaError):
            raise error.__cause__ from None  # its message is enough
        raise


def scored_lines(scores: Scores) -> Iterator[dict[str, str]]:
    """Yield the checked rows of a scores.jsonl as text."""
    for row in scores.rows():
        yield {COLUMN: dump_line(row)}


def _without_empty(samples: Any, labels: Labels) -> Any:
    kept = samples.filter(has_text, input_columns=["_response"])
    if next(iter(kept), None) is None:
        raise DatasetError(
            f"{labels.scores.path}: every partial translation is empty, and simulsa_keep_empty is false ({labels}). "
            "Choose a rule that accepts more, or simulsa_keep_empty: true."
        )
    return kept


def has_text(response: list[dict[str, str]]) -> bool:
    """Return whether a sample's answer is not empty."""
    return bool(response[0]["content"])
