"""`formatting: simulsa` inside LLaMA-Factory: scored rows in, decided samples out, by its own `datasets.map`.

Scored rows reach `datasets` as lines of text. Its JSON reader guesses types: it fails where a list is empty in the
first ten megabytes alone (`unstable_prefixes` of a large file), and makes dates of references that look like some.

A static module: the converter is pickled by name, for the workers of `datasets.map`.
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
    """LLaMA-Factory's converter for `formatting: simulsa`: a scored row to a sample in its standard form.

    `datasets` makes its cache's name from what the converter holds: `Labels`, and so the rule, what the scores hold
    and the version of the plugin.
    """

    def __init__(self, dataset_attr: Any, data_args: Any) -> None:
        self.labels: Labels = getattr(dataset_attr, ATTRIBUTE)
        self.from_sharegpt = SharegptDatasetConverter(dataset_attr, data_args)

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        """Decide over `{"scored_row": one line of scores.jsonl}`.

        Raises:
            UsageError: the rule needs a field that the row does not have; the option that computes it is named.
        """
        aligned: dict[str, Any] = self.from_sharegpt(self.labels.training_row(json.loads(example[COLUMN])))
        return aligned


def registered(register_dataset_converter: Callable[..., None]) -> Callable[..., None]:
    """Register the converter with LLaMA-Factory's `register_dataset_converter`, which stays as it is."""
    register_dataset_converter(FORMATTING, LabelConverter)
    return register_dataset_converter


def deciding(load_single_dataset: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap LLaMA-Factory's `_load_single_dataset`: where the entry has `Labels`, they say which rows there are."""

    @functools.wraps(load_single_dataset)
    def load(dataset_attr: Any, model_args: Any, data_args: Any, training_args: Any) -> Any:
        labels = getattr(dataset_attr, ATTRIBUTE, None)
        if labels is None:
            return load_single_dataset(dataset_attr, model_args, data_args, training_args)
        return load_decided(labels, dataset_attr, model_args, data_args, training_args)

    return load


def load_decided(labels: Labels, dataset_attr: Any, model_args: Any, data_args: Any, training_args: Any) -> Any:
    """The samples of the share that is wanted, in file order, without empty partials where those are not kept.

    Args:
        labels: what is decided.
        dataset_attr: LLaMA-Factory's attributes of the dataset, with the labels.
        model_args: LLaMA-Factory's, for its cache folder.
        data_args: LLaMA-Factory's; `max_samples` counts decided samples, as it does of NAME_simulsa.jsonl.
        training_args: LLaMA-Factory's.

    Returns:
        a `Dataset` of LLaMA-Factory's columns (`_prompt`, `_response`, …), or an `IterableDataset` when streaming.

    Raises:
        StorageError: a row of the scores is broken; its line is named.
        UsageError: the rule needs a field that the rows do not have; the option that computes it is named.
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
            raise error.__cause__ from None  # our own words are enough
        raise


def scored_lines(scores: Scores) -> Iterator[dict[str, str]]:
    """The checked rows of a scores.jsonl as text."""
    for row in scores.rows():
        yield {COLUMN: dump_line(row)}


def _without_empty(samples: Any, labels: Labels) -> Any:
    kept = samples.filter(says_something, input_columns=["_response"])
    if next(iter(kept), None) is None:
        raise DatasetError(
            f"{labels.scores.path}: every partial translation is empty, and simulsa_keep_empty is false ({labels}). "
            "Lower the bar of the rule, or keep them."
        )
    return kept


def says_something(response: list[dict[str, str]]) -> bool:
    """Whether a sample's answer holds any text."""
    return bool(response[0]["content"])
