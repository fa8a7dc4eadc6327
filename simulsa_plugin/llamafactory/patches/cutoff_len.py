"""`cutoff_len` against audio: LLaMA-Factory truncates a prompt without regard to the audio tokens in it.

A prompt that has fewer audio tokens than its audio gives ends a training in the middle, with an error of the model that
names neither the row nor the key. Here it ends while the rows are tokenized, with both.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from typing import Any

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.llamafactory.plugin.notices import notify

Encode = Callable[..., tuple[list[int], list[int]]]
_cut: list[tuple[int, int]] = []  # of the batch that is tokenized in this process: tokens of a row, audio tokens lost


def keeping_audio(processor_class: type) -> type:
    """LLaMA-Factory's `SupervisedDatasetProcessor`, which now refuses rows that lose audio tokens."""
    encode: Encode = processor_class._encode_data_example  # type: ignore[attr-defined]

    @functools.wraps(encode)
    def checked(self: Any, *arguments: Any, **row: Any) -> tuple[list[int], list[int]]:
        input_ids, labels = encode(self, *arguments, **row)
        if len(input_ids) >= self.data_args.cutoff_len:
            whole, _ = encode(_without_cutoff(self), *arguments, **row)
            if len(whole) > len(input_ids):
                _cut.append((len(whole), _audio_tokens(self, whole) - _audio_tokens(self, input_ids)))
        return input_ids, labels

    processor_class._encode_data_example = checked  # type: ignore[attr-defined]
    return processor_class


def counting_cut_rows(processor_class: type) -> type:
    """A class with a `preprocess_dataset` of its own, which now says what `cutoff_len` did to a batch of rows.

    Rows that lose only text are a line.

    Raises:
        DatasetError: rows lose audio tokens.
    """
    preprocess: Callable[..., Any] = processor_class.preprocess_dataset  # type: ignore[attr-defined]

    @functools.wraps(preprocess)
    def counted(self: Any, examples: dict[str, list[Any]]) -> Any:
        _cut.clear()
        rows = preprocess(self, examples)
        _judge(self.data_args.cutoff_len, len(examples["_prompt"]))
        return rows

    processor_class.preprocess_dataset = counted  # type: ignore[attr-defined]
    return processor_class


def _judge(cutoff_len: int, rows: int) -> None:
    lost = [tokens for tokens, audio in _cut if audio > 0]
    if lost:
        raise DatasetError(
            f"cutoff_len: {cutoff_len} cuts audio tokens off {len(lost)} of the {rows} rows tokenized together, and "
            f"the training would fail at the first of them. The longest has {max(lost)} tokens: set cutoff_len to that "
            "or more, or leave long audio out."
        )
    if _cut:
        notify(
            f"WARNING: cutoff_len: {cutoff_len} cuts text off {len(_cut)} of the {rows} rows tokenized together; the "
            f"longest has {max(_cut)[0]} tokens. Set cutoff_len to that or more, so that translations end as they do."
        )


def _without_cutoff(processor: Any) -> Any:
    whole = copy.copy(processor)
    whole.data_args = copy.copy(processor.data_args)
    whole.data_args.cutoff_len = sys.maxsize
    return whole


def _audio_tokens(processor: Any, token_ids: list[int]) -> int:
    token = processor.template.mm_plugin.audio_token
    return token_ids.count(processor.tokenizer.convert_tokens_to_ids(token)) if token else 0
